"""Images' units to [-1, 1] and back."""

import numpy as np
import pytest
import torch

from LeFusion.dataset.intensity import IntensityMap


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
