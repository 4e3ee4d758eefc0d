"""The masks that DiffMask has to beat."""

import numpy as np
import pytest

from DiffMask.shapes.baselines import AXIS_RATIO, SHAPE, deformed_ellipsoid, sphere
from DiffMask.shapes.features import shape_features


@pytest.mark.parametrize("make", [sphere, deformed_ellipsoid])
@pytest.mark.parametrize("diameter_mm", [5, 9, 22])
def test_volume_is_that_of_the_diameter(make, diameter_mm):
    masks = [make(diameter_mm, (0, i)) for i in range(6)]
    assert all(mask.shape == SHAPE and mask.dtype == bool for mask in masks)
    volumes = [mask.sum() for mask in masks]
    assert np.mean(volumes) == pytest.approx(np.pi / 6 * diameter_mm**3, rel=0.06)


@pytest.mark.parametrize("make", [sphere, deformed_ellipsoid])
def test_a_seed_is_an_address(make):
    first = make(9, (0, 1))
    np.testing.assert_array_equal(first, make(9, (0, 1)))
    assert any((first != make(9, (0, i))).any() for i in range(2, 6))


def test_sphere_is_round_and_the_other_is_not():
    assert shape_features(sphere(16, 0))["flatness"] > 0.97
    features = [shape_features(deformed_ellipsoid(16, i)) for i in range(8)]
    assert AXIS_RATIO[0] - 0.1 < np.mean([f["flatness"] for f in features]) < 0.85
    assert np.mean([f["roughness"] for f in features]) > 0.02


def test_spacing_counts():
    mask = sphere(12, 0, shape=(10, 40, 40), spacing_mm=(2.0, 0.5, 0.5))
    assert shape_features(mask, (2.0, 0.5, 0.5))["diameter_mm"] == pytest.approx(12, rel=0.05)
    spans = (np.ptp(np.argwhere(mask), axis=0) + 1) * (2, 0.5, 0.5)
    np.testing.assert_allclose(spans, 12, atol=2)


def test_what_does_not_fit_is_refused():
    for make in (sphere, deformed_ellipsoid):
        with pytest.raises(ValueError, match="40 mm does not fit"):
            make(40, 0)
    with pytest.raises(ValueError, match="holds no voxel"):
        sphere(0.01, 0)
