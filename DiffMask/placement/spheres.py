"""Where lesions go: spheres in the lung, and around lesions that are there.

All draws come from the torch.Generator that the caller gives; `place_lesions` addresses one for each lesion.
Arrays are depth first (D, H, W), centres are voxel indices in that order, `spacing_mm` is the size of a voxel
along each axis. What is drawn by default follows real lesions: see DiffMask/placement/statistics.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from DiffMask.placement.lungs import AERATED_HU, depth_mm, lung_mask, vessel_mask
from DiffMask.placement.surroundings import FILLED, LUNG_MM, SHELL_MM, draw_tissue, tissue_share
from LeFusion.diffusion import addressed_generator
from LeFusion.errors import UserError
from LeFusion.settings import LIDC, REGIONS

STATISTICS = Path(__file__).parent / "statistics"
Given = float | Sequence[float] | None  # a number, a range (low, high), or None: as in real lesions
# Of the nodules of the training regions, or of all of LIDC-IDRI, of which most are small
DIAMETERS = {REGIONS: "region_sphere_diameter_mm", LIDC: "sphere_diameter_mm"}
Diameter = float | Sequence[float] | str  # a number, a range (low, high), or one of DIAMETERS

TRIES = 45  # distances drawn for one lesion
KEPT_DIAMETER = 15  # tries with one diameter, then another is drawn, so that large ones are not at a loss
DRAWN, PICKS = 500, 100  # centres drawn at one distance, and how many of those that fit the volume are tried
ROOM_MM = 2.0  # that a lesion as real nodules leaves free in the network's box
TOLERANCE_MM = 1.0  # of the distance to the border


@dataclass(frozen=True)
class Placement:
    """A sphere. diameter_mm: of the smallest ball around a lesion's centre that holds it: about its longest
    diameter, which is more than the diameter of a ball of its volume (in LIDC 1.4 times, median).

    distance_to_border_mm: from the sphere to the border of the organ; below 0: it reaches out of it so far;
    inf: no border in sight. inside_share: of the sphere's voxels that lie in the organ.
    """

    centre_dhw: tuple[float, float, float]
    diameter_mm: float
    distance_to_border_mm: float
    inside_share: float

    def mask(self, shape: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
        """The sphere as bool mask; it may overhang the volume."""
        mask = np.zeros(tuple(shape), bool)
        box, ball = _ball(self.centre_dhw, self.diameter_mm / 2, shape, spacing_mm)
        mask[box] = ball
        return mask


@cache
def load_statistics(name: str) -> dict:
    """The measured statistics of "lidc" or "emidec"."""
    return json.loads((STATISTICS / f"{name}.json").read_text())


# --- lungs ----------------------------------------------------------------------


class LungScene:
    """A lung with its large vessels and lesions: what placing needs to know about a scan, found once.

    lung, vessels, lesions: (D, H, W) bool. By default the lung and the vessels are found in the image; give
    `lung` when there is a better mask. lesions: those already there. Raises ValueError when there is no lung.
    """

    def __init__(
        self,
        hu_dhw: np.ndarray,
        spacing_mm: Sequence[float],
        lung: np.ndarray | None = None,
        lesions: np.ndarray | None = None,
    ):
        self.spacing_mm = tuple(float(s) for s in spacing_mm)
        self.lung = lung_mask(hu_dhw, spacing_mm, lesions) if lung is None else np.asarray(lung, bool)
        if self.lung.shape != hu_dhw.shape:
            raise UserError(f"the lung mask has the shape {self.lung.shape}, the image {hu_dhw.shape}")
        if not self.lung.any():
            raise UserError("no lung found: the lung mask is empty")
        self.lesions = np.zeros(self.lung.shape, bool) if lesions is None else np.asarray(lesions, bool)
        self.vessels = vessel_mask(hu_dhw, self.lung, spacing_mm) & ~self.lesions
        self._hu = hu_dhw
        self.aerated = float(np.median(hu_dhw[self.lung])) < AERATED_HU  # else it is another organ
        depth = depth_mm(self.lung, spacing_mm)
        voxels = np.flatnonzero(self.lung)
        order = np.argsort(depth.ravel()[voxels], kind="stable")
        self._voxels = voxels[order]  # of the lung, from its border inwards
        self._depths = depth.ravel()[self._voxels]

    def place(self, centre_dhw: Sequence[float], diameter_mm: float, may_overhang: bool = False) -> Placement:
        """A sphere at a centre. Raises ValueError when it is outside the volume or larger than it.

        may_overhang: only its centre need lie in the volume, as of lesions that are cut by its border.
        """
        shape = self.lung.shape
        if not may_overhang:
            require_fit(centre_dhw, diameter_mm, shape, self.spacing_mm)
        box, ball = _ball(centre_dhw, diameter_mm / 2, shape, self.spacing_mm)
        voxel = np.ravel_multi_index([round(c) for c in centre_dhw], shape, mode="clip")
        depth = float(self._depths[self._voxels == voxel].sum())  # 0 outside the lung
        share = float(self.lung[box][ball].mean()) if ball.any() else 0.0
        return Placement(tuple(float(c) for c in centre_dhw), diameter_mm, depth - diameter_mm / 2, share)

    def tissue_around(self, placement: Placement) -> float:
        """The tissue_share around a lesion that fills a sphere as real ones do."""
        radius = FILLED * placement.diameter_mm / 2
        reach = radius + SHELL_MM[1] + LUNG_MM
        box = _box(placement.centre_dhw, reach, self.lung.shape, self.spacing_mm)
        outside = np.sqrt(_squared(placement.centre_dhw, box, self.spacing_mm)) - radius
        return tissue_share(self._hu[box], self.lung[box], outside)

    def draw_centres(
        self, low_mm: float, high_mm: float, radius_mm: float, generator: torch.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Voxels (N, 3) of the lung that lie so deep, with their depths (N,), all of them equally likely.

        Only such around which a sphere lies within the volume. N is at most PICKS, and 0 when there are none.
        """
        first = int(np.searchsorted(self._depths, low_mm, side="left"))
        end = int(np.searchsorted(self._depths, high_mm, side="right"))
        if first >= end:
            return np.empty((0, 3), int), np.empty(0)
        drawn = torch.randint(first, end, (DRAWN,), generator=generator).numpy()
        voxels = np.stack(np.unravel_index(self._voxels[drawn], self.lung.shape), axis=1)
        room = np.minimum(voxels + 0.5, np.array(self.lung.shape) - 0.5 - voxels) * self.spacing_mm
        fits = np.flatnonzero((room >= radius_mm).all(axis=1))[:PICKS]
        return voxels[fits], self._depths[drawn[fits]].astype(float)


def place_in_lung(
    scene: LungScene,
    generator: torch.Generator,
    diameter_mm: Diameter = REGIONS,
    border_mm: Given = None,
    inside_share: float = 0.9,
    vessel_share: float = 0.03,
    gap_mm: float = 2.0,
    taken: Sequence[Placement] = (),
    most_mm: float = math.inf,
) -> Placement:
    """Draw a sphere in the lung and in the volume, at least `gap_mm` from other lesions.

    diameter_mm: of the sphere, see Placement and draw_diameter; a drawn one fits into the volume.
    border_mm: from the sphere to the lung's border, below 0 for one that reaches out of it; kept to 1 mm.
        A number, a range (low, high) or None: as in real lesions.
    inside_share: at least so much of the sphere is lung.
    vessel_share: at most so much of it is large vessels and airways. Of the spheres around 77 real lesions,
        90 % hold less than 3 %.
    taken: spheres drawn before.
    most_mm: diameter above which no real nodule is drawn, see largest_painted_mm.

    Raises ValueError, in one line, when no place is found.
    """
    shape, spacing = scene.lung.shape, scene.spacing_mm
    room = min(n * s for n, s in zip(shape, spacing, strict=True))
    refusals: dict[str, int] = {}
    for attempt in range(TRIES):
        if attempt % KEPT_DIAMETER == 0:
            diameter = draw_diameter(generator, diameter_mm, min(room, most_mm))
        radius = diameter / 2
        if diameter > room:
            extent = " x ".join(f"{n * s:g}" for n, s in zip(shape, spacing, strict=True))
            _count(refusals, f"it is larger than the volume of {extent} mm")
            continue
        low, high = draw_border(generator, radius, border_mm)
        centres, depths = scene.draw_centres(low + radius, high + radius, radius, generator)
        if not len(centres):
            where = f"{_range(low + radius, high + radius)} mm from the border of the lung"
            _count(refusals, f"no centre {where} leaves it within the volume")
        found = []
        for centre, depth in zip(centres, depths.tolist(), strict=True):
            reason, share = _judge(scene, centre, radius, inside_share, vessel_share, gap_mm, taken)
            if reason is None:
                found.append(Placement(tuple(float(c) for c in centre), diameter, depth - radius, share))
                if not scene.aerated:
                    return found[0]
            else:
                _count(refusals, reason)
        if found:
            return _like_real(scene, found, low + high <= 0, generator)
    raise UserError(
        f"no place found for a sphere of {diameter:.1f} mm in {TRIES} tries, mostly because "
        f"{max(refusals, key=refusals.get)}; ask for fewer or smaller lesions"
    )


def place_lesions(
    scene: LungScene, count: int, address: Sequence[int | str], separate: bool = True, **options
) -> list[Placement]:
    """Draw `count` spheres by `place_in_lung`; the one with the number i has the address (*address, i).

    separate: no two of them overlap, for several lesions in one scan; otherwise each is drawn as if it were
    the only one. Either way the first ones do not depend on `count`.
    """
    placements: list[Placement] = []
    for index in range(count):
        generator = addressed_generator(*address, index)
        taken = (*options.get("taken", ()), *(placements if separate else ()))
        placements.append(place_in_lung(scene, generator, **(options | {"taken": taken})))
    return placements


def draw_diameter(
    generator: torch.Generator, given: Diameter = REGIONS, most_mm: float = float("inf")
) -> float:
    """A diameter in mm: the number given, uniform in a range, or that of the sphere around a real nodule.

    given: of nodules a key of DIAMETERS. most_mm: larger nodules are not drawn; where all are larger, it is
    the diameter.
    """
    if isinstance(given, str):
        quantiles = load_statistics("lidc")[DIAMETERS[given]]["quantiles"]
        share = float(np.interp(most_mm, quantiles, np.linspace(0, 1, len(quantiles))))
        return min(_quantile(quantiles, share * uniform(generator)), most_mm)
    low, high = bounds(given, "diameter_mm")
    if low <= 0:
        raise UserError(f"diameter_mm {given} must be above 0")
    return low if low == high else low + (high - low) * uniform(generator)


def largest_painted_mm(
    shape: Sequence[int], spacing_mm: Sequence[float], size: Sequence[int], network_mm: Sequence[float]
) -> float:
    """The largest diameter of a lesion that the network which paints holds, in a scan that is larger than
    what it sees at once; inf in one that is not.

    shape, spacing_mm: of the scan; size, network_mm: of the network's box; all (D, H, W).
    """
    sides = zip(shape, spacing_mm, size, network_mm, strict=True)
    return min((m * wide - ROOM_MM for n, mm, m, wide in sides if n * mm > m * wide), default=math.inf)


def draw_border(generator: torch.Generator, radius_mm: float, given: Given = None) -> tuple[float, float]:
    """Range in mm in which the distance of a sphere to the lung's border shall lie.

    As in LIDC lesions: a share of the spheres reaches the border, and by how much is counted in radii; the
    distance of the others is not. The deepest are only known to be deeper than the regions show: high is inf.
    """
    if given is not None:
        low, high = bounds(given, "border_mm")
        if low < high:
            low = high = low + (high - low) * uniform(generator)
        return low - TOLERANCE_MM, high + TOLERANCE_MM
    border = load_statistics("lidc")["border"]
    which, rank = uniform(generator), uniform(generator)
    if which < border["share_at_border"]:
        distance = (_quantile(border["depth_at_border_radii"]["quantiles"], rank) - 1) * radius_mm
    elif rank < border["share_known"]:
        distance = _quantile(border["distance_mm"]["quantiles"], rank / border["share_known"])
    else:
        return border["distance_mm"]["quantiles"][-1], float("inf")
    return distance - TOLERANCE_MM, distance + TOLERANCE_MM


def require_fit(
    centre_dhw: Sequence[float], diameter_mm: float, shape: Sequence[int], spacing_mm: Sequence[float]
) -> None:
    """Raise ValueError when a sphere is larger than the volume or not wholly in it."""
    extent = [n * s for n, s in zip(shape, spacing_mm, strict=True)]
    where = f"the sphere of {diameter_mm:g} mm at voxel ({', '.join(f'{c:g}' for c in centre_dhw)})"
    if not diameter_mm > 0 or any(diameter_mm > e for e in extent):
        size = " x ".join(f"{e:g}" for e in extent)
        raise UserError(f"{where} must be above 0 and not larger than the volume of {size} mm")
    overhang = max(
        max(diameter_mm / 2 - (c + 0.5) * s, diameter_mm / 2 - (n - 0.5 - c) * s)
        for c, n, s in zip(centre_dhw, shape, spacing_mm, strict=True)
    )
    if overhang > 1e-6:
        raise UserError(f"{where} lies outside the volume by {overhang:.1f} mm (shape {tuple(shape)})")


def _like_real(
    scene: LungScene, found: Sequence[Placement], at_border: bool, generator: torch.Generator
) -> Placement:
    """That of several spheres of one size beside which lies about as much tissue as beside a real nodule,
    which is drawn."""
    nodules = load_statistics("lidc")["surroundings"]["nodules"]
    wanted = draw_tissue(nodules, found[0].diameter_mm, at_border, uniform(generator))
    misses = np.abs([scene.tissue_around(placement) - wanted for placement in found])
    return found[int(np.argmin(np.nan_to_num(misses, nan=np.inf)))]


def _judge(
    scene: LungScene,
    centre: Sequence[int],
    radius: float,
    inside_share: float,
    vessel_share: float,
    gap_mm: float,
    taken: Sequence[Placement],
) -> tuple[str | None, float]:
    """Why the sphere may not lie there (None: it may), and how much of it is lung."""
    shape, spacing = scene.lung.shape, scene.spacing_mm
    for other in taken:
        apart = np.linalg.norm(np.subtract(other.centre_dhw, centre) * spacing)
        if apart < other.diameter_mm / 2 + radius + gap_mm:
            return f"it comes closer than {gap_mm:g} mm to one that was drawn before", 0.0
    box, ball = _ball(centre, radius + gap_mm, shape, spacing)
    if scene.lesions[box][ball].any():
        return f"it comes closer than {gap_mm:g} mm to a lesion", 0.0
    box, ball = _ball(centre, radius, shape, spacing)
    share = float(scene.lung[box][ball].mean())
    if share < inside_share:
        return f"less than {inside_share:.0%} of it is lung", share
    if scene.vessels[box][ball].mean() > vessel_share:
        return f"more than {vessel_share:.0%} of it is large vessels", share
    return None, share


def sphere_around(mask: np.ndarray, spacing_mm: Sequence[float]) -> Placement:
    """The sphere of an existing mask (D, H, W): around its centroid, as far as its farthest voxel's centre.

    So is the sphere that DiffMask learns from, but for the rounding. Where it lies in an organ is not known:
    nan. Raises UserError for an empty mask.
    """
    voxels = np.argwhere(mask)
    if not len(voxels):
        raise UserError("the mask is empty, so there is no sphere around it")
    centre = voxels.mean(axis=0)
    radius = float(np.linalg.norm((voxels - centre) * spacing_mm, axis=1).max())
    return Placement(tuple(float(c) for c in centre), 2 * radius, math.nan, math.nan)


# --- helpers --------------------------------------------------------------------


def _ball(
    centre: Sequence[float], radius_mm: float, shape: Sequence[int], spacing_mm: Sequence[float]
) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box of a ball, cut at the volume, and the ball in it. It holds at least its central voxel."""
    box = _box(centre, radius_mm, shape, spacing_mm)
    return box, _squared(centre, box, spacing_mm) <= radius_mm**2


def _box(
    centre: Sequence[float], radius_mm: float, shape: Sequence[int], spacing_mm: Sequence[float]
) -> tuple[slice, ...]:
    return tuple(
        slice(max(int(np.ceil(c - radius_mm / s)), 0), max(min(int(c + radius_mm / s) + 1, n), 0))
        for c, n, s in zip(centre, shape, spacing_mm, strict=True)
    )


def _squared(centre: Sequence[float], box: tuple[slice, ...], spacing_mm: Sequence[float]) -> np.ndarray:
    """The square of the distance of each voxel of a box from a centre, in mm."""
    offsets = [(np.arange(b.start, b.stop) - c) * s for b, c, s in zip(box, centre, spacing_mm, strict=True)]
    return sum(part**2 for part in np.meshgrid(*offsets, indexing="ij", sparse=True))


def uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def _quantile(quantiles: Sequence[float], rank: float) -> float:
    """The value at a rank in 0..1 of evenly spaced quantiles."""
    return float(np.interp(rank, np.linspace(0, 1, len(quantiles)), quantiles))


def bounds(given: float | Sequence[float], name: str) -> tuple[float, float]:
    low, high = (given, given) if np.ndim(given) == 0 else given
    if not (np.isfinite([low, high]).all() and low <= high):
        raise UserError(f"{name} {given} must be a number or a range [low, high]")
    return float(low), float(high)


def _range(low: float, high: float) -> str:
    return f"at least {low:.1f}" if np.isinf(high) else f"{low:.1f} to {high:.1f}"


def _count(refusals: dict[str, int], reason: str) -> None:
    refusals[reason] = refusals.get(reason, 0) + 1
