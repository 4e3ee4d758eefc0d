"""A chest CT in memory, seen from feet to head, and the grid that regions are cut along."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from LeFusion.dataset.axes import Axes
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.hounsfield import refuse_other_units
from LeFusion.dataset.scans import read_volume
from LeFusion.errors import UserError

REGION = (32, 64, 64)
WINDOW = (-1000, 400)  # HU of lung
DARKEST = -1024  # HU; what is below is padding of the scanner
BRIGHTEST = np.iinfo(np.int16).max  # HU that fit the files
AXIAL = (2, 1, 0)  # stored axes: columns, rows, slices
MARGIN = 12  # voxels round a region that its splines are fitted to


class Opened:
    """A scan: slices from feet to head, rows to the back, columns to the left.

    hu: (D, H, W) float32, DARKEST to BRIGHTEST. spacing_mm: of its voxels. step_mm: of the grid, whose
    first point is the first voxel; `size` (3,) points lie in the scan. Indices (depth, row, column) may be
    fractions. Raises UserError, naming the file, for what is no axial CT in HU of at least a region's size.
    """

    def __init__(self, path: Path, spacing: str):
        volume = read_volume(path)
        refuse_other_units(volume, WINDOW)
        self.axes = Axes.of(volume, Layout(depth_axis=None, orientation="SPL"))
        if self.axes.order != AXIAL:
            raise UserError(f"{path}: its slices are not axial; leave it out")
        self.affine = volume.affine
        self.hu = np.clip(self.axes.to_dhw(volume.values).astype(np.float32), DARKEST, BRIGHTEST)
        self.spacing_mm = np.array(self.axes.spacing_mm(volume))
        self.step_mm = self.spacing_mm if spacing == "native" else np.full(3, float(spacing))
        extent = (np.array(self.hu.shape) - 1) * self.spacing_mm / self.step_mm
        self.size = np.floor(extent + 1e-6).astype(int) + 1
        if (self.size < REGION).any():
            raise UserError(f"{path}: its {self.size.tolist()} voxels hold no region of {list(REGION)}")

    def index(self, world_ras: Sequence[float]) -> np.ndarray:
        """A place in the world (RAS mm) -> its index."""
        stored = np.linalg.solve(self.affine[:3, :3], np.asarray(world_ras) - self.affine[:3, 3])
        return np.array(self.axes.dhw_index(stored, self.hu.shape))

    def world(self, index: Sequence[float]) -> np.ndarray:
        """The inverse of `index`."""
        stored = np.array(self.axes.stored_index(index, self.hu.shape))
        return self.affine[:3, :3] @ stored + self.affine[:3, 3]

    def drawn(self, z_mm: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Heights of slices (N,) and (N, 2) (column, row) pixels, as LIDC has them -> indices (N, 3)."""
        slices = (z_mm - self.affine[2, 3]) / self.affine[2, 2]
        stored = np.column_stack([points, slices]).T
        return np.column_stack(self.axes.dhw_index(stored, self.hu.shape))

    def drawn_of(self, points: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Grid points along each axis -> heights in mm, rows and columns, as LIDC has them."""
        indices = [p * step / s for p, step, s in zip(points, self.step_mm, self.spacing_mm, strict=True)]
        columns, rows, slices = self.axes.stored_index(indices, self.hu.shape)
        return self.affine[2, 3] + slices * self.affine[2, 2], rows, columns

    def to_grid(self, indices: np.ndarray) -> np.ndarray:
        """Indices (..., 3) -> points of the grid, fractions too."""
        return indices * self.spacing_mm / self.step_mm

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, ...]:
        """Points of the grid (N, 3) in the scan -> the voxels that they lie in, to index an array with."""
        voxels = np.rint(points * self.step_mm / self.spacing_mm).astype(int)
        return tuple(np.minimum(voxels, np.array(self.hu.shape) - 1).T)

    def painted(self, points: np.ndarray) -> np.ndarray:
        """The voxels nearest to points of the grid (N, 3), bool (D, H, W)."""
        low, size = points.min(axis=0), np.ptp(points, axis=0) + 1
        inside = np.zeros(size, bool)
        inside[tuple((points - low).T)] = True
        found, axes = np.zeros(self.hu.shape, bool), []
        for a, n, step, s, length in zip(
            low, size, self.step_mm, self.spacing_mm, self.hu.shape, strict=True
        ):
            nearest = np.rint(np.arange(length) * s / step).astype(int) - a
            axes.append((np.flatnonzero((nearest >= 0) & (nearest < n)), nearest))
        voxels = [voxels for voxels, _ in axes]
        found[np.ix_(*voxels)] = inside[np.ix_(*(nearest[v] for v, nearest in axes))]
        return found

    def region(self, start: np.ndarray) -> np.ndarray:
        """int16 HU of REGION from a grid point on: cubic splines, or the scan's own voxels."""
        if np.array_equal(self.step_mm, self.spacing_mm):
            part = self.hu[tuple(slice(a, a + n) for a, n in zip(start, REGION, strict=True))]
            return np.rint(part).astype(np.int16)
        ratio = self.step_mm / self.spacing_mm
        places = [(a + np.arange(n)) * r for a, n, r in zip(start, REGION, ratio, strict=True)]
        lows = [max(int(p[0]) - MARGIN, 0) for p in places]
        block = self.hu[tuple(slice(a, int(p[-1]) + MARGIN) for a, p in zip(lows, places, strict=True))]
        where = np.meshgrid(*(p - a for p, a in zip(places, lows, strict=True)), indexing="ij")
        part = ndimage.map_coordinates(block.astype(np.float64), where, order=3, mode="mirror")
        return np.rint(np.clip(part, DARKEST, BRIGHTEST)).astype(np.int16)

    def region_start(self, points: np.ndarray) -> np.ndarray | None:
        """First grid point of the region with these points (N, 3) in its middle, moved from there where the
        scan ends or they would not fit; None when they are too large for it."""
        low, high = points.min(axis=0), points.max(axis=0)
        if (high - low >= REGION).any():
            return None
        wanted = np.rint(points.mean(axis=0) - (np.array(REGION) - 1) / 2).astype(int)
        return np.clip(wanted, np.maximum(high + 1 - REGION, 0), np.minimum(low, self.size - REGION))
