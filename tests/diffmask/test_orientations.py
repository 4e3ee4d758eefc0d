"""The same scan, stored with its axes in any order, gets the same masks at the same places."""

import csv

import nibabel
import numpy as np
import pytest

import DiffMask.inference.inference as inference

AFFINE = np.diag([0.8, 0.9, 2.0, 1.0])
AFFINE[:3, 3] = (-31.0, 12.0, -204.0)
SHAPE = (44, 40, 24)
FILES = ("inputs_sha256", "mask_sha256", "source")  # as they are stored
ORDERS = ("RAS", "LPS", "ASL", "PIR")


@pytest.fixture
def make(command, save_as, save_mask_network, tmp_path):
    """-> make(codes, *overrides): the folder of what was made for one scan, and its table."""
    model = save_mask_network()
    hu = np.random.default_rng(0).normal(40, 20, SHAPE)
    hu[10:] -= 890
    lesion = np.zeros(SHAPE, np.uint8)
    lesion[20:24, 14:18, 9:11] = 1

    def call(codes, *overrides):
        root = tmp_path / codes
        save_as(codes, root / "Image" / "scan.nii.gz", hu.astype(np.int16), AFFINE)
        save_as("LPS", root / "Mask" / "scan.nii.gz", lesion, AFFINE)
        result = command(
            inference.main,
            "diffmask_inference",
            "data_type=chest_ct",
            f"dataset_root_dir={root}",
            f"output_dir={root / 'out'}",
            f"model_path={model}",
            "device=cpu",
            "num_steps=2",
            *overrides,
        )
        assert result[0] == 0, result[2]
        with open(root / "out" / "masks.csv", newline="") as file:
            return root / "out" / "Mask", list(csv.DictReader(file))

    return call


def in_world(path):
    image = nibabel.as_closest_canonical(nibabel.load(path))
    assert np.allclose(image.affine, AFFINE)
    return np.asanyarray(image.dataobj)


@pytest.mark.parametrize(
    "overrides",
    [
        ("diameter_mm=6", "border_mm=[0,6]", "masks_per_scan=2"),
        ("spheres=masks",),
        ("spheres=places.csv",),
        ("diameter_mm=6", "border_mm=[0,6]", "lesion_masks=scan.nii.gz"),
    ],
)
def test_the_order_of_the_axes_changes_no_mask(make, tmp_path, overrides, monkeypatch, save_as):
    monkeypatch.chdir(tmp_path)
    for pictures in ("save_preview", "save_surface_sheet"):  # take most of the time
        monkeypatch.setattr(inference, pictures, lambda path, *_: path)
    (tmp_path / "places.csv").write_text("x_mm,y_mm,z_mm,diameter_mm\n-10.2,28,-180,6\n")
    there = np.zeros(SHAPE, np.uint8)
    there[:, :16] = 1
    save_as("PIR", tmp_path / "scan.nii.gz", there, AFFINE)
    first = None
    for codes in ORDERS:
        folder, rows = make(codes, *overrides)
        masks = [in_world(folder / f"scan_GenMask_{number}.nii.gz") for number in range(1, len(rows) + 1)]
        facts = [{k: v for k, v in row.items() if k not in FILES} for row in rows]
        first = first or (masks, facts)
        assert facts == first[1]
        for mask, same in zip(masks, first[0], strict=True):
            assert mask.any() and np.array_equal(mask, same)
