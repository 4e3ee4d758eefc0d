"""Distances between two sets of feature vectors, and what they are between two halves of the real set."""

from collections.abc import Iterator, Sequence

import numpy as np

from evaluation_pipeline.fidelity.lesions import TooLittleData

LEAST = 4  # vectors in a set, for a distance to mean anything
REPEATS = 100


def standardise(real: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Each set (n, d) less the mean of the real one, over its standard deviation.

    A feature that is constant over the real lesions is only centred.
    """
    mean, sd = real.mean(axis=0), real.std(axis=0)
    sd = np.where(sd > 1e-9 * np.maximum(1, np.abs(mean)), sd, 1.0)
    return [(features - mean) / sd for features in (real, *others)]


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two sets (n, d) (Dowson and Landau 1982, Heusel 2017).

    The trace of the root is taken through the symmetric C1^(1/2) C2 C1^(1/2), which has the same eigenvalues.
    """
    means = first.mean(axis=0), second.mean(axis=0)
    covariances = [np.atleast_2d(np.cov(features.T)) for features in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    mixed = np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)
    spread = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.sqrt(mixed).sum()
    return float(((means[0] - means[1]) ** 2).sum() + max(0.0, spread))


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy of two sets (n, d), kernel (x.y / d + 1)^3 (Binkowski 2018).

    Around 0, so also negative, for two samples of one distribution.
    """
    within = []
    for features in (first, second):
        kernel = _kernel(features, features)
        n = len(features)
        within.append((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))
    return float(within[0] + within[1] - 2 * _kernel(first, second).mean())


def realism(
    real: np.ndarray,
    synthetic: np.ndarray,
    real_patients: Sequence[str],
    generator: np.random.Generator,
    repeats: int = REPEATS,
) -> dict:
    """Both distances between real and synthetic features, and between two halves of the real ones.

    Each is repeated over random subsets of one size, so that the bias of small samples is the same in both:
    half the number of real lesions, or the number of synthetic ones if that is lower. Real halves are drawn
    by patient. Features (n, d) are standardised on the real ones.

    -> {"lesions_per_set", "frechet" and "kernel": {"synthetic", "real": {mean, sd, low, high of 95 %}}}.
    Raises TooLittleData when there are too few lesions.
    """
    size = min(len(real) // 2, len(synthetic))
    if size < LEAST:
        raise TooLittleData(
            f"too few lesions: {len(real)} real and {len(synthetic)} synthetic; at least {2 * LEAST} and "
            f"{LEAST} are needed"
        )
    real, synthetic = standardise(real, synthetic)
    found = {name: {"synthetic": [], "real": []} for name in ("frechet", "kernel")}
    for first, second, drawn in equal_sets(size, real_patients, len(synthetic), generator, repeats):
        for name, distance in (("frechet", frechet_distance), ("kernel", kernel_distance)):
            found[name]["real"].append(distance(real[first], real[second]))
            found[name]["synthetic"].append(distance(real[first], synthetic[drawn]))
    summary = {name: {whose: spread_of(values) for whose, values in by.items()} for name, by in found.items()}
    return {"lesions_per_set": size, "repeats": repeats, **summary}


def random_order_by_patient(patients: Sequence[str], generator: np.random.Generator) -> np.ndarray:
    """A random order of lesions in which those of a patient stay together, so that two ends share at most
    one patient, and none if they do not touch."""
    names, of = np.unique(patients, return_inverse=True)
    return np.lexsort((generator.random(len(of)), generator.permutation(len(names))[of]))


def spread_of(values: Sequence[float]) -> dict:
    """Mean, standard deviation and the 2.5th and 97.5th percentile."""
    low, high = np.percentile(values, (2.5, 97.5))
    return {
        "mean": float(np.mean(values)),
        "sd": float(np.std(values)),
        "low": float(low),
        "high": float(high),
    }


def equal_sets(
    size: int, real_patients: Sequence[str], synthetic: int, generator: np.random.Generator, repeats: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Random (real, other real, synthetic) indices, `size` of each; the real ones drawn by patient, and
    disjoint where size is at most half their number. synthetic: how many there are."""
    for _ in range(repeats):
        order = random_order_by_patient(real_patients, generator)
        yield order[:size], order[-size:], generator.permutation(synthetic)[:size]


def feature_rows(real: np.ndarray, synthetic: np.ndarray, names: Sequence[str]) -> list[dict]:
    """One row for each feature: means and deviations of both sets, and the standardised difference."""
    rows = []
    scaled_real, scaled = standardise(real, synthetic)
    for index, name in enumerate(names):
        rows.append(
            {
                "feature": name,
                "real_mean": float(real[:, index].mean()),
                "real_sd": float(real[:, index].std()),
                "synthetic_mean": float(synthetic[:, index].mean()),
                "synthetic_sd": float(synthetic[:, index].std()),
                "difference_in_sd": float(scaled[:, index].mean() - scaled_real[:, index].mean()),
            }
        )
    return rows


def _kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first @ second.T / first.shape[1] + 1) ** 3
