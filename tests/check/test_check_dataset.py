"""The command that checks a data set: what it writes, what it refuses, exit codes."""

import os
import shutil
import subprocess
import sys

import nibabel
import pytest
from check_data import OUTPUTS, SCRIPT, cut, image_of, only_finding, rows_of
from PIL import Image

import LeFusion.train.check_dataset as checking


def test_a_clean_data_set(check, sick, sheets, tmp_path, files):
    sheets.undo()
    before = files(sick)
    code, out, error = check()
    assert code == 0 and "Nothing is wrong" in out and "0 errors, 0 warnings" in out, error
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == OUTPUTS
    assert all(str(tmp_path / "out" / name) in out.split("0 warnings")[1] for name in OUTPUTS)
    assert files(sick) == before
    with Image.open(tmp_path / "out" / "check_dataset.png") as picture:
        picture.load()
    report = (tmp_path / "out" / "check_dataset.md").read_text()
    assert report.startswith("# Check of a data set") and all(
        part in report for part in out.split("\n\n")[1:-2]
    )
    row = rows_of(tmp_path / "out")["P-0004_Vol_1"]
    values = nibabel.load(image_of(sick, 4)).get_fdata()
    assert row["image"] == "Image/P-0004/P-0004_Vol_1.nii.gz" and row["problem"] == ""
    assert row["mask"] == "Mask/P-0004/P-0004_Mask_1.nii.gz" and row["dtype"] == "int16"
    assert (row["split"], rows_of(tmp_path / "out")["P-0001_Vol_1"]["split"]) == ("test", "train")
    assert (row["shape"], row["extent"], row["voxels_1"]) == ("8 16 16", "3 5 4", "60")
    assert (float(row["min"]), float(row["max"])) == (values.min(), values.max())
    assert (row["spacing_mm"], row["orientation"]) == ("2.5 0.7 0.8", "RAS")
    assert float(row["lesion_ml"]) == pytest.approx(60 * 2.5 * 0.7 * 0.8 / 1000)


def test_a_full_disk_leaves_nothing_half_written(check, tmp_path, monkeypatch):
    def replace(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    code, _, error = check()
    assert code == 1 and error.split("\n")[-2].startswith("error: ") and "No space left" in error
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "overrides, texts",
    [
        (["dataset_root_dir=nowhere"], ["nowhere", "no such folder"]),
        (["dataset_root_dir="], ["dataset_root_dir"]),
        (["output_folder="], ["output_folder"]),
        (["window=[400,-1000]"], ["window"]),
        (["window=wide"], ["window=wide"]),
        (["cond_dim=32"], ["cond_dim=32 must be 16"]),
        (["diffusion_num_channels=2"], ["diffusion_num_channels=2 must be 1"]),
        (["crop_size=[4,8]"], ["crop_size=[4, 8]", "three"]),
        (["spacing_mm=[1,1,0]"], ["spacing_mm=[1, 1, 0]", "above 0"]),
        (["diffusion_img_size=wide"], ["diffusion_img_size=wide"]),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(check, tmp_path, overrides, texts):
    code, _, error = check(*overrides)
    assert code == 1 and error.startswith("error: ") and error.count("\n") == 1, error
    for text in texts:
        assert text in error
    assert not (tmp_path / "out").exists()


def test_no_images_at_all(check, sick, tmp_path):
    shutil.rmtree(sick / "Image")
    (sick / "Image").mkdir()
    code, _, error = check()
    assert code == 1 and "no case found" in error and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_as_a_script_with_relative_paths(sick, tmp_path):
    cut(image_of(sick))
    given = ["dataset_root_dir=LIDC/../LIDC/Pathological/Image", "test_txt_dir=LIDC/Pathological/test.txt"]
    command = [sys.executable, str(SCRIPT), *given, "output_folder=out", "diffusion_img_size=16"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "4/4" in done.stderr, done.stderr
    assert ": Image/P-0002/P-0002_Vol_1.nii.gz is a damaged" in only_finding((1, done.stdout, ""))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == OUTPUTS


def test_help_and_misspelt_keys(command_line):
    code, out, _ = command_line(checking.main, "--help")
    assert code == 0 and "output_folder" in out and "data_type: " in out and "Exit code" in out
    code, _, error = command_line(checking.main, "output=report.md")
    assert code == 1 and "output" in error
