"""Layers across a border and grain, on lesions made by hand."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from evaluation_pipeline.fidelity.lesions import Lesion
from evaluation_pipeline.fidelity.profile import LAYERS, grain, grain_ratios, layer_profile, profiles


def ball(radius=6.0, size=33) -> np.ndarray:
    axes = np.indices((size, size, size)) - size // 2
    return (axes**2).sum(axis=0) <= radius**2


def lesion_of(image: np.ndarray, mask: np.ndarray) -> Lesion:
    return Lesion("A", "A", 0, None, image.astype(np.float32), mask, mask.astype(np.uint8), (1.0, 1.0, 1.0))


def test_a_sharp_lesion_has_nothing_outside_and_all_inside():
    mask = ball()
    assert layer_profile(lesion_of(-850 + 800.0 * mask, mask)) == pytest.approx([1, 1, 1, 0, 0, 0])


def test_a_blurred_lesion_fades():
    mask = ball()
    shares = layer_profile(lesion_of(gaussian_filter(-850 + 800.0 * mask, 1.0), mask))
    assert (np.diff(shares) < 0).all()
    assert shares[LAYERS.index(1)] > 0.15 and 0.5 < shares[LAYERS.index(-1)] < 0.85


def test_without_contrast_or_surroundings_there_is_no_profile():
    mask = ball()
    assert np.isnan(layer_profile(lesion_of(np.zeros(mask.shape), mask))).all()
    assert np.isnan(layer_profile(lesion_of(1.0 * mask, np.ones_like(mask)))).all()
    assert profiles([]).shape == (0, len(LAYERS))


def test_grain_is_the_noise_inside_against_the_noise_around():
    mask, rng = ball(8), np.random.default_rng(0)
    noise = rng.normal(0, 20, mask.shape)
    inside, scan = grain(lesion_of(np.where(mask, 3 * noise, noise), mask))
    assert inside / scan == pytest.approx(3, rel=0.25)
    same = grain_ratios([lesion_of(noise, mask)])
    assert same[0] == pytest.approx(1, rel=0.25)


def test_a_lesion_without_core_has_no_grain():
    assert np.isnan(grain_ratios([lesion_of(np.ones((33, 33, 33)), ball(2))])).all()
