"""The manifest keeps the rows of earlier runs and knows which were made otherwise."""

import csv

import numpy as np
import pytest
import torch

from LeFusion.inference.report import Manifest

FLAT = torch.full((4,), 0.25)


def add(manifest, case="A", kind=1, requested=FLAT, obtained=FLAT, values=(1.0, 3.0), seconds=2.0):
    manifest.add(
        case,
        kind,
        requested=requested,
        obtained=obtained,
        window=(0, 40),
        lesion_values=np.array(values),
        source_values=np.array([5.0, 5.0]),
        max_outside=0.0,
        seconds=seconds,
        files=(f"{case}.nii.gz", f"{case}_label.nii.gz"),
    )


def manifest_at(tmp_path, **settings):
    return Manifest(tmp_path / "manifest.csv", 4, {"seed": 0, "sampler": "ddim"} | settings)


def test_a_row_by_hand(tmp_path):
    manifest = manifest_at(tmp_path)
    add(manifest, requested=torch.tensor([1.0, 0, 0, 0]), obtained=torch.tensor([0, 0, 0.5, 0.5]))
    manifest.write()
    with open(tmp_path / "manifest.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "case": "A",
        "type": "1",
        "seed": "0",
        "sampler": "ddim",
        "wasserstein": "25.00",  # half of it moves 2 bins of 10 units, half of it 3
        "lesion_mean": "2.00",
        "lesion_sd": "1.00",
        "source_mean": "5.00",
        "source_sd": "0.00",
        "max_abs_difference_outside": "0",
        "seconds": "2.00",
        "requested_histogram": "1.00000 0.00000 0.00000 0.00000",
        "obtained_histogram": "0.00000 0.00000 0.50000 0.50000",
        "image": "A.nii.gz",
        "label": "A_label.nii.gz",
    }


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
    assert [(key, row["seed"], row["lesion_mean"]) for key, row in third.rows.items()] == [
        (("A", 1), "1", "7.00"),
        (("B", 2), "0", "2.00"),
    ]


def test_the_summary_is_a_table_of_means(tmp_path):
    manifest = manifest_at(tmp_path)
    add(manifest, "A", 1, values=(10.0, 20.0), seconds=1.0)
    add(manifest, "B", 1, values=(30.0, 40.0), seconds=None)
    add(manifest, "A", 2)
    lines = manifest.summary().split("\n")
    assert lines[0].startswith("| type | images |") and len(lines) == 4
    assert lines[2] == "| 1 | 2 | 0.0 | 25 | 5 | 5 | 0 | 0 | 1.00 |"
    assert lines[3] == "| 2 | 1 | 0.0 | 2 | 1 | 5 | 0 | 0 | 2.00 |"


def test_a_table_without_times(tmp_path):
    manifest = manifest_at(tmp_path)
    add(manifest, seconds=None)
    assert "| 1 | 1 | 0.0 | 2 | 1 | 5 | 0 | 0 | nan |" in manifest.summary()


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "case,type\nA,1\n"])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "manifest.csv").write_text(content)
    if content:
        with pytest.raises(ValueError, match=r"manifest\.csv was not written by this command"):
            manifest_at(tmp_path)
    else:
        assert not manifest_at(tmp_path).rows
