"""Bootstrap intervals and paired tests: known answers, clusters, and where nothing can be said."""

import math

import numpy as np
import pytest
from scipy import stats

from evaluation_pipeline.judging.intervals import bootstrap_mean, known_mean, paired_comparison

NORMAL = np.random.default_rng(0).normal(5, 2, 60)


def test_interval_of_normal_values_is_the_textbook_one():
    mean, low, high = bootstrap_mean(NORMAL)
    half = 1.96 * NORMAL.std() / math.sqrt(60)
    assert mean == pytest.approx(NORMAL.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_interval_widens_with_confidence_and_shrinks_with_n():
    def width(values, **settings):
        _, low, high = bootstrap_mean(values, **settings)
        return high - low

    assert width(NORMAL, confidence=0.99) > 1.2 * width(NORMAL)
    assert width(np.tile(NORMAL, 4)) == pytest.approx(width(NORMAL) / 2, rel=0.1)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    samples = rng.beta(5, 2, (200, 20))  # skewed, as Dice is
    covered = 0
    for sample in samples:
        _, low, high = bootstrap_mean(sample, resamples=400)
        covered += low <= 5 / 7 <= high
    assert 0.87 <= covered / 200 <= 0.985


def test_same_seed_same_interval():
    assert bootstrap_mean(NORMAL) == bootstrap_mean(NORMAL)
    assert bootstrap_mean(NORMAL) != bootstrap_mean(NORMAL, seed=1)


def test_repeated_cases_of_a_patient_are_no_new_evidence():
    patients = [f"P{i}" for i in range(60)]
    once = bootstrap_mean(NORMAL, patients)
    thrice = bootstrap_mean(np.repeat(NORMAL, 3), np.repeat(patients, 3))
    assert thrice == pytest.approx(once)
    _, low, high = bootstrap_mean(np.repeat(NORMAL, 3))
    assert high - low < 0.7 * (once[2] - once[1])


def test_patients_with_more_cases_weigh_more():
    mean, low, high = bootstrap_mean([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert mean == 0.75 and (low, high) == (0, 1)


def test_nan_is_left_out_with_its_patient():
    values, patients = [0.5, math.nan, 0.7, 0.9], ["a", "b", "c", "d"]
    assert bootstrap_mean(values, patients) == bootstrap_mean([0.5, 0.7, 0.9], ["a", "c", "d"])


@pytest.mark.parametrize(
    "values, patients, expected",
    [
        ([], None, (math.nan,) * 3),
        ([math.nan, math.nan], None, (math.nan,) * 3),
        ([0.4], None, (0.4, math.nan, math.nan)),
        ([0.4, 0.6], ["a", "a"], (0.5, math.nan, math.nan)),
        ([0.3, 0.3, 0.3], None, (0.3, 0.3, 0.3)),
        ([0.2, 0.8], None, (0.5, 0.2, 0.8)),
    ],
)
def test_few_or_equal_values(values, patients, expected):
    assert bootstrap_mean(values, patients) == pytest.approx(expected, nan_ok=True)


def test_interval_is_finite_where_bca_is_undefined():
    mean, low, high = bootstrap_mean([0.0] * 19 + [1.0])
    assert mean == 0.05 and 0 <= low < mean < high < 0.5
    mean, low, high = bootstrap_mean([1.0, 1.0, 0.0, 0.0])
    assert mean == 0.5 and 0 <= low < high <= 1


def test_paired_difference_and_p():
    baseline = np.random.default_rng(2).uniform(0.3, 0.9, 25)
    values = baseline + np.random.default_rng(3).normal(0.05, 0.05, 25)
    result = paired_comparison(values, baseline)
    assert result.n == 25
    assert result.difference == pytest.approx((values - baseline).mean())
    assert 0 < result.low < result.difference < result.high < 0.1
    assert result.p_value == pytest.approx(stats.wilcoxon(values, baseline).pvalue)
    turned = paired_comparison(baseline, values)
    assert (turned.difference, turned.p_value) == pytest.approx((-result.difference, result.p_value))
    # the spread over cases, about three times that of the differences, does not count
    assert result.high - result.low < 0.5 * np.ptp(bootstrap_mean(values)[1:])


def test_test_is_over_patients():
    differences = np.random.default_rng(4).normal(0.3, 1, 10)
    patients = np.repeat(np.arange(10), 4)
    result = paired_comparison(np.repeat(differences, 4), np.zeros(40), patients)
    once = paired_comparison(differences, np.zeros(10))
    assert result.p_value == once.p_value > stats.wilcoxon(np.repeat(differences, 4)).pvalue
    assert (result.low, result.high) == pytest.approx((once.low, once.high))


def test_no_difference_at_all():
    result = paired_comparison([0.3, 0.5, 0.9], [0.3, 0.5, 0.9])
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)


def test_equal_differences():
    result = paired_comparison([0.4, 0.6, 0.8, 0.9, 0.2, 0.3], [0.3, 0.5, 0.7, 0.8, 0.1, 0.2])
    assert (result.difference, result.low, result.high) == pytest.approx((0.1, 0.1, 0.1))
    assert result.p_value == pytest.approx(2 / 2**6)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_pairs_are_never_significant(n):
    assert paired_comparison(np.arange(n) + 1.0, np.zeros(n)).p_value == pytest.approx(2 / 2**n)


def test_pairs_with_nan_are_left_out():
    result = paired_comparison([1, math.nan, 3, 4], [0, 1, math.nan, 2], ["a", "b", "c", "d"])
    assert (result.n, result.difference) == (2, 1.5)
    nothing = paired_comparison([math.nan], [1])
    assert nothing.n == 0 and math.isnan(nothing.difference) and math.isnan(nothing.p_value)


def test_unequal_lengths():
    with pytest.raises(ValueError, match="3 values cannot be paired with 2"):
        paired_comparison([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="1 clusters were given for 2 values"):
        bootstrap_mean([1, 2], ["a"])


def test_known_mean():
    assert known_mean([1, math.nan, 3]) == 2 and math.isnan(known_mean([math.nan])) and known_mean([0]) == 0
