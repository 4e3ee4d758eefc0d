"""Is a synthetic lesion a copy of a training lesion? Its nearest one, against that of real unseen lesions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product

import numpy as np

from evaluation_pipeline.fidelity.border import signed_distance_mm
from evaluation_pipeline.fidelity.lesions import Lesion, TooLittleData

COPY_CORRELATION = 0.95
LEAST_VOXELS = 30  # that two lesions must share: few voxels correlate by chance
LEAST_OVERLAP = 0.5  # Dice of the two masks after alignment
CORE_MM = 1.5  # inside the border: copies may fade there, and all lesions get darker there
REFINED = 5  # of the best candidates, tried again with shifts of one voxel
SHIFTS = np.array(sorted(product((-1, 0, 1), repeat=3), key=lambda shift: sum(map(abs, shift))))


@dataclass(frozen=True)
class Neighbour:
    """The training lesion most like another. correlation: -1 to 1; -1 where none has a mask like its own."""

    correlation: float
    lesion: Lesion | None


def symmetries(square: bool) -> list[np.ndarray]:
    """Flips of each axis, and where pixels are square the exchange of the two axes in the plane, as (3, 3)
    signed permutations of offsets: 16 or 8 (the 8 of the square, or 4, each with and without the flip of the
    depth)."""
    swaps = [(0, 1, 2), (0, 2, 1)] if square else [(0, 1, 2)]
    return [
        np.diag(signs) @ np.eye(3, dtype=int)[list(order)]
        for order in swaps
        for signs in product((1, -1), repeat=3)
    ]


class TrainingLesions:
    """Training lesions, laid out so that many alignments can be looked up quickly."""

    def __init__(self, lesions: Sequence[Lesion]):
        self.lesions = list(lesions)
        self.frames = [_frame(lesion) for lesion in self.lesions]

    def nearest(self, query: Lesion, without_patient: str | None = None) -> Neighbour:
        """The training lesion with the highest normalised correlation to `query`.

        Both are aligned by their centroids, under every symmetry; the best REFINED alignments also under
        shifts of one voxel. The correlation is taken over the voxels that both masks hold, where enough of
        them lie in the query's core (CORE_MM inside its border) over those only; alignments in which they are
        fewer than LEAST_VOXELS, or the masks' Dice is below LEAST_OVERLAP, do not count.
        Voxels of all lesions count as equally large.
        without_patient: a patient whose lesions are left out.
        """
        offsets, values = _offsets(query)
        core = signed_distance_mm(query.mask, query.spacing_mm)[query.mask] < -CORE_MM
        turns = symmetries(np.isclose(*query.spacing_mm[1:], rtol=0.01))
        turned = [offsets @ turn.T for turn in turns]
        found = []
        for index, frame in enumerate(self.frames):
            if self.lesions[index].patient == without_patient:
                continue
            smaller, larger = sorted((len(values), frame.count))
            if 2 * smaller / (smaller + larger) < LEAST_OVERLAP:
                continue  # no alignment can make these masks alike
            found += [(_correlation(frame, at, values, core), index, at) for at in turned]
        found.sort(key=lambda item: -item[0])
        best = Neighbour(-1.0, None)
        for _, index, at in found[:REFINED]:
            for shift in SHIFTS:
                correlation = _correlation(self.frames[index], at + shift, values, core)
                if correlation > best.correlation:
                    best = Neighbour(correlation, self.lesions[index])
        return best


@dataclass(frozen=True)
class _Frame:
    """A lesion in a box about its centroid. image: values, NaN outside the mask."""

    image: np.ndarray
    centre: np.ndarray
    count: int


def _offsets(lesion: Lesion) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) voxels relative to the centroid, rounded, and their (N,) intensities."""
    voxels = np.argwhere(lesion.mask)
    return voxels - np.rint(voxels.mean(axis=0)).astype(int), lesion.values.astype(np.float64)


def _frame(lesion: Lesion) -> _Frame:
    offsets, values = _offsets(lesion)
    centre = np.abs(offsets).max(axis=0) + 1
    image = np.full(2 * centre + 1, np.nan)
    image[tuple((offsets + centre).T)] = values
    return _Frame(image, centre, len(values))


def _correlation(frame: _Frame, offsets: np.ndarray, values: np.ndarray, core: np.ndarray) -> float:
    """Normalised correlation over the common voxels; -1 where there are too few of them."""
    at = offsets + frame.centre
    inside = ((at >= 0) & (at < frame.image.shape)).all(axis=1)
    other = frame.image[tuple(at[inside].T)]
    both = ~np.isnan(other)
    common = np.count_nonzero(both)
    if common < LEAST_VOXELS or 2 * common / (len(values) + frame.count) < LEAST_OVERLAP:
        return -1.0
    deep = both & core[inside]
    if np.count_nonzero(deep) >= LEAST_VOXELS:
        both = deep
    first, second = values[inside][both], other[both]
    first, second = first - first.mean(), second - second.mean()
    norm = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / norm) if norm > 0 else -1.0


def memorisation(
    synthetic: Sequence[Lesion], training: Sequence[Lesion], held_out: Sequence[Lesion], progress=iter
) -> dict:
    """How like their nearest training lesion synthetic and unseen real lesions are; which are copies.

    held_out: real lesions that no method was trained on. Each training lesion, too, is compared with those of
    the other patients; without held-out lesions these are the real ones. A copy: a correlation above both
    COPY_CORRELATION and every one of the real lesions. `above` counts the lesions of each kind that are above
    COPY_CORRELATION; `compared` the synthetic ones that have a training lesion of like size and shape at all.
    progress: wraps the loop, e.g. tqdm. Raises TooLittleData without two training lesions.
    """
    if len(training) < 2:
        raise TooLittleData(f"too few training lesions: {len(training)}; at least 2 are needed")
    known = TrainingLesions(training)
    queries = [(lesion, None) for lesion in (*synthetic, *held_out)]
    queries += [(lesion, lesion.patient) for lesion in training]
    neighbours = iter([known.nearest(lesion, left_out) for lesion, left_out in progress(queries)])
    of_synthetic, of_held_out, of_training = (
        list(islice(neighbours, len(lesions))) for lesions in (synthetic, held_out, training)
    )
    real = [n.correlation for n in (of_held_out or of_training) if n.lesion]
    threshold = max([COPY_CORRELATION, *real])
    rows = [
        {
            "case": lesion.case,
            "type": lesion.kind,
            "nearest": near.lesion.case if near.lesion else None,
            "correlation": near.correlation if near.lesion else None,
            "copy": near.correlation > threshold,
        }
        for lesion, near in zip(synthetic, of_synthetic, strict=True)
    ]
    found = [row["correlation"] for row in rows if row["correlation"] is not None]
    return {
        "real_is": "held-out lesions" if held_out else "training lesions against those of other patients",
        "synthetic": _summary(found),
        "real": _summary(real),
        "threshold": threshold,
        "above": {
            "synthetic": _above(of_synthetic),
            "held_out": _above(of_held_out),
            "training": _above(of_training),
        },
        "copies": sum(row["copy"] for row in rows),
        "lesions": len(rows),
        "compared": len(found),
        "correlations": {"synthetic": found, "real": real},
        "nearest": rows,
    }


def _above(neighbours: Sequence[Neighbour]) -> dict[str, int]:
    above = sum(near.correlation > COPY_CORRELATION for near in neighbours)
    return {"above": above, "lesions": len(neighbours)}


def _summary(values: Sequence[float]) -> dict | None:
    if not values:
        return None
    quantiles = np.percentile(values, (50, 99))
    return {"median": float(quantiles[0]), "p99": float(quantiles[1]), "max": float(max(values))}
