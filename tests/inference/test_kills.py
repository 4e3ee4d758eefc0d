"""Painting that is killed at its worst moments goes on to the same files."""

import csv

import kills
import pytest

import LeFusion.inference.inference as inference

REGION = ["diffusion_depth_size=8", "diffusion_img_size=16", "device=cpu", "preview_cases=1"]
MOMENTS = {
    "between the temporary file and its name": lambda: kills.at_rename("N-0002_CVol"),
    "between the label and its image": lambda: kills.at_rename("N-0002_Mask", after=True),
    "between the image and its row": lambda: kills.at_rename("N-0002_CVol", after=True),
    "while a row is written": lambda: kills.half_way_through("manifest.part"),
    "between the table and its parts' end": lambda: kills.at_rename("manifest.csv", after=True),
}


@pytest.fixture
def paint(lidc, save_network, tmp_path, command):
    """-> paint(out): runs the command on the normal cases."""
    model = save_network()

    def call(out):
        given = {
            "model_path": model,
            "dataset_root_dir": lidc / "Normal",
            "target_img_path": out / "Image",
            "target_label_path": out / "Mask",
            "num_steps": 2,
            "types": 1,
            "batch_size": 1,
        }
        overrides = [*REGION, *(f"{k}={v}" for k, v in given.items())]
        code, _, error = command(inference.main, "inference", *overrides)
        assert code == 0, error

    return call


def rows(folder):
    """Of the manifest, without what depends on the folder, the clock, and on having painted it oneself."""
    with open(folder / "Image" / "manifest.csv", newline="") as file:
        unlike = ("seconds", "made_from", "image", "label")
        return [{k: v for k, v in row.items() if k not in unlike} for row in csv.DictReader(file)]


def test_killed_painting_goes_on_to_the_same_files(paint, tmp_path, files, in_child):
    paint(tmp_path / "unbroken")
    unbroken = files(tmp_path / "unbroken")
    for moment, folder in kills.each_resumed(MOMENTS, paint, tmp_path, in_child):
        broken = files(folder)
        assert sorted(unbroken) == sorted(broken), moment  # nothing is left over
        for name in unbroken:
            assert unbroken[name] == broken[name] or not name.endswith((".nii.gz", ".png")), (moment, name)
        assert rows(tmp_path / "unbroken") == rows(folder), moment
