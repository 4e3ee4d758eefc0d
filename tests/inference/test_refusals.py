"""What the inference command refuses, in one line, before anything is painted."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from painted_regions import manifest_of, volumes_below
from refusals import assert_refused

import LeFusion.box_painter as painter
import LeFusion.inference.inference as inference


def rewrite(path, change):
    """A NIfTI file again with its voxels changed."""
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(change(np.asanyarray(image.dataobj)), image.affine), path)


def set_voxel(value, dtype):
    def change(array):
        array = array.astype(dtype)
        array[0, 0, 0] = value
        return array

    return change


def mask_of(lidc):
    return lidc / "Normal" / "Mask" / "N-0002" / "N-0002_CMask_2.nii.gz"


def image_of(lidc):
    return lidc / "Normal" / "Image" / "N-0002" / "N-0002_CVol_2.nii.gz"


BAD_CASES = {
    "empty mask": (mask_of, lambda path: rewrite(path, lambda a: a * 0), "no lesion voxel"),
    "unknown label": (
        mask_of,
        lambda path: rewrite(path, set_voxel(7, np.uint8)),
        "0, 1 (layout.lesion_labels",
    ),
    "other shape": (mask_of, lambda path: rewrite(path, lambda a: a[:, :, 1:]), "shape"),
    "NaN": (image_of, lambda path: rewrite(path, set_voxel(np.nan, np.float32)), "1 NaN"),
    "cut": (image_of, lambda path: path.write_bytes(path.read_bytes()[:300]), "damaged gzip"),
    "no NIfTI": (image_of, lambda path: path.write_bytes(gzip.compress(b"hello")), "not a NIfTI"),
    "too large": (mask_of, lambda path: rewrite(path, lambda a: a * 0 + 1), "lesion spans (9, 20, 21)"),
}


@pytest.mark.parametrize("bad", BAD_CASES)
def test_a_bad_case_stops_the_run_before_anything_is_written(paint, lidc, tmp_path, bad):
    file_of, damage, text = BAD_CASES[bad]
    damage(file_of(lidc))
    assert_refused(paint("types=1"), file_of(lidc), text, "skip_bad_cases=true")
    assert not (tmp_path / "out").exists()


def test_bad_cases_are_skipped_on_request(paint, lidc, tmp_path):
    for bad in ("empty mask", "cut"):
        file_of, damage, _ = BAD_CASES[bad]
        damage(Path(str(file_of(lidc)).replace("N-0002", "N-0001" if bad == "cut" else "N-0002")))
    code, out, error = paint("types=2", "skip_bad_cases=true")
    assert code == 0, error
    skipped = [line for line in out.split("\n") if line.startswith("skipped: ")]
    assert len(skipped) == 2 and "N-0001_CVol_2.nii.gz" in skipped[0] and "N-0002_CMask" in skipped[1]
    assert "2 cases skipped" in out
    assert {row["case"] for row in manifest_of(tmp_path / "out")} == {"N-0003_CVol_2"}


def test_an_image_without_mask_is_skipped_on_request_only(paint, lidc, tmp_path):
    next((lidc / "Normal" / "Mask").rglob("N-0002_*")).unlink()
    assert_refused(paint("types=1"), "N-0002", "skip_bad_cases=true")
    code, out, error = paint("types=1", "skip_bad_cases=true")
    assert code == 0, error
    assert "1 cases skipped" in out and [line for line in out.split("\n") if line.startswith("skipped: ")]
    assert {row["case"] for row in manifest_of(tmp_path / "out")} == {"N-0001_CVol_2", "N-0003_CVol_2"}


def test_only_bad_cases_is_an_error(paint, lidc):
    for mask in (lidc / "Normal" / "Mask").rglob("*.nii.gz"):
        rewrite(mask, lambda array: array * 0)
    assert_refused(paint("skip_bad_cases=true"), "no usable case", "no lesion voxel")


@pytest.mark.parametrize(
    "overrides, texts",
    [
        (["model_path=nowhere.safetensors"], ["nowhere.safetensors", "does not exist"]),
        (["model_path="], ["model_path"]),
        (["dataset_root_dir=nowhere"], ["nowhere", "dataset_root_dir"]),
        (["dataset_root_dir=null"], ["dataset_root_dir"]),
        (["target_img_path="], ["target_img_path"]),
        (["test_txt_dir=nowhere.txt"], ["nowhere.txt"]),
        (["split=test"], ["test_txt_dir"]),
        (["split=some"], ["some"]),
        (["types=4"], ["types=4", "3 textures"]),
        (["types=0"], ["types=0"]),
        (["types=two"], ["types=two"]),
        (["batch_size=0"], ["batch_size=0"]),
        (["preview_cases=0"], ["preview_cases=0"]),
        (["margin=-1"], ["margin=-1"]),
        (["device=nonsense"], ["device=nonsense must be auto, cpu"]),
        (["precision=fp8"], ["precision=fp8 must be one of no"]),
        (["weights=raw"], ["weights=raw"]),
        (["cond_dim=8"], ["cond_dim=8 must be 16", "1 classes x 16 bins"]),
        (["diffusion_num_channels=2"], ["diffusion_num_channels=2 must be 1"]),
        (["layout.lesion_labels=[1,2]"], ["needs diffusion_num_channels=1, got 2"]),
        (["histogram_bins=8"], ["needs histogram_bins=16, got 8"]),
        (["window=[-500,500]"], ["window"]),
        (["diffusion_img_size=20"], ["diffusion_img_size=20", "multiple of 8"]),
        (["region=everything"], ["region=everything"]),
        (["condition=mine"], ["condition='mine'"]),
        (["histogram_perturbation=1.5"], ["histogram_perturbation=1.5"]),
        (["histogram_perturbation=some"], ["histogram_perturbation=some"]),
        (["guidance_scale=high"], ["guidance_scale=high"]),
        (["num_steps=7"], ["num_steps=7", "1..6"]),
        (["num_steps=0"], ["num_steps=0"]),
        (["num_steps=few"], ["num_steps=few"]),
        (["schedule_jump_params.jump_length=0"], ["jump_length=0"]),
        (["schedule_jump_params.jump_n_sample=x"], ["jump_n_sample=x"]),
        (["textures=[[1,2,3]]", "types=1"], ["3 bins", "16"]),
        (["texture_shares=[1,0,0]"], ["texture_shares=[1", "is read with condition=mixture or realistic"]),
        (["reference_image=a.nii.gz"], ["reference_image=a.nii.gz is read with condition=reference"]),
        (["reference_mask=a.nii.gz", "condition=own"], ["not with condition=own"]),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(paint, tmp_path, overrides, texts):
    assert_refused(paint(*overrides), *texts)
    assert not (tmp_path / "out").exists()


def test_a_network_for_something_else_is_refused(paint, save_network, tmp_path):
    heart = save_network("heart.safetensors", data_type="emidec")
    assert_refused(paint(f"model_path={heart}"), heart, "emidec", "data_type=lidc")
    two = save_network("two.safetensors", in_channels=2)
    assert_refused(paint(f"model_path={two}"), two, "diffusion_num_channels=2")
    fine = save_network("fine.safetensors", bins=32)
    assert_refused(paint(f"model_path={fine}"), fine, "histogram_bins=32")
    plain = save_network("plain.safetensors", loss={"cond_dropout": 0.0})
    assert_refused(paint(f"model_path={plain}", "guidance_scale=2"), plain, "guidance_scale=2")
    for metadata in ({"region": "half"}, {"prediction": "x0"}, {"schedule": {"kind": "linear"}}):
        odd = save_network("odd.safetensors", **metadata)
        assert_refused(paint(f"model_path={odd}"), odd, *metadata)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(heart.read_bytes()[:5000])
    assert_refused(paint(f"model_path={damaged}"), damaged, "damaged")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["target_img_path", "target_label_path"])
def test_a_target_below_a_file_is_refused(paint, tmp_path, key):
    (tmp_path / "file").write_text("")
    assert_refused(paint(f"{key}={tmp_path / 'file' / 'deep' / 'er'}"), key, tmp_path / "file")
    assert not (tmp_path / "out").exists()


def test_a_source_is_never_a_target(paint, case_writer, tmp_path, files):
    root = tmp_path / "own"
    case_writer(root, "Image_1/A_Vol_1.nii.gz", "Mask_1/A_Mask_1.nii.gz")
    before = files(root)
    around = root / "Mask" / ".." / "Image"  # another way to say root/Image
    assert_refused(
        paint(f"dataset_root_dir={root}", f"target_img_path={around}"), "source", "target_img_path"
    )
    around = root / "Image" / ".." / "Mask"
    assert_refused(
        paint(f"dataset_root_dir={root}", f"target_label_path={around}"), "source", "target_label_path"
    )
    assert files(root) == before


def test_two_cases_with_one_label_name_are_refused(paint, case_writer, tmp_path):
    root = tmp_path / "own"
    case_writer(root, "A_CVol_1.nii.gz", "A_CMask_1.nii.gz")
    case_writer(root, "A_Vol_1.nii.gz", "A_Mask_1.nii.gz")
    assert_refused(paint(f"dataset_root_dir={root}"), "A_Mask_1.nii.gz", "A_CVol_1", "A_Vol_1")


def test_a_missing_mask_is_named(paint, lidc, tmp_path):
    mask_of(lidc).unlink()
    assert_refused(paint(), mask_of(lidc), "missing")
    assert not (tmp_path / "out").exists()


def test_a_network_that_computes_no_number_is_refused(paint, tmp_path, save_network, monkeypatch):
    monkeypatch.setattr(painter, "paint", lambda *a: a[3] * float("nan"))
    assert_refused(paint(), "not finite")
    assert not volumes_below(tmp_path / "out")


@pytest.mark.parametrize("overrides", [["data_type=lidcc"], ["sampler=nonsense"], ["batchsize=4"]])
def test_a_misspelt_name_is_refused(command_line, tmp_path, overrides):
    code, _, error = command_line(inference.main, f"target_img_path={tmp_path / 'out'}", *overrides)
    assert code == 1 and overrides[0].split("=")[overrides != ["batchsize=4"]] in error
    assert not (tmp_path / "out").exists()
