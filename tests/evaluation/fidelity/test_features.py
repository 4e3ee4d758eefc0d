"""Radiomics features against hand-made answers."""

import numpy as np
import pytest

from evaluation_pipeline.fidelity.features import (
    GLCM,
    LEVELS,
    NAMES,
    SHAPE,
    feature_table,
    first_order,
    glcm,
    quantise,
    shape,
)
from evaluation_pipeline.fidelity.lesions import Lesion

SCALE = (0.0, 320.0)  # ten units a level


def ball(radius: float, side: int = 25) -> np.ndarray:
    places = np.indices((side,) * 3) - side // 2
    return (places**2).sum(axis=0) <= radius**2


def test_a_constant_lesion():
    values = np.full(20, 45.0)
    assert first_order(values, SCALE) == [45, 0, 0, 0, 45, 45, 45, 0]
    image = np.full((2, 4, 5), 45.0)
    assert glcm(image, np.ones(image.shape, bool), SCALE) == [0, 0, 1, 1, 1]


def test_a_lesion_without_neighbours_counts_as_constant():
    mask = np.zeros((2, 5, 5), bool)
    mask[0, 2, 2] = True
    noise = np.random.default_rng(0).uniform(0, 320, mask.shape)
    assert glcm(noise, mask, SCALE) == [0, 0, 1, 1, 1]


def test_first_order_of_two_values():
    mean, sd, skewness, kurtosis, p10, median, p90, entropy = first_order(np.array([10.0, 110.0] * 50), SCALE)
    assert (mean, sd, skewness, median, entropy) == pytest.approx((60, 50, 0, 60, 1))
    assert kurtosis == pytest.approx(-2)  # of a coin
    assert (p10, p90) == (10, 110)


def test_glcm_of_a_chessboard():
    """Neighbours in a row or column are 3 levels apart, diagonal ones equal."""
    rows, columns = np.indices((8, 8))
    image = np.where((rows + columns) % 2, 65.0, 35.0)[None]
    contrast, dissimilarity, homogeneity, _, correlation = glcm(image, np.ones(image.shape, bool), SCALE)
    assert contrast == pytest.approx((9 + 0 + 9 + 0) / 4)
    assert dissimilarity == pytest.approx(1.5)
    assert homogeneity == pytest.approx((0.1 + 1 + 0.1 + 1) / 4)
    assert correlation == pytest.approx(0, abs=0.02)  # -1 along rows and columns, 1 along diagonals


def test_glcm_does_not_look_outside_the_mask():
    generator = np.random.default_rng(1)
    image = generator.uniform(*SCALE, (3, 9, 9))
    mask = np.zeros(image.shape, bool)
    mask[:, 2:7, 3:8] = True
    other = np.where(mask, image, 0)
    assert glcm(image, mask, SCALE) == glcm(other, mask, SCALE)
    assert glcm(image, mask, SCALE) != glcm(image, np.ones_like(mask), SCALE)


def test_quantise_clamps_to_the_scale():
    found = quantise(np.array([-50.0, 0, 9.9, 10, 319, 320, 900]), SCALE)
    assert found.tolist() == [0, 0, 0, 1, LEVELS - 1, LEVELS - 1, LEVELS - 1]


def test_shape_of_a_ball():
    found = dict(zip(SHAPE, shape(ball(8), (1, 1, 1)), strict=True))
    assert found["log10_volume"] == pytest.approx(np.log10(4 / 3 * np.pi * 8**3), abs=0.01)
    assert found["diameter_mm"] == pytest.approx(16, abs=0.5)
    assert found["sphericity"] > 0.9
    assert (found["elongation"], found["flatness"]) == pytest.approx((1, 1), abs=1e-6)


def test_shape_of_a_rod():
    mask = np.zeros((3, 3, 20), bool)
    mask[1, 1, 2:18] = True
    found = dict(zip(SHAPE, shape(mask, (1, 1, 1)), strict=True))
    assert found["diameter_mm"] == 15  # between voxel centres
    assert found["elongation"] == pytest.approx(1 / 16)  # a box of 16 x 1 x 1
    assert found["sphericity"] < 0.7


def test_shape_counts_in_millimetres():
    mask = ball(4, 13)
    mask[:, :6] = False
    once, twice = (np.array(shape(mask, (step, step, step))) for step in (1, 2))
    assert twice - once == pytest.approx([np.log10(8), once[1], 0, 0, 0], abs=1e-6)
    stretched = np.zeros((5, 5, 5), bool)
    stretched[2, 2, 2] = True
    assert shape(stretched, (4, 1, 1))[3] == pytest.approx(0.25)  # one voxel, four times as deep as wide


def test_the_table_is_finite_for_a_single_voxel():
    mask = np.zeros((3, 5, 5), bool)
    mask[1, 2, 2] = True
    lesion = Lesion(
        "A", "A", 1, None, np.zeros(mask.shape, np.float32), mask, mask.astype(np.uint8), (1, 1, 1)
    )
    table = feature_table([lesion, lesion], SCALE)
    assert table.shape == (2, len(NAMES))
    assert np.isfinite(table).all()
    assert table[0, NAMES.index(GLCM[2])] == 1
