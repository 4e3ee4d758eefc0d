"""Files of the data set `sick`, and what a check said and wrote."""

import csv

import nibabel
import numpy as np

from LeFusion.runtime.commandline import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / "LeFusion" / "train" / "check_dataset.py"
OUTPUTS = ["check_dataset.csv", "check_dataset.md", "check_dataset.png"]


def image_of(sick, number=2):
    return sick / "Image" / f"P-{number:04d}" / f"P-{number:04d}_Vol_1.nii.gz"


def mask_of(sick, number=2):
    return sick / "Mask" / f"P-{number:04d}" / f"P-{number:04d}_Mask_1.nii.gz"


def rewrite(path, change=None, affine=None):
    """The file with its array changed in place, or with a new one, or with another affine."""
    stored = nibabel.load(path)
    array = np.asanyarray(stored.dataobj).copy()
    changed = change(array) if change else None
    array = array if changed is None else changed
    nibabel.save(nibabel.Nifti1Image(array, stored.affine if affine is None else affine), path)


def findings_in(report: str) -> list[str]:
    return [line for line in report.split("\n") if line.startswith("- **")]


def only_finding(result) -> str:
    code, out, error = result
    found = findings_in(out)
    assert len(found) == 1, (found, error)
    assert code == ("**error**" in found[0])
    return found[0]


def rows_of(folder):
    with open(folder / "check_dataset.csv", newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def cells(out: str, title: str) -> list[list[str]]:
    """The rows of the tables below a title."""
    part = out.split(f"## {title}")[1].split("##")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.split("\n") if "|" in line]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
