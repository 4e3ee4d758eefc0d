import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

import LeFusion.inference.inference as inference
from evaluation_pipeline.cases.patients import case_name, split_folds
from evaluation_pipeline.prepare_real_dataset import main
from LeFusion.dataset.scans import read_volume, write_volume


@pytest.fixture
def prepare(lidc, tmp_path, capsys):
    """-> prepare(*options): (exit code, stdout, stderr) of the command on the sick cases of `lidc`."""
    sick = lidc / "Pathological"
    given = {
        "source_image_dir": sick / "Image",
        "source_mask_dir": sick / "Mask",
        "test_txt_path": sick / "test.txt",
        "output_dir": tmp_path / "real",
    }

    def call(*options, **changed) -> tuple[int, str, str]:
        arguments = [part for name, path in (given | changed).items() for part in (f"--{name}", str(path))]
        code = 0
        try:
            main([*arguments, *options])
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    call.output, call.source = given["output_dir"], sick
    return call


def verify_as_nnunet_does(folder):
    """What nnunetv2's verify_dataset_integrity asks for, by nibabel; run against the original for the shared
    data sets."""
    content = json.loads((folder / "dataset.json").read_text())
    assert {"labels", "channel_names", "numTraining", "file_ending"} <= set(content)
    expected = sorted(content["labels"].values())
    assert expected == list(range(len(expected))) and content["labels"]["background"] == 0
    images = sorted((folder / "imagesTr").glob(f"*{content['file_ending']}"))
    assert len(images) == content["numTraining"] > 0
    for split in ("Tr", "Ts"):
        images = sorted((folder / f"images{split}").iterdir())
        labels = sorted((folder / f"labels{split}").iterdir())
        assert [p.name.removesuffix("_0000.nii.gz") for p in images] == [
            p.name.removesuffix(".nii.gz") for p in labels
        ]
        for image_path, label_path in zip(images, labels, strict=True):
            image, label = nibabel.load(image_path), nibabel.load(label_path)
            assert image.shape == label.shape and np.allclose(image.affine, label.affine)
            assert np.isfinite(image.get_fdata()).all()
            assert set(np.unique(label.get_fdata())) <= set(expected)


def test_the_layout_is_nnunets_and_the_voxels_are_the_sources(prepare):
    code, out, err = prepare()
    assert code == 0, err
    assert "3 training and 1 test cases, 8 files written now" in out
    verify_as_nnunet_does(prepare.output)
    source = nibabel.load(prepare.source / "Image/P-0001/P-0001_Vol_1.nii.gz")
    copy = nibabel.load(prepare.output / "imagesTr/P-0001_Vol_1_0000.nii.gz")
    assert np.array_equal(np.asarray(source.dataobj), np.asarray(copy.dataobj))
    assert np.array_equal(source.affine, copy.affine) and copy.get_data_dtype() == np.int16
    mask = nibabel.load(prepare.output / "labelsTs/P-0004_Vol_1.nii.gz")
    source = nibabel.load(prepare.source / "Mask/P-0004/P-0004_Mask_1.nii.gz")
    assert np.array_equal(mask.get_fdata(), source.get_fdata()) and mask.get_data_dtype() == np.uint8


@pytest.fixture
def painted(lidc, command, save_network, tmp_path, monkeypatch) -> Path:
    """What the command paints into the healthy cases of `lidc`, with two types each."""
    monkeypatch.setattr(inference, "save_preview", lambda path, *_: path)
    sizes = ("diffusion_depth_size=8", "diffusion_img_size=16", "num_steps=1", "device=cpu", "viewer=false")
    out = tmp_path / "out"
    places = (f"target_img_path={out / 'Image'}", f"target_label_path={out / 'Mask'}", "types=2")
    given = (f"model_path={save_network()}", f"dataset_root_dir={lidc / 'Normal'}")
    code, _, error = command(inference.main, "inference", *sizes, *places, *given)
    assert code == 0, error
    return out


def test_painted_images_are_training_cases(prepare, painted, capsys, tmp_path):
    only = tmp_path / "nnUNet_raw" / "Dataset101_Painted"
    for _ in range(2):
        main(["--synthetic_data_dir", str(painted), "--output_dir", str(only)])
    assert "6 training and 0 test cases, 0 files written now" in capsys.readouterr().out
    code, out, err = prepare("--synthetic_data_dir", str(painted))
    assert (code, "9 training and 1 test cases, 20 files written now" in out) == (0, True), err
    for folder in (only, prepare.output):
        verify_as_nnunet_does(folder)
        for kind in (1, 2):
            for name, source in (
                (f"imagesTr/N-0001_CVol_2_painted_{kind}_0000", f"Image/Image_{kind}/N-0001_CVol_2"),
                (f"labelsTr/N-0001_CVol_2_painted_{kind}", f"Mask/Mask_{kind}/N-0001_*Mask_2"),
            ):
                copy, made = (
                    nibabel.load(folder / f"{name}.nii.gz"),
                    nibabel.load(next(painted.glob(f"{source}*"))),
                )
                assert np.array_equal(copy.dataobj, made.dataobj) and np.array_equal(copy.affine, made.affine)
        (fold,) = (
            one
            for one in split_folds(map(case_name, (folder / "labelsTr").iterdir()), 3)
            if any("N-0001" in n for n in one)
        )
        assert {name for name in fold if "N-0001" in name} == {
            f"N-0001_CVol_2_painted_{kind}" for kind in (1, 2)
        }


def test_painted_images_that_do_not_fit_are_refused(prepare, painted, tmp_path, capsys):
    (prepare.source / "test.txt").write_text("P-0004_Vol_1\n")
    for path in list(painted.rglob("N-0002*")):
        path.rename(path.with_name(path.name.replace("N-0002", "P-0004")))
    manifest = painted / "Image" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("N-0002", "P-0004"))
    code, _, err = prepare("--synthetic_data_dir", str(painted))
    assert code == 1 and "was made from a test case" in err and not prepare.output.exists()
    twice = ["--synthetic_data_dir", str(painted), str(painted), "--output_dir", str(tmp_path / "twice")]
    for arguments, said in (
        (twice, "there is a case of this name and type already"),
        (["--output_dir", str(tmp_path / "none")], "or none of them and --synthetic_data_dir"),
        (["--output_dir", str(painted), "--synthetic_data_dir", str(painted)], "--output_dir"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert said in capsys.readouterr().err
    assert not (tmp_path / "twice").exists()


def test_a_second_run_completes_and_changes_nothing(prepare, files):
    prepare()
    before = files(prepare.output)
    (prepare.output / "imagesTr/P-0002_Vol_1_0000.nii.gz").unlink()
    (prepare.output / "dataset.json").unlink()
    code, out, _ = prepare()
    assert code == 0 and "1 files written now" in out
    assert files(prepare.output) == before


def test_sources_of_other_formats_are_the_same_data_set(prepare, files):
    for path in list(prepare.source.rglob("*.nii.gz")):
        volume, name = read_volume(path), path.name.removesuffix(".nii.gz")
        affine = volume.affine.copy()
        affine[:3, 3] += 1 / 3  # which no NIfTI file holds to the last digit
        write_volume(replace(volume, path=path.with_name(f"{name}.mha"), affine=affine))
        path.unlink()
    code, out, err = prepare()
    assert code == 0 and "8 files written now" in out, err
    verify_as_nnunet_does(prepare.output)
    before = files(prepare.output)
    code, out, _ = prepare()
    assert code == 0 and "0 files written now" in out and "is not what was written" not in out
    assert files(prepare.output) == before


def test_other_sources_are_refused_or_replace(prepare, files, tmp_path):
    prepare()
    before = files(prepare.output)
    (tmp_path / "other.txt").write_text("P-0003_Vol_1\n")
    code, _, err = prepare(test_txt_path=tmp_path / "other.txt")
    assert code == 1 and "was made from other files" in err and "--overwrite" in err
    assert files(prepare.output) == before
    code, *_ = prepare("--overwrite", test_txt_path=tmp_path / "other.txt")
    assert code == 0
    verify_as_nnunet_does(prepare.output)
    assert [path.name for path in (prepare.output / "labelsTs").iterdir()] == ["P-0003_Vol_1.nii.gz"]


def test_a_foreign_data_set_is_never_touched(prepare, files):
    (prepare.output / "imagesTr").mkdir(parents=True)
    (prepare.output / "imagesTr/mine.nii.gz").write_bytes(b"precious")
    for options in ((), ("--overwrite",)):
        code, _, err = prepare(*options)
        assert code == 1 and "did not write" in err
        assert files(prepare.output) == {"imagesTr/mine.nii.gz": b"precious"}


def test_a_list_of_files_elsewhere_deletes_nothing(prepare, tmp_path):
    prepare()
    (tmp_path / "precious.txt").write_text("here")
    sources = prepare.output / "sources.json"
    sources.write_text(json.dumps({"files": {"../precious.txt": ""}}))
    code, _, err = prepare("--overwrite")
    assert code == 1 and "names files outside" in err and (tmp_path / "precious.txt").exists()


def test_hearts_have_their_labels(prepare, tmp_path, case_writer):
    root = tmp_path / "hearts"
    for number in range(3):
        image, mask = case_writer(root, f"Case_P00{number}.nii.gz", f"Case_P00{number}.nii.gz", seed=number)
        array = nibabel.load(mask).get_fdata().astype(np.uint8) * 3
        array[0, :5], array[0, 6:9] = 1, 2
        nibabel.save(nibabel.Nifti1Image(array, nibabel.load(mask).affine), mask)
    (root / "test.txt").write_text("Case_P002\n")
    changed = {"source_image_dir": root / "Image", "source_mask_dir": root / "Mask"}
    code, _, err = prepare("--data_type", "emidec", test_txt_path=root / "test.txt", **changed)
    assert code == 0, err
    content = json.loads((prepare.output / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "MR"} and content["labels"]["no-reflow"] == 4
    verify_as_nnunet_does(prepare.output)


def broken(prepare, what):
    """Breaks the source in one way; -> the options with which to run."""
    sick = prepare.source
    mask = sick / "Mask/P-0002/P-0002_Mask_1.nii.gz"
    stored = nibabel.load(mask)
    array = np.asarray(stored.dataobj)
    if what == "no label":
        mask.unlink()
    if what == "label value":
        nibabel.save(nibabel.Nifti1Image(array * 3, stored.affine), mask)
    if what == "shape":
        nibabel.save(nibabel.Nifti1Image(array[:-1], stored.affine), mask)
    if what == "affine":
        nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 1, 9, 1])), mask)
    if what == "empty test":
        (sick / "test.txt").write_text("\n")
    if what == "empty train":
        (sick / "test.txt").write_text("\n".join(f"P-000{n}_Vol_1" for n in range(1, 5)))
    if what == "unknown test case":
        (sick / "test.txt").write_text("P-0009_Vol_1\n")
    if what == "patient in both":
        for folder, part in (("Image", "Vol"), ("Mask", "Mask")):
            source = sick / folder / f"P-0004/P-0004_{part}_1.nii.gz"
            source.with_name(f"P-0004_{part}_2.nii.gz").write_bytes(source.read_bytes())
    return {"labels": ["--labels", "nodule=2"]}.get(what, [])


@pytest.mark.parametrize(
    "what, message",
    [
        ("no label", "P-0002_Vol_1.nii.gz: its mask"),
        ("label value", "P-0002_Mask_1.nii.gz: holds the label 3; expected only 0, 1"),
        ("shape", "P-0002_Mask_1.nii.gz: has shape"),
        ("affine", "P-0002_Mask_1.nii.gz: its affine differs"),
        ("empty test", "no case found (split test"),
        ("empty train", "no case found (split train"),
        ("unknown test case", "lists P-0009_Vol_1, not found"),
        ("patient in both", "1 patients have cases in the test set and others in the training set (P-0004)"),
        ("labels", "--labels nodule=2: the values must be 1, 2, 3"),
    ],
)
def test_bad_sources_are_one_error_and_nothing_is_written(prepare, what, message):
    code, _, err = prepare(*broken(prepare, what))
    assert code == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert not prepare.output.exists()


@pytest.mark.parametrize("place", ["Image", "Mask/real"])
def test_a_data_set_among_its_sources_is_refused(prepare, files, place):
    before = files(prepare.source)
    code, _, err = prepare(output_dir=prepare.source / place)
    assert code == 1 and "error: --output_dir=" in err and "read as sources" in err
    assert files(prepare.source) == before


def test_a_damaged_copy_is_written_again(prepare, files):
    prepare()
    before = files(prepare.output)
    damaged = [
        prepare.output / "imagesTr/P-0001_Vol_1_0000.nii.gz",
        prepare.output / "labelsTs/P-0004_Vol_1.nii.gz",
    ]
    damaged[0].write_bytes(b"")
    label = nibabel.load(damaged[1])
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(label.dataobj) * 0, label.affine), damaged[1])
    code, out, err = prepare()
    assert code == 0 and "2 files written now" in out, err
    assert f"{damaged[0]}: is damaged and is written again" in out
    assert f"{damaged[1]}: is not what was written there and is written again" in out
    assert files(prepare.output) == before
