"""Normal regions cut out of a small CT, round masks as DiffMask writes them."""

import importlib.util
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chest_scans import chest
from phantoms.volumes import write_volume

from LeFusion.dataset.cases import Layout, find_cases

DATA = Path(__file__).parents[2] / "data"
spec = importlib.util.spec_from_file_location("cut_regions", DATA / "cut_regions.py")
cut_regions = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cut_regions)

AFFINE = np.array([[-1.6, 0, 0, 60], [0, 1.6, 0, -70], [0, 0, 2.0, -300], [0, 0, 0, 1]])
CENTRE, RADIUS_MM = (40, 30, 25), 6.0  # stored voxels: columns, rows, slices


@pytest.fixture
def made(tmp_path) -> Path:
    """A scan ct.nii.gz and a folder masks with one ball in it."""
    hu = chest().transpose(2, 1, 0).astype(np.int16)
    write_volume(tmp_path / "ct.nii.gz", hu, AFFINE)
    offsets = [(np.arange(n) - c) * s for n, c, s in zip(hu.shape, CENTRE, (1.6, 1.6, 2.0), strict=True)]
    ball = sum(o**2 for o in np.meshgrid(*offsets, indexing="ij", sparse=True)) <= RADIUS_MM**2
    write_volume(tmp_path / "masks/ct_GenMask_3.nii.gz", ball.astype(np.uint8), AFFINE)
    return tmp_path


def run(folder: Path) -> int:
    return cut_regions.main(
        ["--scans", f"{folder}/ct.nii.gz", "--masks", f"{folder}/masks", "--out", f"{folder}/out"]
    )


def test_the_mask_lies_in_the_middle_of_its_region(made, capsys):
    assert run(made) == 0 and "1 regions of 1 scans" in capsys.readouterr().out
    (case,) = find_cases(made / "out", Layout())
    assert case.name == "ct_CVol_3"
    image, mask = (nib.load(path) for path in (case.image_path, case.mask_path))
    assert image.shape == mask.shape == (32, 64, 64) and image.header.get_zooms() == (1, 1, 1)
    points = np.argwhere(np.asarray(mask.dataobj))
    assert np.abs(points.mean(axis=0) - (15.5, 31.5, 31.5)).max() <= 1
    assert len(points) == pytest.approx(4 / 3 * np.pi * RADIUS_MM**3, rel=0.1)
    assert np.ptp(points, axis=0) + 1 == pytest.approx(2 * RADIUS_MM, abs=1.5)
    hu = np.asarray(nib.load(made / "ct.nii.gz").dataobj)
    here = np.asarray(image.dataobj)[tuple(np.rint(points.mean(axis=0)).astype(int))]
    assert here == pytest.approx(hu[CENTRE], abs=60)


def test_masks_that_cannot_be_used_are_named(made, capsys):
    mask = made / "masks/ct_GenMask_3.nii.gz"
    whole = np.asarray(nib.load(mask).dataobj)
    for array, name, message in (
        (np.zeros_like(whole), "ct_GenMask_3", "ct_GenMask_3.nii.gz: is empty"),
        (whole[1:], "ct_GenMask_3", "has shape"),
        (whole, "other_GenMask_3", "has no scan of it"),
    ):
        mask.unlink()
        mask = made / f"masks/{name}.nii.gz"
        write_volume(mask, np.ascontiguousarray(array), AFFINE)
        assert run(made) == 1
        error = capsys.readouterr().err
        assert error.startswith("cut_regions.py: error: ") and message in error and error.count("\n") == 1
    assert not (made / "out").exists()


def test_a_mask_larger_than_a_region_is_left_out(made, capsys):
    mask = made / "masks/ct_GenMask_3.nii.gz"
    write_volume(mask, np.ones_like(np.asarray(nib.load(mask).dataobj)), AFFINE)
    assert run(made) == 0
    shown = capsys.readouterr()
    assert "left out: " in shown.err and "larger than a region" in shown.err and "0 regions" in shown.out
