"""Tables, pictures and the report that says whether an output is whole."""

import csv

import numpy as np
import pytest
from PIL import Image

from LeFusion.dataset.boxes import Box
from LeFusion.insertion.output import save_preview, state, write_report, write_table
from LeFusion.insertion.result import Lesion
from LeFusion.insertion.sites import read_sites

SPACING_MM = (5.0, 1.0, 1.0)


@pytest.fixture
def lesion():
    before = np.full((6, 30, 30), -850.0)
    label = np.zeros(before.shape, bool)
    label[2:4, 10:16, 12:18] = True
    after = np.where(label, 0.0, before)
    facts = (
        1,
        "solid",
        "texture_score=5",
        7,
        (1.0, -2.5, 3.0),
        6.0,
        6.4,
        0.36,
        0.0,
        830.0,
        850.0,
        840.0,
        851.0,
    )
    return Lesion(*facts, "this, that", Box((0, 0, 0), before.shape), label, label, before, after)


def test_a_table_can_be_read_again(lesion, tmp_path):
    write_table(tmp_path / "lesions.csv", [lesion], "HU")
    (site,) = read_sites(tmp_path / "lesions.csv")
    assert (site.world, site.diameter_mm, site.texture) == ((1.0, -2.5, 3.0), 6.0, "solid")
    with open(tmp_path / "lesions.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["x_lps"], row["y_lps"], row["z_lps"]) == ("-1.00", "2.50", "3.00")
    assert (row["diameter_mm"], row["asked_diameter_mm"], row["mean_hu"]) == ("6.40", "6.00", "0.00")
    assert (row["scores"], row["seed"], row["note"]) == ("texture_score=5", "7", "this, that")


def test_intensities_without_a_unit_have_names_without_one(lesion, tmp_path):
    write_table(tmp_path / "lesions.csv", [lesion], "")
    assert "mean_hu" not in (tmp_path / "lesions.csv").read_text().splitlines()[0]


def test_the_preview_shows_thick_slices_as_they_are(lesion, tmp_path):
    save_preview(tmp_path / "preview.png", [lesion, lesion], SPACING_MM)
    with Image.open(tmp_path / "preview.png") as picture:
        grey = np.asarray(picture.convert("RGB")).astype(int)
    assert grey.shape[1] > 2 * grey.shape[0]  # six columns, two rows
    inside = (grey > 150).all(axis=2) & (grey < 200).all(axis=2)  # 0 HU in the window of -1000 to 400
    left, right = inside[:, : grey.shape[1] // 2], inside[:, grey.shape[1] // 2 :]
    assert right.sum() > 20 * max(left.sum(), 1)


def test_a_report_knows_whether_its_files_are_whole(tmp_path):
    path = tmp_path / "image" / "1.dcm"
    path.parent.mkdir()
    path.write_bytes(b"voxels")
    assert state(tmp_path, "this") == "none"
    write_report(tmp_path, {"made_from": "this"}, [path])
    assert state(tmp_path, "this") == "whole" and state(tmp_path, "that") == "stale"
    path.write_bytes(b"others")
    assert state(tmp_path, "this") not in ("whole", "stale")
    (tmp_path / "report.json").write_text('{"files": ')
    assert state(tmp_path, "this") == "none"
