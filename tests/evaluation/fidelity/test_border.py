"""Signed distances, gradients and seams on images made by hand."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from evaluation_pipeline.fidelity.border import (
    CENTRES_MM,
    border_profile,
    contrast,
    gradient_at_border,
    gradient_magnitude,
    seam,
    signed_distance_mm,
)
from evaluation_pipeline.fidelity.lesions import Lesion, TooLittleData


def half_space(shape=(6, 8, 12), at=6) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[:, :, :at] = True
    return mask


def lesion_of(image: np.ndarray, mask: np.ndarray, spacing_mm=(1.0, 1.0, 1.0)) -> Lesion:
    return Lesion("A", "A", 0, None, image.astype(np.float32), mask, mask.astype(np.uint8), spacing_mm)


def test_distances_to_a_plane():
    distance = signed_distance_mm(half_space(), (1, 1, 1))
    assert distance[2, 3].tolist() == [x - 5.5 for x in range(12)]


def test_distances_count_in_millimetres():
    distance = signed_distance_mm(half_space(), (2, 2, 2))
    assert distance[2, 3].tolist() == [2 * (x - 5.5) for x in range(12)]


def test_slices_far_apart_are_looked_at_one_by_one():
    mask = half_space()
    mask[0] = False
    distance = signed_distance_mm(mask, (10, 1, 1))
    assert np.isinf(distance[0]).all()
    assert distance[1, 3].tolist() == [x - 5.5 for x in range(12)]
    ramp = np.arange(6.0)[:, None, None] * np.ones(mask.shape)
    assert gradient_magnitude(ramp, (10, 1, 1)).max() == 0
    assert gradient_magnitude(ramp, (1, 1, 1)) == pytest.approx(np.ones(mask.shape))


def test_a_lesion_that_fills_the_volume_has_no_border():
    lesion = lesion_of(np.zeros((3, 4, 4)), np.ones((3, 4, 4), bool))
    assert np.isnan(gradient_at_border(lesion)) and np.isnan(contrast(lesion))
    with pytest.raises(TooLittleData, match="synthetic"):
        seam([lesion], [lesion])


def test_the_profile_of_a_step():
    mask = half_space()
    image = np.where(mask, 100.0, -100.0)
    intensity, gradient = border_profile(lesion_of(image, mask))
    assert intensity.tolist() == [100] * 4 + [-100] * 4
    # central differences spread a step of 200 over the voxels on both sides of it
    assert gradient.tolist() == [100 if abs(centre) < 1 else 0 for centre in CENTRES_MM]
    assert gradient_at_border(lesion_of(image, mask)) == 100
    assert contrast(lesion_of(image, mask)) == 200


def test_a_hard_cut_is_steeper_than_a_soft_one():
    generator = np.random.default_rng(0)
    real, cut = [], []
    for number in range(6):
        mask = half_space(at=5 + number % 3)
        noise = generator.normal(0, 5, mask.shape)
        step = np.where(mask, 100.0, -100.0)
        real.append(lesion_of(gaussian_filter(step, 1.5) + noise, mask))
        cut.append(lesion_of(step + noise, mask))
    assert seam(cut, real)["difference"] > 3
    assert seam(real, cut)["difference"] < -3
    same = seam(real, real)
    assert same["difference"] == 0
    assert same["real"] == same["synthetic"]
