"""Shape features of figures whose features are known, and the statistics on them."""

import numpy as np
import pytest

from DiffMask.shapes import features as shapes
from DiffMask.shapes.baselines import deformed_ellipsoid, sphere


def ellipsoid(semi_axes_mm, shape=(40, 40, 40), spacing_mm=(1, 1, 1), centre=None) -> np.ndarray:
    centre = (np.array(shape) - 1) / 2 if centre is None else np.array(centre)
    way = (np.indices(shape).reshape(3, -1).T - centre) * spacing_mm / semi_axes_mm
    return (np.linalg.norm(way, axis=1) <= 1).reshape(shape)


def test_sphere():
    features = shapes.shape_features(ellipsoid((9, 9, 9)))
    assert tuple(features) == shapes.FEATURES
    assert features["sphericity"] == pytest.approx(1, abs=0.02) and features["sphericity"] <= 1
    assert features["sphere_share"] == pytest.approx(1, abs=0.1)
    assert features["elongation"] == pytest.approx(1, abs=0.01)
    assert features["flatness"] == pytest.approx(1, abs=0.01)
    assert features["roughness"] < 0.015 and features["spiculation"] < 0.015
    assert features["components"] == 1 and features["diameter_mm"] == pytest.approx(18, rel=0.01)


def test_ellipsoid():
    features = shapes.shape_features(ellipsoid((16, 8, 12)))
    assert features["elongation"] == pytest.approx(12 / 16, abs=0.01)
    assert features["flatness"] == pytest.approx(8 / 16, abs=0.01)
    assert features["sphere_share"] == pytest.approx(8 * 12 / 16**2, abs=0.04)
    # Knud Thomsen's formula for the area of an ellipsoid (within 1.1 %)
    a, b, c = (x**1.6075 for x in (16, 8, 12))
    area = 4 * np.pi * ((a * b + a * c + b * c) / 3) ** (1 / 1.6075)
    expected = np.cbrt(np.pi) * (6 * 4 / 3 * np.pi * 16 * 8 * 12) ** (2 / 3) / area
    assert features["sphericity"] == pytest.approx(expected, abs=0.02)


def test_features_are_those_of_the_figure_not_of_the_grid():
    coarse = ellipsoid((10, 6, 8), (13, 40, 40), (2.0, 0.8, 0.8))
    there = shapes.shape_features(coarse, (2.0, 0.8, 0.8))
    here = shapes.shape_features(ellipsoid((10, 6, 8)))
    tolerances = {"roughness": 0.02, "spiculation": 0.02, "sphere_share": 0.1, "diameter_mm": 0.2}
    for name in shapes.FEATURES:
        assert there[name] == pytest.approx(here[name], abs=tolerances.get(name, 0.04)), name


def test_features_do_not_depend_on_place_or_mirroring():
    mask = deformed_ellipsoid(14, (0, 1))
    moved = np.zeros((60, 70, 80), bool)
    moved[20:52, 3:67, 9:73] = mask
    features = shapes.shape_features(mask)
    assert shapes.shape_features(moved) == features
    assert shapes.shape_features(mask[::-1]) == pytest.approx(features, abs=0.01)


def test_spikes_raise_roughness_and_spiculation():
    directions = np.indices((48, 48, 48)).reshape(3, -1).T - 23.5
    length = np.linalg.norm(directions, axis=1)
    basis, degrees = shapes.spherical_harmonics(directions / length[:, None], 8)

    def figure(degree):
        wave = basis[:, np.flatnonzero(degrees == degree)[0]]
        return shapes.shape_features((length <= 14 + 4 * wave).reshape(48, 48, 48))

    low, high = figure(2), figure(8)
    assert high["roughness"] > 3 * low["roughness"] and high["spiculation"] > 3 * low["spiculation"]
    # The amplitude of the wave is 4 of 14 mm, its energy over the sphere 4^2 against 4 pi 14^2.
    assert high["spiculation"] == pytest.approx(4 / np.sqrt(4 * np.pi * 14**2 + 4**2), rel=0.2)


def test_components_touch_at_corners():
    mask = np.zeros((10, 10, 10), bool)
    mask[1:3, 1:3, 1:3] = mask[3:5, 3:5, 3:5] = True
    assert shapes.shape_features(mask)["components"] == 1
    mask[7:9, 7:9, 7:9] = True
    assert shapes.shape_features(mask)["components"] == 2


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 4), (2, 1, 1), (1, 5, 5)])
def test_tiny_masks_have_finite_features(size):
    assert np.isfinite(shapes.feature_matrix([np.ones(size)])).all()


def test_empty_mask_is_refused():
    with pytest.raises(ValueError, match="0 voxels"):
        shapes.shape_features(np.zeros((4, 4, 4)))


def test_harmonics_are_orthonormal():
    directions = shapes.sphere_directions(4000)
    basis, degrees = shapes.spherical_harmonics(directions, 6)
    gram = basis.T @ basis * 4 * np.pi / len(directions)
    np.testing.assert_allclose(gram, np.eye(49), atol=0.01)
    np.testing.assert_array_equal(np.bincount(degrees), [1, 3, 5, 7, 9, 11, 13])


def test_mmd():
    rng = np.random.default_rng(0)
    x, y, z = rng.normal(0, 1, (200, 3)), rng.normal(0, 1, (200, 3)), rng.normal(3, 1, (200, 3))
    assert shapes.mmd(x, x, 2.0) == pytest.approx(0, abs=1e-6)
    assert shapes.mmd(x, y, 2.0) == pytest.approx(shapes.mmd(y, x, 2.0))
    assert shapes.mmd(x, y, 2.0) < 0.15 < 0.7 < shapes.mmd(x, z, 2.0)
    # Two single points at distance d: sqrt(2 - 2 exp(-d^2 / (2 h^2)))
    value = shapes.mmd(np.zeros((1, 1)), np.full((1, 1), 3.0), 2.0)
    assert value == pytest.approx(np.sqrt(2 - 2 * np.exp(-9 / 8)))


def test_matching():
    generated, real = shapes.match_diameters([5, 40, 10.2, 20, 7.9, 30.0], [8, 5.1, 10, 20.5])
    pairs = dict(zip(generated.tolist(), real.tolist(), strict=True))
    assert pairs == {0: 1, 2: 2, 3: 3, 4: 0}
    with pytest.raises(ValueError, match="only 0 generated"):
        shapes.match_diameters([5.0] * 6, [20.0] * 6)


def test_centred_dice():
    mask = ellipsoid((5, 6, 7))
    moved = np.roll(mask, (3, -2, 4), (0, 1, 2))
    half = ellipsoid((5, 6, 7)) & (np.arange(40) < 20)
    dice = shapes.centred_dice([mask, moved], [mask, half])
    np.testing.assert_allclose(dice[:, 0], 1)
    # The whole one's centroid is at 19.5, which counts as 20.
    shift = np.floor(np.argwhere(half).mean(axis=0) + 0.5) - 20
    overlap = (np.roll(half, -shift.astype(int), (0, 1, 2)) & mask).sum()
    np.testing.assert_allclose(dice[:, 1], 2 * overlap / (mask.sum() + half.sum()))


def test_table():
    diameters = np.linspace(7, 12, 24)
    real = [deformed_ellipsoid(d, (0, i)) for i, d in enumerate(diameters)]
    same = [deformed_ellipsoid(d, (1, i)) for i, d in enumerate(diameters)]
    round_ones = [sphere(d, (0, i)) for i, d in enumerate(diameters)]
    table = shapes.shape_table({"same": same, "spheres": round_ones}, real, training=real[:8], splits=10)
    assert list(table) == ["real", "same", "spheres"]
    floor, same, spheres = table.values()
    assert floor["n"] == same["n"] == spheres["n"] == 24
    assert floor["diameter_mm"] == pytest.approx(same["diameter_mm"], rel=0.02)
    assert same["MMD"] < 1.5 * floor["MMD"] and spheres["MMD"] > 2 * floor["MMD"]
    assert spheres["sphericity KS"] > 0.8 > same["sphericity KS"]
    assert spheres["pair Dice"] > 0.85 > same["pair Dice"]
    assert floor["nearest training Dice"] > same["nearest training Dice"]  # a third is in the training set
    lines = shapes.markdown(table).splitlines()
    assert (
        " ".join(lines[0].split()) == "| | real | same | spheres |"
        and len(lines) == 2 + 1 + len(shapes.FEATURES) + 3
    )
    assert shapes.shape_table({"same": real}, real, splits=3) == shapes.shape_table(
        {"same": real}, real, splits=3
    )


def test_the_longest_axial_diameter_is_within_one_slice_from_edge_to_edge():
    one = np.zeros((4, 9, 9), bool)
    one[2, 4, 4] = True
    assert shapes.longest_axial_diameter_mm(one, (3.0, 0.5, 0.5)) == pytest.approx(0.5)
    rod = np.zeros((4, 9, 9), bool)
    rod[:, 4, 4] = True  # long, but not in a slice
    rod[1, 4, 2:7] = True
    assert shapes.longest_axial_diameter_mm(rod, (3.0, 0.5, 2.0)) == pytest.approx(10)
    diagonal = np.zeros((1, 5, 5), bool)
    diagonal[0, [0, 4], [0, 4]] = True
    assert shapes.longest_axial_diameter_mm(diagonal) == pytest.approx(np.hypot(4, 5))
    assert shapes.longest_axial_diameter_mm(ellipsoid((10, 6, 8))) == pytest.approx(16, abs=0.7)
    with pytest.raises(ValueError, match="empty"):
        shapes.longest_axial_diameter_mm(np.zeros((2, 2, 2), bool))
