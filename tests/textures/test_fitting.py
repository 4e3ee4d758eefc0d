"""Texture types: planted groups are found, a real lesion stands for each."""

import math

import numpy as np
import pytest
from planted_textures import BINS, bumps, planted, two_classes

from LeFusion.textures.fitting import cumulative_features, describe, fit_textures
from LeFusion.textures.histograms import mean_intensity


@pytest.mark.parametrize("types", [3, "auto"])
def test_planted_groups_are_found_darkest_first(types):
    histograms, group = planted((12, 20), (3, 5), (7, 10))
    fit = fit_textures(histograms, BINS, types)
    assert fit.labels.tolist() == np.array([2, 0, 1])[group].tolist()
    assert [group[medoid] for medoid in fit.medoids] == [1, 2, 0]
    means = [mean_intensity(histograms[medoid], BINS, (0, 16)) for medoid in fit.medoids]
    assert means == pytest.approx([3.5, 7.5, 12.5], abs=0.3)


@pytest.mark.parametrize("centres", [(4, 11), (1, 5, 9, 14), (0, 3, 6, 9, 12, 15)])
def test_auto_finds_the_planted_number(centres):
    histograms, _ = planted(*((centre, 12) for centre in centres))
    fit = fit_textures(histograms, BINS)
    assert len(fit.medoids) == len(centres) == max(fit.scores, key=fit.scores.get)
    assert sorted(fit.scores) == list(range(2, 9))
    assert fit.scores[len(centres)] == pytest.approx(fit.silhouettes.mean())


def test_the_medoid_is_the_member_nearest_to_all_others():
    histograms = np.concatenate([bumps(5, 15, seed=0, width=2), bumps(12, 9, seed=1)])
    fit = fit_textures(histograms, BINS, 2)
    features = np.cumsum(histograms, axis=1)
    for kind, medoid in enumerate(fit.medoids):
        members = np.flatnonzero(fit.labels == kind)
        sums = [sum(np.linalg.norm(features[i] - features[j]) for j in members) for i in members]
        assert medoid == members[np.argmin(sums)]
        expected = [np.linalg.norm(features[i] - features[medoid]) / BINS**0.5 for i in members]
        assert fit.distances[members] == pytest.approx(expected, abs=1e-9)
        assert fit.distances[medoid] == 0


def test_a_few_bins_apart_is_nearer_than_many():
    """Spikes in bins 2, 5, 12 and 14: bin by bin all are equally far, for the eye there are two groups."""
    histograms = np.eye(BINS)[[2, 12, 5, 14]]
    assert fit_textures(histograms, BINS, 2).labels.tolist() == [0, 1, 0, 1]
    features = cumulative_features(histograms, BINS)
    assert np.linalg.norm(features[0] - features[1]) == pytest.approx((10 / BINS) ** 0.5)


@pytest.mark.parametrize("types", [1, 3, "auto"])
def test_order_and_repetition_change_nothing(types):
    histograms = np.random.default_rng(3).dirichlet(
        np.ones(BINS), 60
    )  # no groups: the start of k-means decides
    fit = fit_textures(histograms, BINS, types, seed=4)
    again = fit_textures(histograms, BINS, types, seed=4)
    shuffle = np.random.default_rng(5).permutation(len(histograms))
    shuffled = fit_textures(histograms[shuffle], BINS, types, seed=4)
    assert shuffle[shuffled.medoids].tolist() == fit.medoids.tolist() == again.medoids.tolist()
    assert shuffled.labels.tolist() == fit.labels[shuffle].tolist()
    assert shuffled.scores == fit.scores == again.scores
    np.testing.assert_array_equal(shuffled.silhouettes, fit.silhouettes[shuffle])


def test_of_equal_lesions_the_first_is_the_medoid():
    histograms = np.eye(BINS)[[9, 3, 9, 3, 9]]
    assert fit_textures(histograms, BINS, 2).medoids.tolist() == [1, 0]


def test_every_lesion_its_own_type():
    fit = fit_textures(np.eye(BINS)[[9, 3, 12]], BINS, 3)
    assert fit.labels.tolist() == [1, 0, 2] and fit.medoids.tolist() == [1, 0, 2]
    assert np.isnan(fit.silhouettes).all()


# --- classes that a lesion lacks


def test_types_part_textures_and_not_presence_of_a_class():
    histograms, group = two_classes()
    fit = fit_textures(histograms, BINS, "auto")
    assert fit.labels.tolist() == group.tolist()


def test_a_lesion_with_all_classes_stands_for_its_type():
    histograms, _ = two_classes(with_second=(3, 14))
    fit = fit_textures(histograms, BINS, 2)
    assert fit.medoids.tolist() == [3, 14]
    histograms, _ = two_classes(with_second=(3,))
    textures = describe(
        fit_textures(histograms, BINS, 2), histograms, list("abcdefghijklmnop"), "x", 16, "minmax"
    )
    sums = [np.reshape(kind.histogram, (2, BINS)).sum(axis=1) for kind in textures.types]
    assert sums[0] == pytest.approx([1, 1], abs=1e-5)
    assert sums[1][0] == pytest.approx(1, abs=1e-5) and sums[1][1] == 0
    assert textures.types[1].mean_intensity == pytest.approx(11.5 / 16, abs=0.02)


def test_a_class_that_nobody_has_changes_nothing():
    histograms, _ = planted((12, 20), (3, 5))
    fit = fit_textures(histograms, BINS, 2)
    padded = fit_textures(np.pad(histograms, [(0, 0), (0, BINS)]), BINS, 2)
    assert padded.labels.tolist() == fit.labels.tolist() and padded.medoids.tolist() == fit.medoids.tolist()


# --- what is refused


@pytest.mark.parametrize(
    "types, message",
    [
        (5, "types=5 needs as many different lesions, got 4"),
        (0, "types=0 must be auto or a whole number of at least 1"),
        (2.0, "types=2.0 must be"),
        (True, "types=True must be"),
        ("three", "types=three must be"),
    ],
)
def test_bad_numbers_of_types_are_refused(types, message):
    with pytest.raises(ValueError, match=message):
        fit_textures(np.eye(BINS)[[1, 5, 9, 9, 12]], BINS, types)


def test_auto_needs_three_different_lesions():
    with pytest.raises(ValueError, match="at least 3 different lesions, got 2"):
        fit_textures(np.eye(BINS)[[1, 5, 5, 1]], BINS)


@pytest.mark.parametrize("bin_value", [-0.1, math.nan, math.inf, 0.5])
def test_bad_histograms_are_refused(bin_value):
    histograms = np.eye(BINS)[[1, 5, 9]]
    histograms[1, 0] = bin_value
    with pytest.raises(
        ValueError, match=f"histogram .{bin_value}, .* must hold finite numbers >= 0, of sum 1"
    ):
        fit_textures(histograms, BINS, 2)


@pytest.mark.parametrize("shape", [(0, 16), (3, 15), (3, 0), (16,)])
def test_bad_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="must be lesions x .classes x 16 bins"):
        fit_textures(np.ones(shape) / 16, BINS, 2)


def test_a_lesion_without_any_class_is_refused():
    with pytest.raises(ValueError, match="of sum 1"):
        fit_textures(np.concatenate([np.eye(BINS)[[1, 5]], np.zeros((1, BINS))]), BINS, 2)


# --- intensities
