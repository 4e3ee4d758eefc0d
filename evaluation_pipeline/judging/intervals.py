"""Bootstrap intervals of means, and paired comparisons. Cases of one patient are not independent."""

import math
import statistics
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from LeFusion.errors import UserError

RESAMPLES = 5000


@dataclass(frozen=True)
class PairedComparison:
    """values - baseline over paired cases.

    difference, low, high: mean difference and its interval; nan as in bootstrap_mean.
    p_value: two-sided Wilcoxon signed-rank test over patients; 1 when all differences are zero, nan without
        pairs.
    n: number of pairs.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int


def bootstrap_mean(
    values: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """(mean, low, high): the mean of the values that are not nan and its bootstrap interval.

    clusters: for each value its patient; whole patients are drawn then (one with more cases weighs more, as
    in the mean). BCa interval (Efron 1987), corrected for bias and skewness; the percentile interval where
    BCa is undefined. Few patients give intervals that are too narrow. One patient says nothing about others:
    the interval is nan. No value: all three are nan. Equal values: low = high = mean. Same seed, same result.

    Raises ValueError when there are not as many clusters as values.
    """
    values, clusters = _finite(values, clusters)
    if not len(values):
        return math.nan, math.nan, math.nan
    mean = float(values.mean())
    sums, counts = _per_cluster(values, clusters)
    if len(sums) < 2:
        return mean, math.nan, math.nan
    if np.ptp(values) == 0:
        return mean, mean, mean
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # scipy warns where BCa is undefined; that is what we look for
            interval = stats.bootstrap(
                (sums, counts),
                lambda s, c, axis: s.sum(axis) / c.sum(axis),
                paired=True,
                vectorized=True,
                n_resamples=resamples,
                batch=1000,  # bounds the memory for thousands of cases
                confidence_level=confidence,
                method=method,
                random_state=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite(interval).all():
            break
    return mean, float(interval.low), float(interval.high)


def paired_comparison(
    values: Sequence[float], baseline: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> PairedComparison:
    """Compares two methods on the same cases; pairs in which one is nan are left out.

    The test gets one mean difference a patient, because it takes its samples as independent. With fewer than
    6 patients its p cannot fall below 0.05, whatever the data.

    Raises ValueError when there are not as many values, baseline values and clusters.
    """
    values, baseline = np.asarray(values, float), np.asarray(baseline, float)
    if values.shape != baseline.shape or values.ndim != 1:
        raise UserError(f"{values.size} values cannot be paired with {baseline.size} of the baseline")
    differences, clusters = _finite(values - baseline, clusters)
    mean, low, high = bootstrap_mean(differences, clusters)
    sums, counts = _per_cluster(differences, clusters)
    # Rounding keeps ties ties: 0.3 - 0.1 and 0.2 - 0.0 differ in the last bit.
    per_patient = np.round(sums / counts, 10)
    if not len(per_patient):
        p_value = math.nan
    elif not per_patient.any():
        p_value = 1.0
    else:
        p_value = float(stats.wilcoxon(per_patient).pvalue)
    return PairedComparison(mean, low, high, p_value, len(differences))


def known_mean(values: Sequence[float]) -> float:
    """The mean of the values that are not nan; nan when there is none."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def _finite(
    values: Sequence[float], clusters: Sequence[Hashable] | None
) -> tuple[np.ndarray, list[Hashable]]:
    """The values that are not nan and their clusters (each value its own one when there are none)."""
    values = np.asarray(values, float).reshape(-1)
    clusters = list(range(len(values)) if clusters is None else clusters)
    if len(clusters) != len(values):
        raise UserError(f"{len(clusters)} clusters were given for {len(values)} values")
    kept = np.flatnonzero(~np.isnan(values))
    return values[kept], [clusters[i] for i in kept]


def _per_cluster(values: np.ndarray, clusters: list[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """(sums, counts) of each cluster, in order of appearance."""
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    index = np.array([numbers[cluster] for cluster in clusters], int)
    return np.bincount(index, values, len(numbers)), np.bincount(index, minlength=len(numbers)).astype(float)
