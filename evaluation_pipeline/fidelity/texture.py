"""Do the lesions have the intensities that were asked for, and those of real lesions?"""

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation_pipeline.cases.patients import case_name
from evaluation_pipeline.fidelity.distances import REPEATS, equal_sets, spread_of
from evaluation_pipeline.fidelity.lesions import Lesion, TooLittleData
from LeFusion.data_types import DataType
from LeFusion.dataset.edit import SOFT_REACH
from LeFusion.errors import MissingFileError, UserError
from LeFusion.runtime.tables import read_csv

FINE_BINS = 140  # over the scale, for the distance between pooled intensities: 10 HU each for lungs


def histogram(values: np.ndarray, scale: tuple[float, float], bins: int) -> np.ndarray:
    """(bins,) shares of intensities in equal bins over the scale; what lies outside counts in the end bins.

    All zeros without values.
    """
    if not values.size:
        return np.zeros(bins)
    low, high = scale
    index = ((values.astype(np.float64) - low) / (high - low) * bins).astype(int).clip(0, bins - 1)
    return np.bincount(index, minlength=bins) / len(values)


def wasserstein(first: np.ndarray, second: np.ndarray, scale: tuple[float, float]) -> float:
    """Wasserstein-1 distance of two normalised histograms of equal bins, in the scale's unit."""
    step = (scale[1] - scale[0]) / len(first)
    return float(np.abs(np.cumsum(first - second)).sum() * step)


def pooled(
    synthetic: Sequence[Lesion],
    real: Sequence[Lesion],
    scale: tuple[float, float],
    generator: np.random.Generator,
) -> dict:
    """Distance between the intensities of all synthetic and all real lesions, each lesion weighing the same.

    -> {"lesions_per_set", "synthetic", "real": {mean, sd, low, high of 95 %}, "histograms"}. `real`: the same
    between two halves of the real lesions; both are taken over random subsets of one size, as in `realism`.
    histograms: shares over the scale, of all lesions. Raises TooLittleData for fewer than two real lesions.
    """
    size = min(len(real) // 2, len(synthetic))
    if size < 1:
        raise TooLittleData(f"too few lesions: {len(real)} real and {len(synthetic)} synthetic")
    shares = {
        name: np.array([histogram(lesion.values, scale, FINE_BINS) for lesion in lesions])
        for name, lesions in (("real", real), ("synthetic", synthetic))
    }
    found = {"synthetic": [], "real": []}
    patients = [lesion.patient for lesion in real]
    for first, second, drawn in equal_sets(size, patients, len(synthetic), generator, REPEATS):
        half = shares["real"][first].mean(axis=0)
        found["real"].append(wasserstein(half, shares["real"][second].mean(axis=0), scale))
        found["synthetic"].append(wasserstein(half, shares["synthetic"][drawn].mean(axis=0), scale))
    return {
        "lesions_per_set": size,
        **{whose: spread_of(distances) for whose, distances in found.items()},
        "histograms": {name: part.mean(axis=0).tolist() for name, part in shares.items()},
    }


def names_requests(path: Path) -> bool:
    """Whether a manifest says which histograms were asked for: by its header."""
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        return "requested_histogram" in next(csv.reader(file), [])


def edit_margin_mm(path: str | Path) -> float:
    """How far from the lesions voxels may differ, as the manifest says: painted or softened. 0 without it."""
    reaches = [
        factor * float(row[key])
        for _, row in read_csv(path)[1]
        for key, factor in (("edit_margin_mm", 1.0), ("soft_edge_mm", SOFT_REACH))
        if row.get(key)
    ]
    return max(reaches, default=0.0)


def read_manifest(path: str | Path) -> dict[tuple[str, int], np.ndarray]:
    """The histograms that were asked for, (K * bins,), by case (without nnU-Net's _0000) and type.

    The CSV needs the columns case, type and requested_histogram (numbers, blanks between them), as LeFusion's
    manifest.csv has them. Raises FileNotFoundError and ValueError.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; check --manifest")
    requested = {}
    try:
        for _, row in read_csv(path)[1]:
            numbers = np.array([float(v) for v in row["requested_histogram"].split()])
            requested[case_name(row["case"]), int(row["type"])] = numbers
    except KeyError as error:
        raise UserError(
            f"{path}: has no column {error}; a manifest needs case, type, requested_histogram"
        ) from None
    except UserError:
        raise
    except (TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: is not a manifest of requested histograms ({error})") from None
    if not requested:
        raise UserError(f"{path}: has no rows")
    for key, numbers in requested.items():
        if not np.isfinite(numbers).all() or (numbers < 0).any() or not numbers.sum() > 0:
            raise UserError(
                f"{path}: the histogram of {key[0]}, type {key[1]}, is not one of positive numbers"
            )
    return requested


def requested_against_obtained(
    lesions: Sequence[Lesion], requested: dict[tuple[str, int], np.ndarray], data_type: DataType
) -> dict:
    """Wasserstein distance of each lesion's histogram to the one asked for, measured on the written image.

    Histograms of several lesion labels stand one after the other; the mean over the labels that are there
    counts. Raises ValueError when the manifest lacks a lesion or its bins do not fit the labels.
    """
    labels = data_type.layout.lesion_labels
    scale = data_type.fixed_window or (0.0, 1.0)  # of each volume's range, for MR
    by_type, means = defaultdict(list), defaultdict(list)
    for lesion in lesions:
        wanted = requested.get((lesion.case, lesion.kind))
        if wanted is None:
            raise UserError(f"the manifest has no row for {lesion.case}, type {lesion.kind}")
        if len(wanted) % len(labels):
            raise UserError(
                f"the manifest's histogram of {lesion.case} has {len(wanted)} bins, which {len(labels)} "
                "lesion labels cannot share"
            )
        wanted = wanted.reshape(len(labels), -1)
        distances = []
        for label, bins in zip(labels, wanted, strict=True):
            values = lesion.image[lesion.labels == label] + lesion.reference
            if values.size and bins.sum() > 0:
                obtained = histogram(values, scale, len(bins))
                distances.append(wasserstein(obtained, bins / bins.sum(), scale))
                if label == labels[0]:
                    means[lesion.kind].append((bins / bins.sum(), obtained))
        if distances:
            by_type[lesion.kind].append(float(np.mean(distances)))
    everything = [d for distances in by_type.values() for d in distances]
    if not everything:
        raise UserError("the manifest asks for nothing that the masks hold")
    return {
        "scale": list(scale),
        "mean": float(np.mean(everything)),
        "sd": float(np.std(everything)),
        "by_type": {kind: float(np.mean(distances)) for kind, distances in sorted(by_type.items())},
        "mean_histograms": {
            kind: np.mean(pairs, axis=0).tolist() for kind, pairs in sorted(means.items())
        },  # by type: requested, obtained; of the first lesion label
    }
