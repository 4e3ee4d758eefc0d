"""The manifest keeps the rows of earlier runs and knows which were made otherwise."""

import csv

import numpy as np
import pytest
import torch

from LeFusion.dataset.cases import Layout
from LeFusion.inference.report import Manifest

FLAT = torch.full((4,), 0.25)


def add(
    manifest, case="A", kind=1, requested=FLAT, obtained=FLAT, values=(1.0, 3.0), seconds=2.0, made_from=""
):
    """A volume of three voxels, the last one outside the lesion."""
    manifest.add(
        case,
        kind,
        texture="soft",
        scores="spiculation=5",
        donor="",
        made_from=made_from,
        requested=requested,
        obtained=obtained,
        window=(0, 40),
        lesions=np.array([True, True, False]).reshape(1, 1, 1, 3),
        values=np.array([*values, 99.0]).reshape(1, 1, 3),
        source=np.array([5.0, 5.0, 99.0]).reshape(1, 1, 3),
        max_rim=12.5,
        max_outside=0.0,
        seconds=seconds,
        files=(f"{case}.nii.gz", f"{case}_label.nii.gz", f"{case}_source.nii.gz"),
        hashes={"image_sha256": "0a", "label_sha256": "0b"},
    )


def manifest_at(tmp_path, **settings):
    described = {"seed": 0, "sampler": "ddim"} | settings
    layout = Layout(orientation="SPL", depth_axis=None)
    return Manifest(tmp_path / "manifest.csv", 4, [1], "HU", described, layout=layout)


def test_a_row_by_hand(tmp_path):
    manifest = manifest_at(tmp_path)
    add(manifest, requested=torch.tensor([1.0, 0, 0, 0]), obtained=torch.tensor([0, 0, 0.5, 0.5]))
    manifest.join()
    with open(tmp_path / "manifest.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "case": "A",
        "type": "1",
        "texture": "soft",
        "scores": "spiculation=5",
        "donor": "",
        "made_from": "",
        "unit": "HU",
        "seed": "0",
        "sampler": "ddim",
        "wasserstein": "25",  # half of it moves 2 bins of 10 units, half of it 3
        "jensen_shannon": "1.0000",
        "lesion_mean": "2",
        "lesion_sd": "1",
        "source_mean": "5",
        "source_sd": "0",
        "max_abs_difference_rim": "12.5",
        "max_abs_difference_outside": "0",
        "seconds": "2.00",
        "requested_histogram": "1.00000 0.00000 0.00000 0.00000",
        "obtained_histogram": "0.00000 0.00000 0.50000 0.50000",
        "image": "A.nii.gz",
        "label": "A_label.nii.gz",
        "image_sha256": "0a",
        "label_sha256": "0b",
        "edit_sha256": "",
        "source": "A_source.nii.gz",
        "layout": '{"depth_axis": null, "orientation": "SPL"}',
    }


def test_what_an_output_was_made_from(tmp_path):
    manifest = manifest_at(tmp_path)
    add(manifest, made_from="0123")
    add(manifest, "B")
    assert not manifest.is_stale("A", 1, "0123") and manifest.is_stale("A", 1, "4567")
    assert not manifest.is_stale("B", 1, "0123")  # of an earlier version: not known
    assert not manifest.is_stale("C", 1, "0123")


def test_rows_of_earlier_runs_stay(tmp_path):
    first = manifest_at(tmp_path)
    add(first, "B", 2)
    add(first, "A", 1)
    first.write()
    second = manifest_at(tmp_path, seed=1)
    assert second.has("A", 1) and second.has("B", 2) and not second.has("A", 2)
    assert second.made_otherwise({("A", 1), ("B", 2)}) == 2
    add(second, "A", 1, values=(7.0, 7.0))
    assert second.made_otherwise({("A", 1), ("B", 2)}) == 1
    second.write()
    third = manifest_at(tmp_path, seed=1)
    assert [(key, row["seed"], row["lesion_mean"]) for key, row in sorted(third.rows.items())] == [
        (("A", 1), "1", "7"),
        (("B", 2), "0", "2"),
    ]


def test_the_summary_is_a_table_of_means(tmp_path):
    manifest = manifest_at(tmp_path)
    add(manifest, "A", 1, values=(10.0, 20.0), seconds=1.0)
    add(manifest, "B", 1, values=(30.0, 40.0), seconds=None)
    add(manifest, "A", 2)
    lines = [" ".join(line.split()) for line in manifest.summary().split("\n")]
    assert lines[0] == "| means, HU | soft (Image_1) | soft (Image_2) |"
    assert lines[2:] == [
        "| images | 2 | 1 |",
        "| Wasserstein distance to the histogram asked for | 0 | 0 |",
        "| Jensen-Shannon distance to it | 0 | 0 |",
        "| lesion mean | 25 | 2 |",
        "| lesion sd | 5 | 1 |",
        "| source mean | 5 | 5 |",
        "| source sd | 0 | 0 |",
        "| largest change outside the edit mask | 0 | 0 |",
        "| seconds | 1 | 2 |",
    ]


def test_the_summary_says_where_textures_were_drawn(tmp_path):
    manifest = manifest_at(tmp_path)
    add(manifest, "A", 1)
    add(manifest, "B", 1)
    manifest.rows["B", 1]["texture"] = "hard"
    assert manifest.summary().startswith("| means, HU ") and "| drawn (Image_1) |" in manifest.summary()


def test_a_table_without_times(tmp_path):
    manifest = manifest_at(tmp_path)
    add(manifest, seconds=None)
    assert " ".join(manifest.summary().split()).endswith("| seconds | |")


def test_two_lesion_labels_are_measured_together_and_each(tmp_path):
    manifest = Manifest(tmp_path / "manifest.csv", 4, [3, 4], "", {})
    lesions = np.zeros((2, 1, 1, 4), bool)
    lesions[0, ..., :2], lesions[1, ..., 2] = True, True
    values, source = np.array([[[0.1, 0.3, 0.8, 5.0]]]), np.array([[[0.5, 0.5, 0.7, 5.0]]])
    rest = {
        "texture": "a",
        "scores": "",
        "donor": "B",
        "made_from": "",
        "requested": FLAT,
        "obtained": FLAT,
        "window": (0, 1),
    }
    rest |= {"max_rim": 0.0, "max_outside": 0.0, "seconds": None, "files": ("a", "b", "c"), "source": source}
    rest["hashes"] = {}
    manifest.add("A", 1, lesions=lesions, values=values, **rest)
    row = manifest.rows["A", 1]
    names = ("lesion_mean", "lesion_mean_3", "lesion_sd_3", "lesion_mean_4", "source_mean_4")
    assert [float(row[name]) for name in names] == pytest.approx([0.4, 0.2, 0.1, 0.8, 0.7])
    assert row["donor"] == "B" and "shares of the range" in manifest.summary()
    manifest.add("A", 2, lesions=lesions[[0, 0]] & [[[[True]]], [[[False]]]], values=values, **rest)
    assert manifest.rows["A", 2]["lesion_mean_4"] == ""
    assert "| lesion mean, label 4 |" in " ".join(manifest.summary().split())


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "case,type\nA,1\n"])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "manifest.csv").write_text(content)
    if content:
        with pytest.raises(ValueError, match=r"manifest\.csv was not written by this command"):
            manifest_at(tmp_path)
    else:
        assert not manifest_at(tmp_path).rows
