"""Images' units to [-1, 1] and back."""

import numpy as np
import pytest
import torch

from LeFusion.dataset.intensity import IntensityMap, range_of, same_units


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_intensity_map_by_hand_and_back(kind):
    window = IntensityMap.of(kind(np.zeros(3)), [-1000, 400])
    mapped = window.to_network(kind(np.array([-2000, -1000, -300, 400, 3071], np.int16)))
    assert mapped.tolist() == [-1, -1, 0, 1, 1] and str(mapped.dtype).endswith("float32")
    values = np.arange(-1000, 401).astype(np.int16)
    back = np.asarray(window.to_source(window.to_network(kind(values))))
    np.testing.assert_array_equal(np.rint(back), values)
    np.testing.assert_allclose(back, values, atol=1e-4)


def test_minmax_takes_the_volumes_own_range():
    assert IntensityMap.of(np.array([3.0, -2, 11]), "minmax") == IntensityMap(-2, 11)
    assert IntensityMap.of(torch.tensor([3.0, -2, 11]), "minmax") == IntensityMap(-2, 11)
    for values, window in [
        (np.full(4, 7.0), "minmax"),
        (np.arange(4.0), "mean"),
        (np.arange(4.0), (1, 2, 3)),
        (np.arange(4.0), (400, -1000)),
        (np.arange(4.0), (0, float("nan"))),
    ]:
        with pytest.raises(ValueError):
            IntensityMap.of(values, window)


@pytest.mark.parametrize("hot", [[7000], [7000] * 3, [-7000], [7000, -9000, 650000], [1200, 1300]])
@pytest.mark.parametrize("shape", [(12, 12, 8), (96, 96, 8)])
def test_hot_voxels_do_not_change_minmax(hot, shape):
    """Nor what the network sees of the others; a scan without such keeps its range, whatever its tail."""
    values = np.random.default_rng(0).gamma(4, 60, shape).clip(0, 700).round()
    values.flat[-2:] = 0, 700
    clean = IntensityMap.of(values, "minmax")
    assert clean == IntensityMap(0, 700)
    bad = values.copy()
    where = [5 + 7 * number for number in range(len(hot) if shape[0] > 12 else 1)]
    bad.flat[where] = hot[: len(where)]
    assert IntensityMap.of(bad, "minmax") == clean
    assert range_of(torch.as_tensor(bad).numpy().astype(np.int32)) == (0, 700)
    assert IntensityMap.of(bad, {"percentiles": [0, 100]}) != clean


def test_a_small_bright_structure_is_no_hot_voxel():
    values = np.random.default_rng(0).normal(100, 10, (96, 96, 8)).clip(60, 140)
    values[40:43, 40:43, 3:5] = 900  # 18 voxels of 73,728
    assert IntensityMap.of(values, "minmax").high == 900
    assert range_of(np.array([0.0, 1, 2, 3000])) == (0, 3000) and range_of(np.full(5000, 3.0)) == (3, 3)


def test_which_windows_weights_may_see():
    shares = {"percentiles": [0.5, 99.5]}
    assert same_units("minmax", shares) and same_units(shares, "minmax") and same_units([0, 4], (0.0, 4.0))
    assert (
        not same_units([0, 4], "minmax") and not same_units(shares, (0, 4)) and not same_units([0, 4], [0, 5])
    )


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_percentiles_leave_the_extremes_out(kind):
    values = kind(np.concatenate([np.arange(101.0), [-5000.0] * 10, [9000.0] * 10]))
    clean = kind(np.arange(101.0))
    assert IntensityMap.of(clean, {"percentiles": [5, 90]}) == IntensityMap(5, 90)
    assert IntensityMap.of(clean, {"percentiles": (0, 100)}) == IntensityMap.of(clean, "minmax")
    window = IntensityMap.of(values, {"percentiles": [10, 90]})
    assert 0 <= window.low < 5 and 95 < window.high <= 100
    mapped = window.to_network(values)
    assert (float(mapped.min()), float(mapped.max())) == (-1, 1)


@pytest.mark.parametrize(
    "percentiles", [[99, 1], [5, 5], [50], [0, 50, 100], [-1, 99], [1, 101], [float("nan"), 99]]
)
def test_other_percentiles_are_refused(percentiles):
    with pytest.raises(ValueError, match="window percentiles"):
        IntensityMap.of(np.arange(101.0), {"percentiles": percentiles})


def test_percentiles_without_range_between_them_are_refused_with_the_value():
    mostly_air = np.array([7.0] * 99 + [50.0])
    with pytest.raises(ValueError, match=r"percentiles \[1\.0, 90\.0\] are both 7"):
        IntensityMap.of(mostly_air, {"percentiles": [1, 90]})
    with pytest.raises(ValueError, match="minmax: every voxel is 7"):
        IntensityMap.of(mostly_air[:99], "minmax")


@pytest.mark.parametrize(
    "window",
    [
        {"percentiles": 99},
        {"percentiles": None},
        {"percentile": [1, 99]},
        {},
        5,
        None,
        ["low", 4],
        {"percentiles": ["a", 99]},
    ],
)
def test_windows_of_another_kind_are_refused_as_the_users_mistake(window):
    """A ValueError, which a command shows in one line; any other kind of error is a traceback."""
    with pytest.raises(ValueError):
        IntensityMap.of(np.arange(101.0), window)
