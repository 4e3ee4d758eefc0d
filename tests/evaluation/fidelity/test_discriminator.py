"""The classifier's AUC: chance on one distribution, 1 on two, and no leak through groups."""

import numpy as np
import pytest

from evaluation_pipeline.fidelity.discriminator import (
    auc_interval,
    discriminate,
    groups_for,
    out_of_fold_scores,
    real_halves_auc,
)
from evaluation_pipeline.fidelity.lesions import TooLittleData


def names(count: int, prefix: str = "P", each: int = 1) -> list[str]:
    return [f"{prefix}{number // each}" for number in range(count)]


def auc_of(real, synthetic, groups) -> dict:
    everything = {"all": range(real.shape[1])}
    return discriminate(real, synthetic, groups, everything, np.random.default_rng(0), seed=0)["all"]


def test_one_distribution_gives_chance():
    found = []
    for seed in range(5):
        real, synthetic = np.random.default_rng(seed).standard_normal((2, 60, 4))
        result = auc_of(real, synthetic, names(60) + names(60, "S"))
        assert result["low"] < result["auc"] < result["high"]
        found.append(result["auc"])
    assert 0.4 < np.mean(found) < 0.6


def test_disjoint_distributions_are_told_apart():
    real, synthetic = np.random.default_rng(0).standard_normal((2, 30, 4))
    result = auc_of(real, synthetic + 8, names(30) + names(30, "S"))
    assert (result["auc"], result["low"], result["high"]) == (1, 1, 1)
    assert result["roc"][0][0] <= 0.05 and result["roc"][1][-1] == 1


def test_a_group_is_never_seen_in_training():
    """Features that tell groups, not classes, apart: nearest-neighbour knowledge of a group would give 1."""
    generator = np.random.default_rng(1)
    centres = np.repeat(generator.standard_normal((12, 30)), 8, axis=0)
    features = centres + 0.01 * generator.standard_normal((96, 30))
    groups = names(96, each=8)
    truth = np.arange(96) >= 48
    scores = out_of_fold_scores(features, truth, groups, seed=0)
    assert auc_interval(scores, truth, groups, generator)[0] < 0.8
    leaked = out_of_fold_scores(features, truth, names(96), seed=0)
    assert auc_interval(leaked, truth, groups, generator)[0] > 0.95


def test_the_interval_is_that_of_groups():
    """Eight equal lesions of a group are one piece of evidence: the interval is wider than for single."""
    scores = np.repeat(np.random.default_rng(2).standard_normal(12), 8)
    truth = np.arange(96) >= 48
    widths = []
    for groups in (names(96, each=8), names(96)):
        _, low, high = auc_interval(scores, truth, groups, np.random.default_rng(0))
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1]


def test_too_few_groups():
    features = np.zeros((20, 2))
    truth = np.arange(20) >= 10
    with pytest.raises(TooLittleData, match="10 real and 1 synthetic"):
        out_of_fold_scores(features, truth, names(10) + ["S"] * 10, 0)


def test_groups_are_patients_where_there_are_enough():
    groups, words = groups_for(["A", "B"], ["S1", "S2", "S3", "A"], ["c1", "c2", "c3", "c4"])
    assert groups == ["A", "B", "S1", "S2", "S3", "A"]
    assert words == "by patient"
    groups, words = groups_for(["A"], ["S", "S"], ["S_CVol_1", "S_CVol_2"])
    assert len(set(groups)) == 3
    assert "1 patient" in words


def test_real_halves_are_at_chance():
    features = np.random.default_rng(3).standard_normal((60, 3))
    found = real_halves_auc(features, names(60), np.random.default_rng(0), 0)
    assert found["low"] <= found["mean"] <= found["high"]
    assert 0.35 < found["mean"] < 0.65
