"""Do the lesions differ: between the types of one case, and between cases?"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.spatial.distance import pdist

from evaluation_pipeline.fidelity.distances import standardise
from evaluation_pipeline.fidelity.lesions import Lesion

BINS = 40  # of the distributions of distances


def psnr(first: np.ndarray, second: np.ndarray, span: float) -> float:
    """Peak signal-to-noise ratio in dB of two arrays of intensities; infinite when they are equal."""
    error = float(((first.astype(np.float64) - second) ** 2).mean())
    return float("inf") if error == 0 else float(10 * np.log10(span**2 / error))


def common_values(first: Lesion, second: Lesion) -> tuple[np.ndarray, np.ndarray]:
    """Intensities of two lesions of one scan where both masks are; empty when they do not meet.

    Crops of different masks of a scan have different places, so they are laid over each other by origin.
    """
    start = np.maximum(first.origin, second.origin)
    ends = [np.add(lesion.origin, lesion.mask.shape) for lesion in (first, second)]
    size = np.minimum(*ends) - start
    if (size <= 0).any():
        return np.empty(0), np.empty(0)
    parts = [
        tuple(slice(s - o, s - o + n) for s, o, n in zip(start, lesion.origin, size, strict=True))
        for lesion in (first, second)
    ]
    both = first.mask[parts[0]] & second.mask[parts[1]]
    return first.image[parts[0]][both], second.image[parts[1]][both]


def diversity(
    synthetic: Sequence[Lesion], features: np.ndarray, real_features: np.ndarray, span: float
) -> dict:
    """PSNR within a case and mean pairwise feature distances, within a case and over cases.

    features: (lesions, d) of the synthetic ones. real_features: (n, d); distances are standardised on them.
    span: width of the intensity scale. PSNR is taken over the voxels that both masks hold; pairs that are
    equal there are counted, not averaged. Distances over cases are between lesions of one type (the mean over
    the types). A value that cannot be had (one type, one case) is None. distances: shares of the pairs in
    BINS bins from 0 to the largest distance; [] where there are no pairs.
    """
    real, scaled = standardise(real_features, features)
    by_case, by_type = defaultdict(list), defaultdict(list)
    for index, lesion in enumerate(synthetic):
        by_case[lesion.case].append(index)
        by_type[lesion.kind].append(index)
    ratios, identical, apart, within = [], 0, 0, []
    for indices in by_case.values():
        for i, j in combinations(indices, 2):
            within.append(float(np.linalg.norm(scaled[i] - scaled[j])))
            pair = common_values(synthetic[i], synthetic[j])
            if not pair[0].size:
                apart += 1
                continue
            ratio = psnr(*pair, span)
            if np.isinf(ratio):
                identical += 1
            else:
                ratios.append(ratio)
    over = [pdist(scaled[indices]) for indices in by_type.values() if len(indices) > 1]
    of_real = pdist(real)
    pairs = {"within_case": np.array(within), "over_cases": np.concatenate([*over, []]), "real": of_real}
    largest = max((float(values.max()) for values in pairs.values() if values.size), default=0.0) or 1.0
    return {
        "psnr_within_case_db": float(np.mean(ratios)) if ratios else None,
        "psnr_pairs": len(ratios),
        "identical_pairs": identical,
        "pairs_without_common_voxels": apart,
        "feature_distance_within_case": float(np.mean(within)) if within else None,
        "feature_distance_over_cases": float(np.mean([values.mean() for values in over])) if over else None,
        "feature_distance_real": float(of_real.mean()) if of_real.size else None,
        "largest_distance": largest,
        "distances": {name: _shares(values, largest) for name, values in pairs.items()},
    }


def _shares(values: np.ndarray, largest: float) -> list[float]:
    if not values.size:
        return []
    return (np.histogram(values, BINS, (0, largest))[0] / values.size).round(6).tolist()
