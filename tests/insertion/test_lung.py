"""The lung on a coarse grid, and where voxels of the scan lie in it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from DiffMask.placement.lungs import lung_mask
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.volume import Volume
from LeFusion.errors import UserError
from LeFusion.insertion.canvas import Canvas
from LeFusion.insertion.lung import Lung

SPACING_MM = (1.0, 0.5, 0.5)
AFFINE = np.array([[0, 0, -0.5, 0], [0, -0.5, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])  # of (D, H, W)


@pytest.fixture
def canvas():
    """A chest wall, and lung from column 20 on, 10 mm."""
    hu = np.random.default_rng(0).normal(40, 20, (24, 80, 90))
    hu[:, :, 20:] -= 890
    volume = Volume(Path("a scan"), hu.astype(np.int16), 1.0, 0.0, AFFINE)
    return Canvas(volume, Layout(depth_axis=None, orientation="SPL"), (-1000, 400), (1, 1, 1), (8, 16, 16))


def test_the_coarse_lung_is_that_of_the_scans_own_voxels(canvas):
    lung = Lung(canvas)
    assert lung.factors == (2, 4, 4) and lung.spacing_mm == (2, 2, 2)
    fine = lung_mask(canvas.axes.to_dhw(canvas.source.values), SPACING_MM)
    patch = canvas.patch((12, 40, 30), (12, 40, 30))
    found, expected = lung.mask(patch), patch.mask_of(fine[patch.box.slices])
    assert found.shape == patch.shape and (found != expected).mean() < 0.02


def test_a_site_is_in_the_lung_or_near_it(canvas):
    lung = Lung(canvas)
    assert lung.holds((12, 40, 60)) and lung.holds((12, 40, 19)) and not lung.holds((12, 40, 8))
    assert not lung.holds((12, 40, 95)) and not lung.holds((-3, 40, 60))


def test_centres_are_voxels_of_the_scan(canvas):
    lung = Lung(canvas)
    placement = lung.place(torch.Generator().manual_seed(0), 6.0, ())
    centre = lung.centre(placement)
    coarse = tuple((c + 0.5) / n - 0.5 for c, n in zip(centre, lung.factors, strict=True))
    assert coarse == placement.centre_dhw and lung.holds(centre)
    other = lung.place(torch.Generator().manual_seed(0), 6.0, [placement])
    apart = np.subtract(lung.centre(other), centre) * SPACING_MM
    assert np.linalg.norm(apart) >= 8


def test_no_lung_is_said(canvas):
    canvas = Canvas(
        Volume(Path("a scan"), np.full((20, 40, 40), 40, np.int16), 1.0, 0.0, AFFINE),
        canvas.layout,
        (-1000, 400),
        (1, 1, 1),
        (8, 16, 16),
    )
    with pytest.raises(UserError, match="no lung found"):
        Lung(canvas)
