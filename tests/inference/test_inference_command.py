"""The inference command: what it writes, that it goes on where it stopped, and that it refuses early."""

import csv
import gzip
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

import LeFusion.box_painter as painter
import LeFusion.inference.inference as inference
import LeFusion.inference.report as report
from LeFusion.dataset import loading
from LeFusion.runtime.commandline import PROJECT_ROOT
from LeFusion.textures.conditions import Conditions

SCRIPT = PROJECT_ROOT / "LeFusion" / "inference" / "inference.py"
REGION = ["diffusion_depth_size=8", "diffusion_img_size=16", "device=cpu", "preview_cases=1"]
CASES = ["N-0001", "N-0002", "N-0003"]


@pytest.fixture
def paint(lidc, save_network, tmp_path, command):
    """-> paint(*overrides, out="out"): runs the command on the normal cases; (exit code, stdout, stderr)."""
    model = save_network()

    def call(*overrides, out="out"):
        defaults = {
            "model_path": model,
            "dataset_root_dir": lidc / "Normal" / "Image",
            "target_img_path": tmp_path / out / "Image",
            "target_label_path": tmp_path / out / "Mask",
            "num_steps": 2,
        }
        given = {override.split("=", 1)[0] for override in overrides}
        kept = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        return command(inference.main, "inference", *REGION, *kept, *overrides)

    return call


def manifest_of(folder):
    with open(folder / "Image" / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def volumes(content):
    """Of files by name: only the NIfTI files."""
    return {name: data for name, data in content.items() if name.endswith(".nii.gz")}


def raw(path):
    return np.asanyarray(nibabel.load(path).dataobj.get_unscaled())


def assert_refused(result, *texts):
    """Exit code 1 and one line on stderr that holds these texts."""
    code, _, error = result
    lines = [line for line in error.replace("\r", "\n").split("\n") if line.startswith("error: ")]
    assert code == 1 and len(lines) == 1 and "Traceback" not in error, error
    assert error.rstrip().endswith(lines[0]), error
    for text in texts:
        assert str(text) in lines[0], lines[0]


def test_what_a_lesion_is_to_look_like_is_worked_out_once(paint, monkeypatch):
    asked, wanted = Counter(), Conditions.wanted

    def counted(self, loaded, kind, *rest):
        asked[loaded.case.name, kind] += 1
        return wanted(self, loaded, kind, *rest)

    monkeypatch.setattr(Conditions, "wanted", counted)
    code, _, error = paint("condition=realistic", "types=2")
    assert code == 0, error
    assert len(asked) == 6 and set(asked.values()) == {1}


def test_what_is_written(paint, lidc, tmp_path, files):
    code, out, error = paint()
    assert code == 0, error
    assert sorted(files(tmp_path / "out")) == sorted(
        [f"Image/Image_{kind}/{name}_CVol_2.nii.gz" for kind in (1, 2, 3) for name in CASES]
        + [f"Mask/Mask_{kind}/{name}_Mask_2.nii.gz" for kind in (1, 2, 3) for name in CASES]
        + ["Image/manifest.csv", "Image/preview.png", "Image/viewer.html"]
    )
    assert f"wrote {tmp_path / 'out' / 'Image' / 'viewer.html'} (1." in out
    written = files(tmp_path / "out" / "Mask")
    for name in CASES:
        source = nibabel.load(lidc / "Normal" / "Image" / name / f"{name}_CVol_2.nii.gz")
        source_mask = nibabel.load(lidc / "Normal" / "Mask" / name / f"{name}_CMask_2.nii.gz")
        lesion = np.asanyarray(source_mask.dataobj) == 1
        labels = nibabel.load(tmp_path / "out" / "Mask" / "Mask_1" / f"{name}_Mask_2.nii.gz")
        assert labels.get_data_dtype() == np.uint8 and np.array_equal(labels.affine, source.affine)
        assert np.array_equal(np.asanyarray(labels.dataobj), lesion)
        for kind in (2, 3):
            assert written[f"Mask_{kind}/{name}_Mask_2.nii.gz"] == written[f"Mask_1/{name}_Mask_2.nii.gz"]
        painted = [
            nibabel.load(tmp_path / "out" / "Image" / f"Image_{kind}" / f"{name}_CVol_2.nii.gz")
            for kind in (1, 2, 3)
        ]
        for image in painted:
            assert image.header.binaryblock == source.header.binaryblock
            values = raw(image.get_filename())
            assert values.dtype == np.int16
            assert np.array_equal(values[~lesion], raw(source.get_filename())[~lesion])
            assert (values[lesion] != raw(source.get_filename())[lesion]).mean() > 0.9
            assert values[lesion].min() >= -1000 and values[lesion].max() <= 400
        assert not np.array_equal(raw(painted[0].get_filename()), raw(painted[1].get_filename()))
    with Image.open(tmp_path / "out" / "Image" / "preview.png") as preview:
        preview.load()
        assert min(preview.size) > 100
    assert "wrote 9 images" in out and "| images | 3 | 3 | 3 |" in " ".join(out.split())


@pytest.mark.parametrize(
    "condition, heads",
    [
        ("textures", ["source", "mask", "type 1\nImage_1", "type 2\nImage_2"]),
        ("own", ["source", "mask", "its own texture\nImage_1", "its own texture\nImage_2"]),
    ],
)
def test_columns_of_the_preview_are_headed_by_their_texture(paint, monkeypatch, condition, heads):
    drawn = []
    monkeypatch.setattr(report, "save_contact_sheet", lambda *args: drawn.append(args))
    code, _, error = paint(f"condition={condition}", "types=2", "preview_cases=3", "viewer=false")
    assert code == 0, error
    ((_, rows, _, titles, _, _, captions),) = drawn
    assert titles == heads and captions is None and len(rows) == 3


def test_textures_that_are_drawn_stand_below_their_images(paint, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(report, "save_contact_sheet", lambda *args: drawn.append(args))
    paint("condition=mixture", "types=2", "preview_cases=3", "viewer=false", "seed=1")
    (_, _, _, titles, _, _, captions) = drawn[0]
    assert titles[2:] == ["drawn\nImage_1", "drawn\nImage_2"]
    textures = [row["texture"] for row in manifest_of(tmp_path / "out")]
    assert [["", "", *textures[i : i + 2]] for i in (0, 2, 4)] == captions
    assert len(set(textures)) > 1


def test_scores_choose_the_real_lesions_and_are_in_the_manifest(paint, tmp_path):
    assert_refused(paint("texture_score=5", "condition=textures"), "texture_score=5", "condition=realistic")
    assert_refused(paint("calcification=3"), "lidc.json: calcification=3", "no scores of calcification")
    assert paint("texture_score=[1,2]", "types=2", "viewer=false")[0] == 0
    for row in manifest_of(tmp_path / "out"):
        assert row["texture"] == "ground-glass" and row["condition"] == "realistic texture_score=[1, 2]"
        assert (
            row["scores"][:16] in ("texture_score=1 ", "texture_score=2 ") and "spiculation" in row["scores"]
        )


def test_a_table_of_textures_by_case(paint, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("name,texture,type\nN-0001_CVol_2,3,\nN-0002_CVol_2,type 3,1\nN-0004_CVol_2,1,\n")
    assert_refused(paint(f"textures_of={table}"), "t.csv, line 4: there is no case N-0004_CVol_2 in")
    table.write_text("".join(table.read_text().splitlines(True)[:3]))
    assert paint(f"textures_of={table}", "types=2", "viewer=false")[0] == 0
    textures = [row["texture"] for row in manifest_of(tmp_path / "out")]
    assert textures == ["type 3", "type 3", "type 3", "type 2", "type 1", "type 2"]


def test_the_manifest(paint, tmp_path):
    paint("types=2", "seed=7", "sampler=repaint", "num_steps=3")
    rows = manifest_of(tmp_path / "out")
    assert [(row["case"], row["type"]) for row in rows] == [
        (f"{name}_CVol_2", kind) for name in CASES for kind in ("1", "2")
    ]
    for row in rows:
        assert (row["seed"], row["model"], row["weights"]) == ("7", "tiny.safetensors", "ema")
        assert (row["sampler"], row["num_steps"], row["network_calls"]) == ("repaint", "3", "5")
        assert (row["jump_length"], row["jump_n_sample"], row["region"]) == ("2", "2", "whole")
        assert (row["condition"], row["guidance_scale"]) == ("textures", "1.0")
        assert float(row["max_abs_difference_outside"]) == 0
        for column in ("requested_histogram", "obtained_histogram"):
            shares = [float(share) for share in row[column].split()]
            assert len(shares) == 16 and sum(shares) == pytest.approx(1, abs=1e-3)
        name = row["case"].removesuffix("_CVol_2")
        lesion = raw(tmp_path / "LIDC" / "Normal" / "Mask" / name / f"{name}_CMask_2.nii.gz") == 1
        source = raw(tmp_path / "LIDC" / "Normal" / "Image" / name / f"{name}_CVol_2.nii.gz")[lesion]
        painted = raw(tmp_path / "out" / "Image" / f"Image_{row['type']}" / f"{name}_CVol_2.nii.gz")[lesion]
        assert float(row["lesion_mean"]) == pytest.approx(painted.mean(), abs=0.01)
        assert float(row["lesion_sd"]) == pytest.approx(painted.std(), abs=0.01)
        assert float(row["source_mean"]) == pytest.approx(source.mean(), abs=0.01)
        counted, _ = np.histogram(np.clip(painted, -1000, 400), 16, (-1000, 400))
        obtained = [float(share) for share in row["obtained_histogram"].split()]
        assert obtained == pytest.approx(counted / counted.sum(), abs=1e-4)
        assert float(row["wasserstein"]) > 0 and float(row["seconds"]) >= 0
        assert Path(row["image"]).is_file() and Path(row["label"]).is_file()
    requested = {row["requested_histogram"] for row in rows}
    assert len(requested) == len(rows)  # each its own draw


def test_a_second_run_paints_nothing(paint, tmp_path, files, monkeypatch):
    paint("types=2")
    before = files(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(painter, "paint", None)
        code, out, error = paint("types=2")
    assert code == 0 and "0 to paint, 6 kept" in out and "note:" not in out, error
    after = files(tmp_path / "out")
    assert volumes(after) == volumes(before)
    assert after["Image/manifest.csv"] == before["Image/manifest.csv"]


@pytest.mark.parametrize("edited", ["Image/N-0002/N-0002_CVol_2.nii.gz", "Mask/N-0002/N-0002_CMask_2.nii.gz"])
def test_outputs_of_an_edited_scan_or_mask_are_made_again(paint, lidc, tmp_path, files, edited):
    paint("types=2")
    before = files(tmp_path / "out")
    path = lidc / "Normal" / edited
    old = nibabel.load(path)
    voxels = np.asarray(old.dataobj).copy()
    voxels[6, 9, 4] = 1 - voxels[6, 9, 4] if "Mask" in edited else voxels[6, 9, 4] + 500
    nibabel.save(nibabel.Nifti1Image(voxels, old.affine), path)
    code, out, error = paint("types=2")
    assert code == 0 and "2 outputs are stale and are made again" in out and "2 to paint, 4 kept" in out, (
        error
    )
    after = files(tmp_path / "out")
    changed = {name for name in volumes(before) if after[name] != before[name]}
    assert changed and all("N-0002" in name for name in changed)
    code, out, _ = paint("types=2")
    assert code == 0 and "0 to paint, 6 kept" in out and "stale" not in out


@pytest.mark.parametrize("types", [1, 2])
def test_each_source_is_read_once(paint, tmp_path, monkeypatch, types):
    read = Counter()
    real = loading.read_volume

    def counted(path):
        read[Path(path).name] += 1
        return real(path)

    monkeypatch.setattr(loading, "read_volume", counted)
    code, *_ = paint(f"types={types}")
    assert code == 0 and len(read) == 6 and set(read.values()) == {1}


@pytest.mark.parametrize("lost", ["Image/Image_2/N-0002_CVol_2.nii.gz", "Mask/Mask_1/N-0003_Mask_2.nii.gz"])
def test_a_lost_output_is_painted_again_alone(paint, tmp_path, files, monkeypatch, lost):
    paint("types=2")
    before = files(tmp_path / "out")
    (tmp_path / "out" / lost).unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.nii.gz") if path.is_file()}
    code, out, _ = paint("types=2")
    assert code == 0 and "1 to paint, 5 kept" in out
    assert volumes(files(tmp_path / "out")) == volumes(before)
    kind, case = lost.split("/")[1][-1], lost.split("/")[2].split("_")[0]
    for path, time in times.items():
        if path.stat().st_mtime_ns != time:
            assert path.parent.name[-1] == kind and path.name.startswith(case)


def test_overwrite_paints_again(paint, tmp_path, files):
    paint("types=1")
    before = files(tmp_path / "out")
    path = tmp_path / "out" / "Image" / "Image_1" / "N-0001_CVol_2.nii.gz"
    path.write_bytes(b"damaged")
    code, out, _ = paint("types=1", "overwrite=true")
    assert code == 0 and "3 to paint, 0 kept" in out
    assert volumes(files(tmp_path / "out")) == volumes(before)


@pytest.mark.parametrize("region", ["whole", "lesion"])
def test_the_batch_size_does_not_change_a_byte(paint, tmp_path, files, region):
    written = []
    for size in (1, 4):
        code, _, error = paint(f"region={region}", f"batch_size={size}", "types=2", "margin=2", out=str(size))
        assert code == 0, error
        written.append(volumes(files(tmp_path / str(size))))
        assert {row["region"] for row in manifest_of(tmp_path / str(size))} == {region}
    assert written[0] == written[1] and len(written[0]) == 12


def test_an_output_does_not_depend_on_the_other_cases(paint, tmp_path, files, lidc):
    paint("types=2")
    (lidc / "Normal" / "Image" / "N-0001" / "N-0001_CVol_2.nii.gz").unlink()
    paint("types=2", out="fewer")
    together, alone = (volumes(files(tmp_path / name)) for name in ("out", "fewer"))
    assert alone == {name: content for name, content in together.items() if "N-0001" not in name}


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "weights=model",
        "condition=own",
        "histogram_perturbation=0.5",
        "guidance_scale=3",
        "region=lesion",
        "schedule_jump_params.jump_n_sample=2",
        "sampler=dpmpp",
        "spacing=trailing",
        "eta=1",
    ],
)
def test_another_setting_gives_other_voxels_and_makes_outputs_again(paint, tmp_path, files, change):
    paint("types=1", "num_steps=4", "margin=1", "textures=[[0,0,0,0,0,0,0,0,0,0,1,1,1,1,0,0]]")
    before = files(tmp_path / "out")
    extra = ["types=1", "num_steps=4", "margin=1", "textures=[[0,0,0,0,0,0,0,0,0,0,1,1,1,1,0,0]]", change]
    code, out, error = paint(*extra)
    assert code == 0 and "3 outputs are stale and are made again" in out and "0 kept" in out, error
    after = files(tmp_path / "out")
    assert all(after[name] != before[name] for name in volumes(before) if name.startswith("Image/"))


@pytest.mark.parametrize(
    "sampler, calls",
    [
        (["sampler=repaint", "num_steps=null"], 10),
        (["sampler=ddim", "num_steps=3"], 3),
        (["sampler=dpmpp", "num_steps=4"], 4),
        (["sampler=dpmpp", "num_steps=4", "guidance_scale=2"], 8),
        (["sampler=ddim", "num_steps=2", "precision=bf16"], 2),
    ],
)
def test_every_sampler_runs(paint, tmp_path, sampler, calls):
    code, out, error = paint("types=1", *sampler)
    assert code == 0 and f"{calls} network calls each" in out, error
    assert {row["network_calls"] for row in manifest_of(tmp_path / "out")} == {str(calls)}


def test_own_condition_on_the_test_cases(paint, tmp_path, lidc, files):
    code, _, error = paint(
        f"dataset_root_dir={lidc / 'Pathological'}",
        f"test_txt_dir={lidc / 'Pathological' / 'test.txt'}",
        "split=test",
        "condition=own",
        "types=5",
    )
    assert code == 0, error
    written = volumes(files(tmp_path / "out"))
    assert sorted(written) == sorted(
        [f"Image/Image_{kind}/P-0004_Vol_1.nii.gz" for kind in range(1, 6)]
        + [f"Mask/Mask_{kind}/P-0004_Mask_1.nii.gz" for kind in range(1, 6)]
    )
    folder = lidc / "Pathological"
    source = raw(folder / "Image" / "P-0004" / "P-0004_Vol_1.nii.gz")
    lesion = raw(folder / "Mask" / "P-0004" / "P-0004_Mask_1.nii.gz") == 1
    counts, _ = np.histogram(np.clip(source[lesion], -1000, 400), 16, (-1000, 400))
    for row in manifest_of(tmp_path / "out"):
        requested = [float(share) for share in row["requested_histogram"].split()]
        assert requested == pytest.approx(counts / counts.sum(), abs=1e-4)


def test_test_cases_are_left_out(paint, tmp_path, lidc):
    code, _, error = paint(
        f"dataset_root_dir={lidc / 'Pathological'}",
        f"test_txt_dir={lidc / 'Pathological' / 'test.txt'}",
        "types=1",
    )
    assert code == 0, error
    cases = [row["case"] for row in manifest_of(tmp_path / "out")]
    assert cases == ["P-0001_Vol_1", "P-0002_Vol_1", "P-0003_Vol_1"]


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
    "unknown label": (mask_of, lambda path: rewrite(path, set_voxel(7, np.uint8)), "7"),
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
    assert_refused(paint("types=1"), "N-0002")
    code, out, error = paint("types=1", "skip_bad_cases=true")
    assert code == 0, error
    assert "1 cases skipped" in out and [line for line in out.split("\n") if line.startswith("skipped: ")]
    assert {row["case"] for row in manifest_of(tmp_path / "out")} == {"N-0001_CVol_2", "N-0003_CVol_2"}


def test_intensity_guidance_comes_from_the_weights_unless_given(paint, save_network, tmp_path):
    guided = save_network("guided.safetensors", intensity_guidance=1.0)
    for folder, overrides, used in (
        ("a", [], "1.0"),
        ("b", ["intensity_guidance=0"], "0"),
        ("c", ["intensity_guidance=0.5"], "0.5"),
    ):
        code, _, error = paint(
            f"model_path={guided}", "types=1", f"target_img_path={tmp_path}/{folder}", *overrides
        )
        assert code == 0, error
        with open(tmp_path / folder / "manifest.csv", newline="") as file:
            assert {row["intensity_guidance"] for row in csv.DictReader(file)} == {used}
    images = [next((tmp_path / folder / "Image_1").glob("*.nii.gz")).read_bytes() for folder in "abc"]
    assert len(set(images)) == 3


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
        (["split=test"], ["test.txt"]),
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


def volumes_below(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".nii.gz")]


def test_an_interrupted_run_goes_on(paint, tmp_path, files, monkeypatch):
    paint("types=2", out="unbroken")
    batches = 0

    def interrupted(*arguments):
        nonlocal batches
        batches += 1
        if batches == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    real = painter.paint
    with monkeypatch.context() as patch:
        patch.setattr(painter, "paint", interrupted)
        with pytest.raises((KeyboardInterrupt, AssertionError)):
            code, *_ = paint("types=2", "batch_size=2")
            assert code == 0
    expected, partial = volumes(files(tmp_path / "unbroken")), volumes(files(tmp_path / "out"))
    assert len(partial) == 4 and all(expected[name] == content for name, content in partial.items())
    part = tmp_path / "out" / "Image" / "manifest.part-0-of-1.jsonl"
    assert len(part.read_text().splitlines()) == 2
    code, out, error = paint("types=2", "batch_size=2")
    assert code == 0 and "4 to paint, 2 kept" in out, error
    assert volumes(files(tmp_path / "out")) == expected
    assert len(manifest_of(tmp_path / "out")) == 6 and not part.exists()
    measured = [row["case"] for row in manifest_of(tmp_path / "out") if row["seconds"]]
    assert len(measured) == 6  # those before the kill as well


def test_a_lost_manifest_is_made_again(paint, tmp_path):
    paint("types=1")
    before = manifest_of(tmp_path / "out")
    (tmp_path / "out" / "Image" / "manifest.csv").unlink()
    paint("types=1")
    after = manifest_of(tmp_path / "out")
    assert [row | {"seconds": "", "made_from": ""} for row in before] == after  # neither is known any more


def test_a_foreign_manifest_is_left_alone(paint, tmp_path):
    path = tmp_path / "out" / "Image" / "manifest.csv"
    path.parent.mkdir(parents=True)
    path.write_text("a,b\n1,2\n")
    assert_refused(paint(), path)
    assert path.read_text() == "a,b\n1,2\n"


@pytest.fixture
def made_masks(lidc, tmp_path):
    """Masks as DiffMask writes them: two for the first image, one for the second, none for the third."""
    for case, start, number in (
        (CASES[0], (1, 2, 3), 1),
        (CASES[0], (4, 9, 11), 2),
        (CASES[1], (3, 8, 9), 1),
    ):
        source = nibabel.load(lidc / "Normal" / "Image" / case / f"{case}_CVol_2.nii.gz")
        mask = np.zeros(source.shape, np.uint8)
        mask[tuple(slice(s, s + 3) for s in start)] = 1
        path = tmp_path / "made" / f"{case}_CVol_2_GenMask_{number}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(mask, source.affine), path)
    return tmp_path / "made"


def test_an_image_is_painted_under_each_mask_made_for_it(paint, lidc, made_masks, tmp_path, files):
    code, out, error = paint(f"mask_dir={made_masks}", "types=2", "skip_bad_cases=true")
    assert code == 0 and "3 cases x 2 types: 6 to paint" in out, error
    assert "1 cases skipped" in out and CASES[2] in out
    stems = [(CASES[0], 1), (CASES[0], 2), (CASES[1], 1)]
    assert sorted(volumes(files(tmp_path / "out"))) == sorted(
        [f"Image/Image_{k}/{c}_CVol_2_GenMask_{n}.nii.gz" for k in (1, 2) for c, n in stems]
        + [f"Mask/Mask_{k}/{c}_Mask_2_GenMask_{n}.nii.gz" for k in (1, 2) for c, n in stems]
    )
    for case, number in stems:
        source = raw(lidc / "Normal" / "Image" / case / f"{case}_CVol_2.nii.gz")
        lesion = raw(made_masks / f"{case}_CVol_2_GenMask_{number}.nii.gz") == 1
        for kind in (1, 2):
            folder = tmp_path / "out" / "Image" / f"Image_{kind}"
            painted = raw(folder / f"{case}_CVol_2_GenMask_{number}.nii.gz")
            assert np.array_equal(painted[~lesion], source[~lesion])
            assert (painted[lesion] != source[lesion]).mean() > 0.8
            folder = tmp_path / "out" / "Mask" / f"Mask_{kind}"
            label = raw(folder / f"{case}_Mask_2_GenMask_{number}.nii.gz")
            assert np.array_equal(label == 1, lesion)
    requested = {row["case"]: row["requested_histogram"] for row in manifest_of(tmp_path / "out")}
    assert len(requested) == 3 and len(set(requested.values())) == 3  # each its own draw
    code, out, _ = paint(f"mask_dir={made_masks}", "types=2", "skip_bad_cases=true")
    assert code == 0 and "0 to paint, 6 kept" in out and "note:" not in out


def test_one_image_is_painted_with_a_folder_of_masks(paint, lidc, made_masks, tmp_path, files):
    image = lidc / "Normal" / "Image" / CASES[1] / f"{CASES[1]}_CVol_2.nii.gz"
    code, _, error = paint(f"mask_dir={made_masks}", f"dataset_root_dir={image}", "types=1")
    assert code == 0, error
    alone = volumes(files(tmp_path / "out"))
    assert sorted(alone) == [
        f"Image/Image_1/{CASES[1]}_CVol_2_GenMask_1.nii.gz",
        f"Mask/Mask_1/{CASES[1]}_Mask_2_GenMask_1.nii.gz",
    ]
    paint(f"mask_dir={made_masks}", "types=1", "skip_bad_cases=true", out="all")
    assert alone.items() < volumes(files(tmp_path / "all")).items()  # the same voxels among others


def test_masks_elsewhere_give_what_they_give_beside_the_images(paint, lidc, tmp_path, files):
    paint("types=1")
    (lidc / "Normal" / "Mask").rename(tmp_path / "elsewhere")
    assert_refused(paint("types=1", out="none"), lidc / "Normal" / "Mask")
    code, _, error = paint("types=1", f"mask_dir={tmp_path / 'elsewhere'}", out="other")
    assert code == 0, error
    assert volumes(files(tmp_path / "other")) == volumes(files(tmp_path / "out"))


def test_a_missing_folder_of_masks_is_refused(paint, made_masks, tmp_path):
    assert_refused(paint(f"mask_dir={tmp_path / 'nowhere'}"), tmp_path / "nowhere", "no such folder")
    assert_refused(paint(f"mask_dir={made_masks}"), CASES[2], "missing")
    assert not (tmp_path / "out").exists()


def test_a_whole_ct_is_painted_on_voxels_of_a_millimetre(paint, save_network, tmp_path):
    """data_type=chest_ct: any name, slices last, with a network that was trained on voxels as stored."""
    scan, lesion = np.full((30, 28, 12), -850, np.int16), np.zeros((30, 28, 12), np.uint8)
    scan += np.random.default_rng(0).integers(-50, 50, scan.shape).astype(np.int16)
    lesion[10:16, 9:14, 4:7] = 1
    affine = np.array([[0, 0.8, 0, 5], [-0.7, 0, 0, -3], [0, 0, -2.0, 70], [0, 0, 0, 1.0]])
    for name, array in (("scans/any name.nii", scan), ("made/any name_GenMask_1.nii.gz", lesion)):
        (tmp_path / name).parent.mkdir()
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / name)
    network = save_network("stored.safetensors", spacing_mm=None)
    code, _, error = paint(
        "data_type=chest_ct",
        f"model_path={network}",
        f"dataset_root_dir={tmp_path / 'scans'}",
        f"mask_dir={tmp_path / 'made'}",
        "types=1",
    )
    assert code == 0, error
    out = tmp_path / "out"
    image = nibabel.load(out / "Image" / "Image_1" / "any name_GenMask_1.nii")
    assert np.array_equal(image.affine, nibabel.load(tmp_path / "scans" / "any name.nii").affine)
    painted = np.asanyarray(image.dataobj)
    assert np.array_equal(painted[lesion == 0], scan[lesion == 0])
    assert (painted[lesion == 1] != scan[lesion == 1]).mean() > 0.8
    assert np.array_equal(raw(out / "Mask" / "Mask_1" / "any name_GenMask_1.nii"), lesion)
    other = save_network("two_mm.safetensors", spacing_mm=[2, 2, 2])
    refused = paint("data_type=chest_ct", f"model_path={other}", f"mask_dir={tmp_path / 'made'}", out="x")
    assert_refused(refused, other, "spacing_mm")


@pytest.mark.parametrize("overrides", [["data_type=lidcc"], ["sampler=nonsense"], ["batchsize=4"]])
def test_a_misspelt_name_is_refused(command_line, tmp_path, overrides):
    code, _, error = command_line(inference.main, f"target_img_path={tmp_path / 'out'}", *overrides)
    assert code == 1 and overrides[0].split("=")[overrides != ["batchsize=4"]] in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_known_command_line_from_another_folder(lidc, save_network, tmp_path):
    """The command of the reference implementation's users, as a process of its own, with relative paths."""
    save_network(schedule={"kind": "cosine", "num_steps": 20})
    elsewhere = tmp_path / "else" / "where"
    elsewhere.mkdir(parents=True)
    command = [
        sys.executable,
        SCRIPT,
        "data_type=lidc",
        "model_path=../../tiny.safetensors",
        "dataset_root_dir=../../LIDC/Pathological/Image",
        "test_txt_dir=../../LIDC/Pathological/test.txt",
        "target_img_path=gen/Image",
        "target_label_path=gen/Mask",
        "batch_size=4",
        "types=3",
        "cond_dim=16",
        "schedule_jump_params.jump_length=2",
        "schedule_jump_params.jump_n_sample=2",
        *REGION,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(volumes_below(elsewhere / "gen" / "Image")) == 9
    assert (elsewhere / "gen" / "Mask" / "Mask_3" / "P-0003_Mask_1.nii.gz").is_file()
    assert sorted(path.name for path in elsewhere.iterdir()) == ["gen"]  # nothing of Hydra's
    misspelt = subprocess.run(
        [*command, "data_tpye=lidc"], cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert misspelt.returncode == 1 and "data_tpye" in misspelt.stderr


# --- several processes ----------------------------------------------------------


def without_times(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "image", "label")} for row in rows]


def test_jobs_of_an_array_do_what_one_does(paint, tmp_path, files):
    paint(out="one")
    for job in (2, 0, 1):
        code, out, error = paint("shards=3", f"shard={job}", "types=3")
        assert code == 0 and "3 to paint, 0 kept" in out and "joins them" in out, error
    assert not (tmp_path / "out" / "Image" / "manifest.csv").exists()
    code, out, error = paint()
    assert code == 0 and "0 to paint, 9 kept" in out, error
    assert volumes(files(tmp_path / "out")) == volumes(files(tmp_path / "one"))
    one, out = manifest_of(tmp_path / "one"), manifest_of(tmp_path / "out")
    assert without_times(one) == without_times(out) and all(row["seconds"] for row in out)
    assert sorted(files(tmp_path / "out")) == sorted(files(tmp_path / "one"))  # no part is left


def test_a_job_that_dies_and_starts_again_loses_and_repeats_nothing(paint, tmp_path, files, monkeypatch):
    paint("types=2", out="one")
    painted = []

    def dying(*arguments):
        if len(painted) == 1:
            raise KeyboardInterrupt
        painted.append(arguments)
        return real(*arguments)

    real = painter.paint
    with monkeypatch.context() as patch:
        patch.setattr(painter, "paint", dying)
        with pytest.raises(KeyboardInterrupt):
            paint("types=2", "shards=2", "shard=0", "batch_size=1")
    assert paint("types=2", "shards=2", "shard=1")[0] == 0  # the other job neither waits nor takes over
    assert len(volumes(files(tmp_path / "out"))) == 2 + 4
    code, out, _ = paint("types=2", "shards=2", "shard=0")
    assert code == 0 and "3 to paint, 1 kept" in out
    paint("types=2")
    assert volumes(files(tmp_path / "out")) == volumes(files(tmp_path / "one"))
    assert without_times(manifest_of(tmp_path / "out")) == without_times(manifest_of(tmp_path / "one"))


@pytest.mark.parametrize("given", [("shards=2", "shard=2"), ("shards=0",), ("shard=-1", "shards=2")])
def test_shares_that_do_not_exist_are_refused(paint, given):
    assert_refused(paint(*given), "shard")


def test_two_processes_write_what_one_writes(paint, lidc, tmp_path, files):
    paint("types=2", out="one")
    model = next(tmp_path.glob("*.safetensors"))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *(SCRIPT, *REGION, f"model_path={model}", f"dataset_root_dir={lidc / 'Normal' / 'Image'}"),
        *(f"target_img_path={tmp_path / 'two' / 'Image'}", f"target_label_path={tmp_path / 'two' / 'Mask'}"),
        *("num_steps=2", "types=2", "device=auto"),
    ]
    result = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("wrote 6 images") == 1, result.stdout
    assert volumes(files(tmp_path / "two")) == volumes(files(tmp_path / "one"))
    assert sorted(files(tmp_path / "two")) == sorted(files(tmp_path / "one"))
    rows = manifest_of(tmp_path / "two")
    assert without_times(rows) == without_times(manifest_of(tmp_path / "one"))
    assert {row["case"] for row in rows} == {f"{name}_CVol_2" for name in CASES}


# --- memory ---------------------------------------------------------------------


def test_memory_that_runs_out_changes_no_voxel(paint, tmp_path, files, monkeypatch):
    paint("types=2", out="one")
    real = painter.paint

    def full(network, schedule, sampler, image, *rest):
        if len(image) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(network, schedule, sampler, image, *rest)

    monkeypatch.setattr(painter, "paint", full)
    code, out, error = paint("types=2", "batch_size=4")
    assert code == 0, error
    assert "out of memory with 4 samples at once; going on with 2" in out and "going on with 1" in out
    assert volumes(files(tmp_path / "out")) == volumes(files(tmp_path / "one"))


def test_one_image_too_large_for_memory_says_what_needs_least(paint, monkeypatch, tmp_path, files):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(painter, "paint", full)
    assert_refused(paint(), "one sample at a time", "try precision=bf16 region=lesion, which needs least")
    assert not volumes(files(tmp_path / "out"))
