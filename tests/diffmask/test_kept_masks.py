"""Which masks of an earlier run are kept."""

import csv

import nibabel
import numpy as np
import pytest


def other_voxels(path):
    image = nibabel.load(path)
    raw = np.asanyarray(image.dataobj).copy()
    raw[0, 0, 0] += 1
    nibabel.save(nibabel.Nifti1Image(raw, image.affine), path)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "other voxels": other_voxels,
}


@pytest.mark.parametrize("old", [False, True], ids=["hash", "no hash"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_mask_is_named_and_made_again(infarcts, tmp_path, files, damage, old):
    code, _, error = infarcts()
    assert code == 0, error
    before, table = files(tmp_path / "out"), tmp_path / "out" / "masks.csv"
    if old:
        with open(table, newline="") as file:
            rows = [{k: v for k, v in row.items() if k != "mask_sha256"} for row in csv.DictReader(file)]
        with open(table, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    (path,) = (tmp_path / "out" / "Mask").glob("*_GenMask_2.nii.gz")
    DAMAGE[damage](path)
    code, out, error = infarcts()
    assert code == 0, error
    if old and damage == "other voxels":  # of which nothing is known
        assert "0 masks to make, 2 kept" in out
        return
    assert f"1 masks are damaged or were changed and are made again, such as {path}: " in out
    assert "1 masks to make, 1 kept" in out
    masks = [name for name in before if name.startswith("Mask/")]
    after = files(tmp_path / "out")
    assert len(masks) == 2 and all(after[name] == before[name] for name in masks)
    assert "0 masks to make, 2 kept" in infarcts()[1]
