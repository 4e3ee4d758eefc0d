"""Where infarcts go: sectors of the heart's wall, with no-reflow in their core.

All draws come from the torch.Generator that the caller gives. Arrays are depth first (D, H, W), `spacing_mm`
is the size of a voxel along each axis. Defaults follow real infarcts: see DiffMask/placement/statistics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from DiffMask.placement.spheres import Given, bounds, load_statistics, uniform
from DiffMask.postprocess import largest_part
from LeFusion.errors import UserError
from LeFusion.hearts.transfer import Anatomy, wall_coordinates

WAVES = 24  # of the noise of a lesion's border in the wall
FINEST_WAVE = 6  # round the heart
ROUGHNESS = (
    0.35  # sd of these waves, a share of the size of an infarct; a fifth of it, of the wall's thickness
)
STRETCH = 0.1  # of an infarct that goes on over the apex or the base: so much more of its height lies there
DEEPEST = 3.0  # transmurality: so large, the whole wall is infarct but for the outer sixth of the sector
# Of no-reflow against the distance to healthy tissue: for depth up to twice the mean, and against more of it
DEEPER, TOO_DEEP = 0.7, 3.0
CORE_ROUGHNESS = 0.2  # sd of the waves of no-reflow's border, likewise


@dataclass(frozen=True)
class Sector:
    """An infarct in the addresses of `wall_coordinates`.

    angle: of its middle, radians as stored (septal angle plus the angle from the septum).
    half_angle: to its edge where it is widest; pi: round the heart, but thin opposite to the middle.
    transmurality: share of the wall in its middle, from the endocardium; above 1: the whole wall in a part
        round its middle.
    heights: (low, high), 0 at the apex, 1 at the base.
    no_reflow_share: of its volume. no_reflow_depth: the mean depth of that in the wall.
    """

    angle: float
    half_angle: float
    transmurality: float
    heights: tuple[float, float]
    no_reflow_share: float = 0.0
    no_reflow_depth: float = 0.2

    def __post_init__(self):
        low, high = self.heights
        for name, value, fine in (
            ("half_angle", self.half_angle, 0 < self.half_angle <= np.pi),
            ("transmurality", self.transmurality, 0 < self.transmurality <= DEEPEST),
            ("heights", self.heights, 0 <= low < high <= 1),
            ("no_reflow_share", self.no_reflow_share, 0 <= self.no_reflow_share < 1),
            ("no_reflow_depth", self.no_reflow_depth, 0 <= self.no_reflow_depth <= 1),
        ):
            if not fine:
                raise UserError(f"{name} {value} of an infarct is out of range; see Sector")


def draw_sector(
    generator: torch.Generator,
    septal_angle: float | None,
    angle: Given = None,
    half_angle: Given = None,
    transmurality: Given = None,
    heights: tuple[float, float] | None = None,
    no_reflow_share: Given = None,
) -> Sector:
    """Draw an infarct: one of the 44 measured ones, each number a little changed, but for those given.

    septal_angle: of the heart; None: not known, then all angles are equally likely. angle: from the septum,
    or as stored where the septal angle is None. In radians. What is given may be a number or a range, but
    heights are those of the Sector.
    """
    infarcts = load_statistics("emidec")["infarcts"]
    row = infarcts[int(torch.randint(len(infarcts), (), generator=generator))]
    noise = torch.randn(6, generator=generator, dtype=torch.float64).tolist()
    shares = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    low = min(max(row["low"] + 0.04 * noise[3], 0.0), 0.9)
    high = min(max(row["high"] + 0.04 * noise[4], low + 0.1), 1.0)
    measured = (
        np.radians(row["angle_deg"] + 15 * noise[0]),
        min(np.radians(row["half_angle_deg"]) * np.exp(0.1 * noise[1]), np.pi),
        min(row["transmurality"] * np.exp(0.1 * noise[2]), DEEPEST),
        min(row["no_reflow_share"] * np.exp(0.2 * noise[5]), 0.6),
    )
    if septal_angle is None:
        measured = (2 * np.pi * uniform(generator), *measured[1:])
    given = (
        ("angle", angle),
        ("half_angle", half_angle),
        ("transmurality", transmurality),
        ("no_reflow_share", no_reflow_share),
    )
    drawn = []
    for (name, value), real, share in zip(given, measured, shares, strict=True):
        first, last = bounds(value, name) if value is not None else (real, real)
        drawn.append(float(first + (last - first) * share))
    drawn[0] = float(np.angle(np.exp(1j * (drawn[0] + (septal_angle or 0.0)))))
    heights = (float(low), float(high)) if heights is None else (float(heights[0]), float(heights[1]))
    depths = [other["no_reflow_depth"] for other in infarcts if other["no_reflow_depth"] is not None]
    depth = row["no_reflow_depth"]
    if depth is None:  # the infarct drawn has none, but some may be asked for
        depth = depths[int(shares[3] * len(depths))]
    return Sector(*drawn[:3], heights, drawn[3], depth)


def sector_mask(
    labels_dhw: np.ndarray,
    anatomy: Anatomy,
    sector: Sector,
    generator: torch.Generator,
    roughness: float = ROUGHNESS,
) -> np.ndarray:
    """An infarct in the wall, bool (D, H, W): one part, with an irregular smooth border.

    It narrows and thins towards its ends, but not where it goes on over the apex or the base. roughness: sd
    of the waves of its border, a share of its size; 0: none. Raises
    ValueError when the heart has no wall there.
    """
    wall = wall_coordinates(labels_dhw, anatomy, ())
    inside = np.isfinite(wall.angle)
    angle, depth, height = (values[inside] for values in wall)
    half_slice = 0.5 / _wall_slices(wall.height)
    low, high = sector.heights
    # An end at the apex or the base is no end: the ellipse goes on behind it
    bottom = low - STRETCH * (high - low) if low < half_slice else low
    top = high + STRETCH * (high - low) if high > 1 - half_slice else high
    across = np.abs(np.angle(np.exp(1j * (angle - sector.angle)))) / sector.half_angle
    along = np.abs(height - (bottom + top) / 2) / ((top - bottom) / 2)
    to_edge = np.hypot(across, along) + roughness * _waves(angle, depth, height, generator)
    limit = sector.transmurality * np.clip(1 - to_edge.clip(0) ** 2, 0, None)
    limit = np.where(limit > 0, limit + roughness / 5 * _waves(angle, depth, height, generator), 0)
    mask = np.zeros(labels_dhw.shape, bool)
    mask[inside] = (depth < limit) & (height > low - half_slice) & (height < high + half_slice)
    mask = largest_part(mask)
    if not mask.any():
        raise UserError(
            f"the heart has no wall where the infarct should be: angle {np.degrees(sector.angle):.0f} +- "
            f"{np.degrees(sector.half_angle):.0f} degrees, heights {low:.2f} to {high:.2f}"
        )
    return mask


def no_reflow_mask(
    infarct: np.ndarray,
    labels_dhw: np.ndarray,
    anatomy: Anatomy,
    share: float,
    spacing_mm: Sequence[float],
    generator: torch.Generator,
    depth: float = 0.2,
) -> np.ndarray:
    """The core of an infarct, bool (D, H, W), one part: at most `share` of it, on the inner side of the wall.

    What lies far from healthy tissue, the cavity not being one. depth: its mean depth in the wall. Empty when
    the share is 0 or the infarct too small. Raises ValueError for a share out of range.
    """
    if not 0 <= share < 1:
        raise UserError(f"no_reflow_share {share} must be at least 0 and below 1")
    core = np.zeros(infarct.shape, bool)
    voxels = np.argwhere(infarct)
    count = int(round(share * len(voxels)))
    if count == 0:
        return core
    cavity = labels_dhw == anatomy.cavity
    wall = wall_coordinates(labels_dhw, anatomy, ())
    dead_or_blood = infarct | cavity
    far = ndimage.distance_transform_edt(dead_or_blood, spacing_mm)
    plane = (0, 1.5, 1.5)  # voxels: the ridge of the distance is thin and breaks
    smooth = ndimage.gaussian_filter(far, plane) / (
        ndimage.gaussian_filter(dead_or_blood.astype(float), plane) + 1e-6
    )
    far, smooth = far[infarct], smooth[infarct]
    centre = np.argwhere(cavity).mean(axis=0)
    angle = np.arctan2(voxels[:, 1] - centre[1], voxels[:, 2] - centre[2])
    height = voxels[:, 0] / len(infarct)
    depths = np.nan_to_num(wall.depth[infarct], nan=1.0)
    score = smooth / smooth.max() + DEEPER * np.minimum(depths, 2 * depth)
    score -= TOO_DEEP * np.maximum(depths - 2 * depth, 0)
    score += CORE_ROUGHNESS * _waves(angle, np.zeros_like(angle), height, generator)
    score[far < 1.5 * min(spacing_mm)] = -np.inf  # no-reflow lies within the infarct, corners included
    chosen = np.argsort(-score, kind="stable")[:count]
    core[tuple(voxels[chosen[np.isfinite(score[chosen])]].T)] = True
    return largest_part(core)


def _waves(
    angle: np.ndarray, depth: np.ndarray, height: np.ndarray, generator: torch.Generator
) -> np.ndarray:
    """Smooth noise of mean 0 and sd 1, periodic in the angle. What is drawn does not depend on the voxels."""
    around = torch.randint(1, FINEST_WAVE + 1, (WAVES,), generator=generator).numpy()
    numbers = torch.rand(3, WAVES, generator=generator, dtype=torch.float64).numpy()
    noise = np.zeros(angle.shape)
    for m, up, out, phase in zip(around, 2 * np.pi * numbers[0], np.pi * numbers[1], numbers[2], strict=True):
        noise += np.cos(m * angle + up * height + out * depth + 2 * np.pi * phase)
    return noise * np.sqrt(2 / WAVES)


def _wall_slices(heights: np.ndarray) -> int:
    """The number of slices from apex to base, read off wall_coordinates: the lowest height is 1 / 2n."""
    return int(round(0.5 / np.nanmin(heights)))
