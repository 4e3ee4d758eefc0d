"""Histograms under other noise and beside other lung, by what must hold."""

import numpy as np
import pytest
import torch

from LeFusion.textures.noise import under_lung, under_noise

BINS = 64
CENTRES = (np.arange(BINS) + 0.5) / BINS * 2 - 1


def layers(sds=(0.1, 0.25), shares=(0.4, 0.6), bins=BINS):
    centres = (np.arange(bins) + 0.5) / bins * 2 - 1
    found = np.stack([np.exp(-((centres - 0.1) ** 2) / (2 * sd**2)) for sd in sds])
    return torch.from_numpy(found / found.sum(1, keepdims=True) * np.array(shares)[:, None]).float()


def moments(layer):
    shares = layer.double().numpy() / float(layer.sum())
    mean = (shares * CENTRES).sum()
    return mean, (shares * (CENTRES - mean) ** 2).sum()


@pytest.mark.parametrize("of, wanted", [(0.02, 0.1), (0.05, 0.15), (0.08, 0.05), (0.1, 0.06)])
def test_the_variance_of_each_layer_changes_by_that_of_the_noise(of, wanted):
    given = layers()
    for before, after in zip(given, under_noise(given, of, wanted), strict=True):
        (mean, variance), (new_mean, new_variance) = moments(before), moments(after)
        assert new_mean == pytest.approx(mean, abs=0.01)
        assert new_variance - variance == pytest.approx(wanted**2 - of**2, rel=0.05, abs=3e-4)


def test_equal_noise_changes_nothing_and_sums_are_kept():
    given = torch.cat([layers(), torch.zeros(1, BINS)])
    assert torch.equal(under_noise(given, 0.07, 0.07), given)
    for wanted in (0.0, 0.03, 0.2):
        changed = under_noise(given, 0.07, wanted)
        assert torch.allclose(changed.sum(dim=1), given.sum(dim=1), atol=1e-6) and bool((changed >= 0).all())


def test_a_layer_is_never_drawn_together_beyond_a_quarter():
    """All its spread would be noise, and more."""
    (given,) = layers(sds=(0.2,), shares=(1.0,))
    (found,) = under_noise(given[None], 0.5, 0.0)
    assert moments(found)[1] == pytest.approx(moments(given)[1] / 16, rel=0.15)


def test_noise_at_the_end_of_the_window_stays_within():
    given = torch.zeros(1, BINS)
    given[0, -1] = 1
    found = under_noise(given, 0.0, 0.2)
    assert float(found.sum()) == pytest.approx(1) and float(found[0, -1]) == float(found.max())


WATER = 3 / 7  # 0 HU in a window from -1000 to 400


def spike(value):
    found = torch.zeros(1, BINS)
    found[0, int((value + 1) / 2 * BINS)] = 1
    return found


@pytest.mark.parametrize("of, wanted", [(-0.8, -0.45), (-0.45, -0.8)])
def test_lung_becomes_the_other_lung_and_water_stays_water(of, wanted):
    """And what is halfway between them is halfway still."""
    for value, moved in ((of, wanted), ((of + WATER) / 2, (wanted + WATER) / 2), (0.6, 0.6)):
        found = under_lung(spike(value), of, wanted, WATER)
        assert moments(found[0])[0] == pytest.approx(moved, abs=1.5 / BINS)


def test_other_lung_keeps_the_sums_and_the_same_lung_keeps_all():
    given = torch.cat([layers(), torch.zeros(1, BINS)])
    assert torch.allclose(under_lung(given, -0.8, -0.8, WATER), given, atol=1e-6)
    for wanted in (-0.99, -0.5):
        found = under_lung(given, -0.8, wanted, WATER)
        assert torch.allclose(found.sum(dim=1), given.sum(dim=1), atol=1e-6) and bool((found >= 0).all())
