"""Conditions: what they sum to, what a perturbation may change, and how far apart two are."""

import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch

from LeFusion.textures.histograms import (
    blend_histograms,
    condition_from_counts,
    jensen_shannon,
    lesion_histogram,
    match_intensities,
    mean_intensity,
    move_histograms,
    perturb,
    refined,
    shift_histogram,
    wasserstein_distance,
)

BINS = 16
WINDOW = (-1000.0, 400.0)


def random_condition(classes=2, seed=0) -> torch.Tensor:
    values = torch.rand(classes, BINS, generator=torch.Generator().manual_seed(seed))
    return (values / values.sum(dim=1, keepdim=True)).flatten()


def class_sums(condition):
    return condition.reshape(-1, BINS).sum(dim=1).tolist()


def test_counts_become_shares_of_each_class():
    counts = [1, 3] + [0] * 14 + [2] * 16
    condition = condition_from_counts(counts, 32, BINS)
    assert condition.dtype == torch.float32 and condition.shape == (32,)
    assert condition.tolist() == pytest.approx([0.25, 0.75] + [0] * 14 + [1 / 16] * 16)
    assert torch.equal(condition_from_counts([c * 1000 for c in counts], 32, BINS), condition)


def test_an_absent_class_stays_zero():
    condition = condition_from_counts([0] * 16 + [5] + [0] * 15, 32, BINS)
    assert class_sums(condition) == [0, 1]


@pytest.mark.parametrize("length", [15, 17, 32])
def test_another_number_of_bins_is_refused(length):
    with pytest.raises(ValueError, match=f"a texture histogram has {length} bins, the network takes 16"):
        condition_from_counts([1.0] * length, 16, BINS)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_bad_counts_are_refused(value):
    with pytest.raises(ValueError, match="must hold finite numbers >= 0, not all zero"):
        condition_from_counts([1.0] * 15 + [value], 16, BINS)


def test_no_counts_at_all_are_refused():
    with pytest.raises(ValueError, match="not all zero"):
        condition_from_counts([0] * 16, 16, BINS)


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.9])
def test_perturbed_histograms_are_histograms_within_the_bound(strength):
    condition = random_condition()
    ratios = []
    for case in range(50):
        perturbed = perturb(condition, strength, BINS, (0, f"case {case}"))
        assert perturbed.dtype == torch.float32 and class_sums(perturbed) == pytest.approx([1, 1], abs=1e-6)
        ratio = (perturbed / condition).reshape(2, BINS)
        # the normalisation is common to a class, so that the factors show in how bins change to one another
        ratios.append((ratio.amax(dim=1) / ratio.amin(dim=1)).max())
    bound = (1 + strength) / (1 - strength)
    assert 0.6 * bound < max(ratios) < bound * (1 + 1e-5)


def test_no_strength_changes_nothing():
    condition = random_condition()
    assert torch.allclose(perturb(condition, 0, BINS, (1,)), condition, atol=1e-7)


def test_every_address_has_its_own_draw_whatever_the_order():
    condition = random_condition()
    addresses = [(0, "A", "texture 1"), (0, "B", "texture 1"), (1, "A", "texture 1"), (0, "A", "texture 2")]
    draws = [perturb(condition, 0.3, BINS, address) for address in addresses]
    torch.manual_seed(5)
    again = [perturb(condition, 0.3, BINS, address) for address in reversed(addresses)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(draws, again, strict=True))
    assert len({tuple(draw.tolist()) for draw in draws}) == 4
    first, second = (draws[0] / condition).reshape(2, BINS)
    assert not torch.allclose(first, second, atol=1e-2)  # a factor for each bin of each class


def test_absent_classes_and_empty_bins_stay_empty():
    condition = torch.cat([torch.zeros(BINS), torch.tensor([0.5, 0, 0.5] + [0.0] * 13)])
    perturbed = perturb(condition, 0.4, BINS, (2,))
    assert torch.equal(perturbed == 0, condition == 0) and class_sums(perturbed) == pytest.approx([0, 1])


def test_factors_are_fair():
    """On average a bin keeps its share: factors lie evenly about 1."""
    condition = torch.full((BINS,), 1 / BINS)
    mean = torch.stack([perturb(condition, 0.5, BINS, (case,)) for case in range(2000)]).mean(dim=0) * BINS
    assert float((mean - 1).abs().max()) < 4 * 0.5 / 3**0.5 / 2000**0.5


@pytest.mark.parametrize("strength", [-0.1, 1.0, 2])
def test_bad_strengths_are_refused(strength):
    with pytest.raises(ValueError, match=rf"histogram_perturbation={strength} must be in \[0, 1\)"):
        perturb(random_condition(), strength, BINS, (0,))


def scipy_distance(first, second, window):
    edges = np.linspace(*window, BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    return scipy.stats.wasserstein_distance(centres, centres, first, second)


@pytest.mark.parametrize("window", [WINDOW, (0.0, 873.5)])
def test_distance_agrees_with_scipy(window):
    first, second = random_condition(seed=1), random_condition(seed=2)
    expected = [
        scipy_distance(a.double().numpy(), b.double().numpy(), window)
        for a, b in zip(first.reshape(2, BINS), second.reshape(2, BINS), strict=True)
    ]
    assert expected[0] != pytest.approx(expected[1], rel=1e-2)
    assert wasserstein_distance(first, second, BINS, window) == pytest.approx(np.mean(expected), rel=1e-5)
    assert wasserstein_distance(first[:BINS], second[:BINS], BINS, window) == pytest.approx(
        expected[0], rel=1e-5
    )


def one_bin(index):
    return torch.eye(BINS)[index]


def test_distance_by_hand():
    assert wasserstein_distance(one_bin(2), one_bin(5), BINS, WINDOW) == pytest.approx(3 * 1400 / 16)
    assert wasserstein_distance(one_bin(5), one_bin(2), BINS, WINDOW) == pytest.approx(3 * 1400 / 16)
    assert wasserstein_distance(one_bin(5), one_bin(5), BINS, WINDOW) == 0


def test_a_class_that_both_lack_is_left_out():
    empty = torch.zeros(BINS)
    first, second = torch.cat([one_bin(2), empty]), torch.cat([one_bin(4), empty])
    assert wasserstein_distance(first, second, BINS, WINDOW) == pytest.approx(2 * 1400 / 16)


def test_a_class_that_one_lacks_has_no_distance():
    empty = torch.zeros(BINS)
    both, one = torch.cat([one_bin(2), one_bin(3)]), torch.cat([one_bin(2), empty])
    for first, second in ((both, one), (one, both), (torch.cat([empty, empty]),) * 2, (one_bin(1), empty)):
        assert math.isnan(wasserstein_distance(first, second, BINS, WINDOW))


def test_divergence_agrees_with_scipy():
    first, second = (random_condition(seed=seed).double() for seed in (1, 2))
    pairs = list(zip(first.reshape(2, BINS).numpy(), second.reshape(2, BINS).numpy(), strict=True))
    expected = [scipy.spatial.distance.jensenshannon(a, b, base=2) ** 2 for a, b in pairs]
    assert expected[0] != pytest.approx(expected[1], rel=1e-2)
    assert jensen_shannon(first, second, BINS) == pytest.approx(np.mean(expected), rel=1e-5)
    assert jensen_shannon(second, first, BINS) == pytest.approx(np.mean(expected), rel=1e-5)
    assert jensen_shannon(7 * first, second, BINS) == pytest.approx(np.mean(expected), rel=1e-5)


def test_divergence_by_hand():
    assert jensen_shannon(one_bin(2), one_bin(2), BINS) == 0
    assert jensen_shannon(one_bin(2), one_bin(3), BINS) == jensen_shannon(one_bin(2), one_bin(9), BINS) == 1
    half = (one_bin(2) + one_bin(3)) / 2  # entropy of (3/4, 1/4), less half a bit
    assert jensen_shannon(one_bin(2), half, BINS) == pytest.approx(2 - 0.75 * math.log2(3) - 0.5)


def test_divergence_stays_between_0_and_1():
    """Rounding does not take it below 0."""
    for seed in range(50):
        condition = random_condition(classes=1, seed=seed)
        assert 0 <= jensen_shannon(condition, condition * 3, BINS) < 1e-12
        assert 0 < jensen_shannon(condition, random_condition(classes=1, seed=seed + 1), BINS) < 1


def test_divergence_of_classes_that_are_absent():
    empty = torch.zeros(BINS)
    first, second = torch.cat([one_bin(2), empty]), torch.cat([one_bin(4), empty])
    assert jensen_shannon(first, second, BINS) == 1
    both = torch.cat([one_bin(2), one_bin(3)])
    for one, other in ((both, first), (first, both), (torch.cat([empty, empty]),) * 2, (one_bin(1), empty)):
        assert math.isnan(jensen_shannon(one, other, BINS))


def test_histogram_against_numpy_and_by_hand():
    rng = np.random.default_rng(4)
    image = torch.as_tensor(np.clip(rng.normal(size=(1, 6, 7, 8), scale=0.7), -1, 1), dtype=torch.float32)
    lesions = torch.as_tensor(rng.random((3, 6, 7, 8)) < 0.2)
    lesions[1] = False
    histogram = lesion_histogram(image, lesions).reshape(3, 16)
    for k in (0, 2):
        counts, _ = np.histogram(image[0][lesions[k]].numpy(), bins=16, range=(-1, 1))
        np.testing.assert_allclose(histogram[k], counts / lesions[k].sum().item(), rtol=1e-6)
        assert histogram[k].sum().item() == pytest.approx(1)
    assert not histogram[1].any()

    edges = torch.tensor([-1.0, -0.5, 0.0, 1.0]).reshape(1, 1, 1, 4)
    by_hand = lesion_histogram(edges, torch.ones(1, 1, 1, 4, dtype=torch.bool), bins=4)
    assert by_hand.tolist() == [0.25, 0.25, 0.25, 0.25]


def test_intensities_are_matched_by_hand():
    values = torch.tensor([0.3, -0.2, 0.9, 0.1])
    matched = match_intensities(values, torch.tensor([0.5, 0.0, 0.0, 0.5]))
    # ranks 1/8, 3/8 | 5/8, 7/8: in the first and the last bin, nearer to the ends as the middle is empty
    assert torch.allclose(matched, torch.tensor([0.7195, -0.9155, 0.9155, -0.7195]), atol=1e-4)
    assert torch.equal(values, torch.tensor([0.3, -0.2, 0.9, 0.1])) and matched.dtype == torch.float32
    assert torch.allclose(match_intensities(values, torch.tensor([7.0, 0, 0, 7])), matched)  # of any sum
    assert torch.allclose(
        match_intensities(torch.tensor([5.0]), torch.tensor([0.0, 0, 1, 0])), torch.tensor([0.25])
    )


def histogram_of(values, bins):
    return torch.histc(values, bins, -1, 1) / len(values)


def test_matched_intensities_have_the_histogram_and_keep_their_ranks():
    generator = torch.Generator().manual_seed(0)
    for bins in (4, 16):
        for voxels in (64, 333):
            values = torch.randn(voxels, generator=generator)
            histogram = torch.rand(bins, generator=generator) ** 4
            histogram[[0, bins // 2]] = 0
            histogram = histogram / histogram.sum()
            matched = match_intensities(values, histogram)
            assert float((histogram_of(matched, bins) - histogram).abs().max()) <= 1.001 / voxels
            assert not bool(histogram_of(matched, bins)[histogram == 0].any())
            assert bool((matched[values.argsort()].diff() >= 0).all())
            assert torch.equal(
                histogram_of(match_intensities(matched, histogram), bins), histogram_of(matched, bins)
            )
    whole = torch.tensor([0.125, 0.0, 0.5, 0.375])
    assert torch.equal(histogram_of(match_intensities(torch.randn(64, generator=generator), whole), 4), whole)


def test_equal_intensities_are_spread_in_the_order_of_the_voxels():
    matched = match_intensities(torch.zeros(4), torch.tensor([0.5, 0.5]))
    assert torch.allclose(matched, torch.tensor([-0.75, -0.25, 0.25, 0.75]))


def test_histograms_shift_by_whole_bins_and_pile_up_at_the_ends():
    histogram = torch.zeros(2, 8)
    histogram[0, [2, 3, 6]] = torch.tensor([0.5, 0.25, 0.25])  # the second class is absent
    shifted = shift_histogram(histogram.flatten(), 2 * 0.25, 8).reshape(2, 8)
    assert torch.allclose(shifted[0], torch.tensor([0, 0, 0, 0, 0.5, 0.25, 0, 0.25]))
    assert not bool(shifted[1].any())
    darker = shift_histogram(histogram.flatten(), -3 * 0.25, 8).reshape(2, 8)
    assert torch.allclose(darker[0], torch.tensor([0.75, 0, 0, 0.25, 0, 0, 0, 0]))
    assert torch.equal(shift_histogram(histogram.flatten(), 0.0, 8), histogram.flatten())
    far = shift_histogram(histogram.flatten(), -9.0, 8).reshape(2, 8)
    assert torch.allclose(far[0], torch.eye(8)[0])


def test_a_part_of_a_bin_goes_to_its_neighbour():
    one = torch.eye(8)[4]
    assert torch.allclose(shift_histogram(one, 0.25 * 0.25, 8), 0.75 * one + 0.25 * torch.eye(8)[5])
    assert torch.allclose(shift_histogram(one, -0.4 * 0.25, 8), 0.6 * one + 0.4 * torch.eye(8)[3])
    centres = (torch.arange(16) + 0.5) / 8 - 1
    generator = torch.Generator().manual_seed(0)
    histogram = torch.zeros(16)
    histogram[5:11] = torch.rand(6, generator=generator)
    histogram = histogram / histogram.sum()
    for shift in (-0.51, -0.1, 0.033, 0.6):
        shifted = shift_histogram(histogram, shift, 16)
        assert float(shifted.sum()) == pytest.approx(1)
        assert float((shifted - histogram) @ centres) == pytest.approx(
            shift, abs=1e-5
        )  # the mean moves by it


def test_moved_histograms_have_the_moved_moments():
    """A Gaussian in fine bins over another window, an empty class, and what piles up at the ends."""
    edges = np.linspace(-4, 8, 121)
    shares = np.diff(scipy.stats.norm(1.5, 0.8).cdf(edges))
    histograms = torch.from_numpy(np.stack([shares, 0 * shares])).float()
    moved = move_histograms(histograms, 0.2, -0.1, 64, (-4.0, 8.0))
    assert moved.shape == (2, 64) and not bool(moved[1].any())
    centres = (torch.arange(64) + 0.5) / 32 - 1
    mean = float(moved[0] @ centres)
    assert float(moved[0].sum()) == pytest.approx(1) and mean == pytest.approx(0.2 * 1.5 - 0.1, abs=2e-3)
    assert float(moved[0] @ (centres - mean) ** 2) ** 0.5 == pytest.approx(0.16, abs=3e-3)
    far = move_histograms(histograms, 0.2, 5.0, 8, (-4.0, 8.0))
    assert torch.allclose(far[0], torch.eye(8)[7])


def test_moving_by_nothing_keeps_a_histogram_and_moving_widens_no_peak():
    peak = torch.tensor([[0, 0, 0.1, 0.8, 0.1, 0, 0, 0]])
    assert torch.allclose(move_histograms(peak, 1.0, 0.0, 8), peak, atol=1e-6)
    half = move_histograms(peak, 1.0, 0.125, 8)[0]
    assert float(half[3] + half[4]) > float(shift_histogram(peak[0], 0.125, 8)[3:5].sum()) + 0.02


def test_a_blend_has_the_quantiles_between():
    first, second = torch.eye(8)[1], torch.eye(8)[5]
    for share, bin_of_all in ((0.0, 1), (0.25, 2), (0.5, 3), (1.0, 5)):
        assert torch.allclose(blend_histograms(first, second, share, 8), torch.eye(8)[bin_of_all], atol=2e-3)
    wide = torch.tensor([0.5, 0, 0, 0, 0, 0, 0, 0.5])  # dark half and bright half, each halfway to bin 3
    assert torch.allclose(
        blend_histograms(wide, torch.eye(8)[3], 0.5, 8), torch.tensor([0, 0.5, 0, 0, 0, 0.5, 0, 0]), atol=0.26
    )


def test_a_blend_is_a_histogram_whose_mean_lies_by_share_between():
    generator = torch.Generator().manual_seed(0)
    first, second = (h / h.sum() for h in torch.rand(2, 16, generator=generator) ** 3)
    centres = (torch.arange(16) + 0.5) / 8 - 1
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        blend = blend_histograms(first, second, share, 16)
        expected = float((1 - share) * first @ centres + share * second @ centres)
        assert blend.dtype == torch.float32 and float(blend.sum()) == pytest.approx(1)
        assert float(blend @ centres) == pytest.approx(expected, abs=0.02)
    assert torch.allclose(blend_histograms(first, second, 0.0, 16), first, atol=2e-3)
    assert torch.allclose(blend_histograms(first, second, 1.0, 16), second, atol=2e-3)


def test_a_class_that_one_lacks_is_taken_from_the_other():
    first, second, none = torch.eye(8)[1], torch.eye(8)[5], torch.zeros(8)
    blend = blend_histograms(torch.cat([first, none, none]), torch.cat([second, second, none]), 0.5, 8)
    expected = torch.cat([torch.eye(8)[3], second, none])
    assert torch.allclose(blend, expected, atol=2e-3)
    assert torch.equal(
        blend_histograms(torch.cat([first, second]), torch.cat([none, none]), 0.9, 8)[8:], second
    )


def test_refined_shares_keep_the_bins_and_their_peaks():
    histogram = torch.tensor([0.1, 0.0, 0.05, 0.6, 0.25])
    fine = refined(histogram, 8)
    assert torch.allclose(fine.reshape(5, 8).sum(1), histogram.double(), atol=1e-7)
    assert float(fine.min()) >= 0
    flat = refined(torch.full((4,), 0.25), 4)
    assert torch.allclose(flat, torch.full((16,), 1 / 16, dtype=torch.float64))
    peak = refined(torch.tensor([0.0, 0.1, 0.8, 0.1, 0.0]), 8).reshape(5, 8)
    assert float(peak[1, -1]) > float(peak[1, 0])  # towards the peak


def test_mean_intensity_by_hand():
    assert mean_intensity(np.eye(4)[3], 4, (-1000, 400)) == pytest.approx(400 - 175)
    both = np.concatenate([np.eye(4)[0], np.eye(4)[3]])
    assert mean_intensity(both, 4, (0, 1)) == pytest.approx(0.5)
    assert mean_intensity(np.concatenate([np.eye(4)[1], np.zeros(4)]), 4, (0, 8)) == pytest.approx(3)
