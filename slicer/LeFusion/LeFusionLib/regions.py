"""Between a scan in Slicer, an array (k, j, i) with an affine from (i, j, k) to RAS mm, and what is sent."""

from __future__ import annotations

import numpy as np

CONTEXT_MM = 24.0  # around a lesion
LEAST_HALF_MM = 36.0  # of the region that is sent
LEAST_MM, MOST_MM = 3.0, 28.0  # diameters that the server makes


class RegionError(Exception):
    """A point or a box from which no lesion can be made: one line that says why."""


class Region:
    """A part of a scan around a lesion. slices: where it lies in the scan's array (k, j, i). centre: the
    index (i, j, k) of the lesion's middle in it."""

    def __init__(self, volume: np.ndarray, ijk_to_ras: np.ndarray, point_ras, diameter_mm: float):
        """Raises RegionError for a point outside of the scan and other diameters than can be made."""
        if not LEAST_MM <= diameter_mm <= MOST_MM:
            raise RegionError(
                f"a diameter of {diameter_mm:g} mm cannot be made: {LEAST_MM:g} to {MOST_MM:g} mm"
            )
        ijk_to_ras = np.asarray(ijk_to_ras, float)
        shape = np.array(volume.shape[::-1])
        point = (np.linalg.inv(ijk_to_ras) @ [*point_ras, 1.0])[:3]
        if (point < -0.5).any() or (point > shape - 0.5).any():
            raise RegionError("the point lies outside of the volume")
        point = point.clip(0, shape - 1)
        spacing = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
        half = max(LEAST_HALF_MM, diameter_mm / 2 + CONTEXT_MM) / spacing
        start = np.floor(point - half).astype(int).clip(0)
        end = np.minimum(np.ceil(point + half).astype(int) + 1, shape)
        self.slices = tuple(slice(int(a), int(b)) for a, b in np.stack([start, end], 1)[::-1])
        self.centre = point - start
        self.diameter_mm = float(diameter_mm)
        self._affine = ijk_to_ras.copy()
        self._affine[:3, 3] = (ijk_to_ras @ [*start, 1])[:3]
        self.image = volume[self.slices].copy()

    def arrays(self) -> dict:
        """What the server is sent: (i, j, k)."""
        image = np.ascontiguousarray(self.image.transpose())
        return {"image": image, "affine": self._affine, "centre": self.centre}


def box_of_roi(centre_ras, size_mm) -> tuple:
    """(point, diameter) of a region of interest: its middle, and its longest side, as far as can be made."""
    return tuple(centre_ras), float(np.clip(max(size_mm), LEAST_MM, MOST_MM))


class History:
    """What was painted into one scan, so that the last lesion can be taken back."""

    def __init__(self):
        self._done: list = []

    def __len__(self) -> int:
        return len(self._done)

    def paint(self, volume: np.ndarray, region: Region, result: dict, segment: str) -> np.ndarray:
        """Writes a result into the scan's array (k, j, i) where it differs from the region that was sent, so
        that what was painted meanwhile stays.

        Returns the mask of the lesion in the whole scan, uint8. segment: its name, which `undo` gives back.
        """
        image, mask = (result[name].transpose() for name in ("image", "mask"))
        if image.shape != region.image.shape or mask.shape != image.shape:
            raise RegionError(f"the server answered with a region of {image.shape}, not {region.image.shape}")
        changed = image != region.image
        part = volume[region.slices]
        self._done.append((region.slices, changed, part[changed].copy(), segment))
        part[changed] = image[changed]
        whole = np.zeros(volume.shape, np.uint8)
        whole[region.slices] = mask > 0
        return whole

    def undo(self, volume: np.ndarray) -> str:
        """Takes the last lesion out of the scan's array; returns the name of its segment."""
        slices, changed, before, segment = self._done.pop()
        volume[slices][changed] = before
        return segment
