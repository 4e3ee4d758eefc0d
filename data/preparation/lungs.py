"""Where nodules lie in the lungs, and where in other lungs their masks can go."""

from dataclasses import dataclass

import numpy as np

from DiffMask.placement.lungs import depth_mm, lung_mask
from preparation.opened import REGION, Opened

NEAR_MM = 25.0  # from the nodule's place in the lungs
DEPTH_MM = 3.0  # from its depth below the pleura
LEAST_LEFT = 0.8  # of a mask that is cut to the lung
DENSEST_HU = -500  # mean under a mask; denser is a large vessel
DONORS, PLACES = 40, 25  # tried for each region


class Lungs:
    """The lungs of a scan. lesions: points (N, 3) of what lies in them. Raises UserError where there are
    none."""

    def __init__(self, scan: Opened, lesions: list[np.ndarray]):
        dense = None
        for points in lesions:
            dense = scan.painted(points) | (False if dense is None else dense)
        self.scan = scan
        self.mask = lung_mask(scan.hu, scan.spacing_mm, dense)
        self.depth = depth_mm(self.mask, scan.spacing_mm)
        sides = [np.flatnonzero(self.mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        self.low = np.array([side[0] for side in sides])
        self.extent = np.maximum([side[-1] - side[0] for side in sides], 1)

    def place_of(self, points: np.ndarray) -> dict[str, float]:
        """Of the middle of points (N, 3): 0 to 1 from feet to head, front to back, right to left of the
        lungs' bounding box, and mm below the pleura."""
        voxel = np.array(self.scan.nearest(points.mean(axis=0)[None]))[:, 0]
        place = np.round((voxel - self.low) / self.extent, 4).tolist()
        depth = round(float(self.depth[tuple(voxel)]), 2)
        return dict(zip(("lung_z", "lung_y", "lung_x", "depth_mm"), (*place, depth), strict=True))

    def like(self, place: dict[str, float]) -> np.ndarray:
        """The voxels (N, 3) at such a place."""
        middle = self.low + self.extent * [place[f"lung_{axis}"] for axis in "zyx"]
        reach = NEAR_MM / self.scan.spacing_mm
        low = np.maximum(np.ceil(middle - reach), 0).astype(int)
        box = tuple(slice(a, max(int(b) + 1, 0)) for a, b in zip(low, middle + reach, strict=True))
        fits = self.mask[box] & (np.abs(self.depth[box] - place["depth_mm"]) <= DEPTH_MM)
        voxels = np.argwhere(fits) + low
        return voxels[np.linalg.norm((voxels - middle) * self.scan.spacing_mm, axis=1) <= NEAR_MM]


@dataclass
class Placed:
    """A normal region. start: its first grid point. mask: bool, image: int16 HU, of REGION."""

    donor: dict
    start: np.ndarray
    mask: np.ndarray
    image: np.ndarray


def place_masks(
    lungs: Lungs, marked: np.ndarray, donors: list[dict], points_of, wanted: int, rng: np.random.Generator
) -> list[Placed]:
    """Up to `wanted` regions without a marked place, half a region apart along some axis.

    marked: points (N, 3) of the grid. donors: rows of cases.csv. points_of: such a row -> its mask as points
    (N, 3) of the scan's grid.
    """
    found, tried = [], 0
    for number in rng.permutation(len(donors)):
        if len(found) == wanted or tried == DONORS * wanted:
            break
        tried += 1
        donor = donors[number]
        voxels = lungs.like(donor)
        if not len(voxels):
            continue
        points = points_of(donor)
        for voxel in rng.permutation(voxels)[:PLACES]:
            placed = _placed(lungs, marked, donor, points, voxel)
            if placed is not None and all(_apart(placed.start, other.start) for other in found):
                found.append(placed)
                break
    return found


def _placed(lungs: Lungs, marked: np.ndarray, donor: dict, points: np.ndarray, voxel: np.ndarray):
    scan = lungs.scan
    moved = points + np.rint(scan.to_grid(voxel) - points.mean(axis=0)).astype(int)
    cut = moved[((moved >= 0) & (moved < scan.size)).all(axis=1)]
    cut = cut[lungs.mask[scan.nearest(cut)]]
    if len(cut) < LEAST_LEFT * len(points):
        return None
    start = scan.region_start(cut)
    if start is None or ((marked >= start - 1) & (marked <= start + REGION)).all(axis=1).any():
        return None
    if scan.hu[scan.nearest(cut)].mean() >= DENSEST_HU:
        return None
    mask = np.zeros(REGION, bool)
    mask[tuple((cut - start).T)] = True
    return Placed(donor, start, mask, scan.region(start))


def _apart(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((np.abs(one - other) >= np.array(REGION) // 2).any())
