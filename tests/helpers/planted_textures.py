"""Histograms in groups that are known."""

import numpy as np

BINS = 16


def bumps(centre: float, count: int, seed: int, width=1.5) -> np.ndarray:
    """(count, 16) noisy bell-shaped histograms about a bin."""
    rng = np.random.default_rng(seed)
    values = np.exp(-((np.arange(BINS) - centre) ** 2) / (2 * width**2)) * rng.uniform(
        0.8, 1.2, (count, BINS)
    )
    return values / values.sum(axis=1, keepdims=True)


def planted(*groups) -> tuple[np.ndarray, np.ndarray]:
    """(centre, count) pairs -> histograms and the number of each one's group."""
    parts = [bumps(centre, count, seed) for seed, (centre, count) in enumerate(groups)]
    return np.concatenate(parts), np.repeat(range(len(groups)), [count for _, count in groups])


# --- the fit


def two_classes(count=8, with_second=(0, 3, 5, 9, 10, 14)) -> tuple[np.ndarray, np.ndarray]:
    """Two groups in the first class; of each, some lesions have the second."""
    histograms, group = planted((4, count), (11, count))
    second = np.zeros_like(histograms)
    second[list(with_second)] = bumps(7, len(with_second), seed=9)
    return np.concatenate([histograms, second], axis=1), group
