"""Lesions on voxels of one size: what is measured no longer depends on the grid."""

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from evaluation_pipeline.fidelity.common_grid import common_spacing, median_spacing, on_grid
from evaluation_pipeline.fidelity.lesions import Lesion
from evaluation_pipeline.fidelity.profile import layer_profile

FINE = 0.25  # mm


def lesion_of(image, mask, spacing_mm, label=1) -> Lesion:
    return Lesion(
        "A",
        "A",
        0,
        Path("A.nii.gz"),
        image.astype(np.float32),
        mask,
        mask.astype(np.uint8) * label,
        spacing_mm,
    )


def ball(spacing_mm) -> Lesion:
    """A blurred ball of 12 mm in 48 mm of lung, as a scanner with such voxels sees it."""
    steps = [round(mm / FINE) for mm in spacing_mm]
    shape = [round(48 / mm) * step for mm, step in zip(spacing_mm, steps, strict=True)]
    places = np.indices(shape, dtype=np.float32)
    squares = [((at - (n - 1) / 2) * FINE) ** 2 for at, n in zip(places, shape, strict=True)]
    inside = sum(squares) <= 6.0**2
    image = gaussian_filter(np.where(inside, 0.0, -800.0).astype(np.float32), 0.8 / FINE)
    halves = [(n // step, step) for n, step in zip(shape, steps, strict=True)]
    means = [
        array.reshape([part for pair in halves for part in pair]).mean(axis=(1, 3, 5))
        for array in (image, inside)
    ]
    return lesion_of(means[0], means[1] >= 0.5, spacing_mm)


def test_the_common_voxel_is_the_larger_along_each_axis():
    tiny = np.ones((2, 2, 2), bool)
    fine, coarse = (lesion_of(tiny, tiny, mm) for mm in ((1.0, 1.0, 1.0), (2.5, 0.7, 0.7)))
    assert common_spacing([fine, fine], [coarse]) == (2.5, 1.0, 1.0) == common_spacing([coarse], [fine])
    assert common_spacing([fine], [lesion_of(tiny, tiny, (1.05, 1.0, 0.95))]) is None
    assert median_spacing([fine, coarse, coarse]) == (2.5, 0.7, 0.7)


def test_larger_voxels_hold_means_and_the_extent_stays():
    image = np.tile([0.0, 100.0], 20)[:, None, None] * np.ones((40, 6, 8))
    mask = np.zeros(image.shape, bool)
    mask[10:20, 2:4, 2:6] = True
    found = on_grid(lesion_of(image, mask, (1.0, 1.0, 1.0), label=3), (2.0, 1.0, 2.0))
    assert found.image.shape == (20, 6, 4) and found.spacing_mm == (2.0, 1.0, 2.0)
    assert np.allclose(found.image, 50) and found.image.dtype == np.float32
    assert found.mask.sum() == 5 * 2 * 2 and np.array_equal(found.labels == 3, found.mask)


def test_no_lesion_vanishes_and_equal_voxels_stay_as_they_are():
    mask = np.zeros((20, 20, 20), bool)
    mask[9, 9, 9] = True
    small = lesion_of(mask * 100.0, mask, (1.0, 1.0, 1.0))
    assert on_grid(small, (5.0, 1.0, 1.0)).mask.sum() == 1
    assert on_grid(small, (1.0, 1.0, 1.0)) is small


def test_a_ball_has_the_same_layers_on_all_grids():
    real, synthetic = ball((1.0, 1.0, 1.0)), ball((2.0, 0.5, 0.5))
    before = layer_profile(real) - layer_profile(synthetic)
    common = common_spacing([real], [synthetic])
    first, second = (layer_profile(on_grid(lesion, common)) for lesion in (real, synthetic))
    assert np.abs(before).max() > 0.08
    assert np.abs(first - second).max() < 0.03
