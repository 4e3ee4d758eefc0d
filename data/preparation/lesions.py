"""Lesions of a scan: from the outlines of readers, or as balls.

A lesion has `points()`, those of the scan's grid in it, (N, 3), and `row`, what cases.csv says of it.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
from phantoms.contours import Outline
from phantoms.nodules import SCORES, Annotation, Nodule, find_nodules

from preparation.opened import Opened


def outlined(
    scan: Opened, patient: str, uid: str, reads, each: bool, with_outline: bool, first: int
) -> list[tuple[str, "Outlined"]]:
    """(what follows <patient>_Vol_, lesion) of the nodules of a scan, from feet to head, numbered from
    `first`. each: a lesion of every reader instead of the consensus."""
    if not reads.annotations:
        return []
    pixel_mm, slice_mm = float(scan.spacing_mm[1]), float(scan.spacing_mm[0])
    found = []
    for nodule in find_nodules(patient, [(uid, pixel_mm, slice_mm, reads.annotations)]):
        number = first + nodule.n - 1
        if each:
            for reader, annotation in enumerate(nodule.annotations, start=1):
                one = replace(nodule, annotations=[annotation])
                found.append((f"{number}-{reader}", Outlined(scan, one, with_outline)))
        else:
            found.append((str(number), Outlined(scan, nodule, with_outline)))
    return found


def marked_points(
    scan: Opened, annotations: Sequence[Annotation], points: Sequence[tuple[float, float, float]]
) -> np.ndarray:
    """Indices (N, 3) in the scan of all outlines, and of points (z in mm, column, row)."""
    lines = [np.insert(p, 0, z, axis=1) for a in annotations for z, _, p in a.contours]
    marks = np.concatenate([*lines, np.reshape(points, (-1, 3))])
    return scan.drawn(marks[:, 0], marks[:, 1:])


class Outlined:
    """What at least half of the annotations of a nodule include."""

    def __init__(self, scan: Opened, nodule: Nodule, with_outline: bool):
        self.scan, self.nodule, self.with_outline = scan, nodule, with_outline
        self.row = {"readers": len(nodule.annotations)}
        for name, values in zip(
            SCORES, zip(*(a.scores for a in nodule.annotations), strict=True), strict=True
        ):
            given = [value for value in values if value is not None]
            self.row[name] = f"{median(given):g}" if given else ""

    def points(self) -> np.ndarray:
        """Points of the grid in the lesion, (N, 3); none where it lies outside the scan."""
        nodule, scan = self.nodule, self.scan
        marks = scan.to_grid(marked_points(scan, nodule.annotations, ()))
        margin = np.ceil(2 * scan.spacing_mm / scan.step_mm)
        window = _window(scan, marks.min(axis=0) - margin, marks.max(axis=0) + margin)
        if not all(len(points) for points in window):
            return np.zeros((0, 3), int)
        lines = np.concatenate([points for a in nodule.annotations for _, _, points in a.contours])
        low = lines.min(axis=0) - 2
        size = tuple((lines.max(axis=0) - low + 3).astype(int)[::-1])
        z_mm, rows, columns = scan.drawn_of(window)
        votes = np.zeros([len(points) for points in window], int)
        for a in nodule.annotations:
            outline = Outline(a.contours, nodule.pixel_mm, nodule.slice_mm, self.with_outline, low, size)
            votes += outline.signed_distance(z_mm, rows - low[1], columns - low[0]) > 0
        inside = 2 * votes >= len(nodule.annotations)
        return np.argwhere(inside) + [points[0] for points in window]


class Ball:
    """world: of its centre, RAS mm."""

    def __init__(self, scan: Opened, world: np.ndarray, diameter_mm: float):
        self.scan, self.world, self.radius_mm = scan, world, diameter_mm / 2
        self.row = {"given_diameter_mm": diameter_mm}

    def points(self) -> np.ndarray:
        """Points of the grid in the ball, (N, 3); none where it lies outside the scan."""
        scan = self.scan
        centre, reach = scan.to_grid(scan.index(self.world)), self.radius_mm / scan.step_mm
        window = _window(scan, centre - reach, centre + reach)
        places = [(p - c) * s for p, c, s in zip(window, centre, scan.step_mm, strict=True)]
        inside = sum(p**2 for p in np.meshgrid(*places, indexing="ij")) <= self.radius_mm**2
        return np.argwhere(inside) + [points[0] if len(points) else 0 for points in window]


def _window(scan: Opened, low: np.ndarray, high: np.ndarray) -> list[np.ndarray]:
    """The grid points along each axis from low to high that lie in the scan."""
    lows = np.maximum(np.floor(low), 0).astype(int)
    highs = np.minimum(np.ceil(high), scan.size - 1).astype(int)
    return [np.arange(a, b + 1) for a, b in zip(lows, highs, strict=True)]
