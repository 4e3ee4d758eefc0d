"""Move the lesions of one heart into the wall of another (short-axis cardiac MR).

The wall is the myocardium with its lesions. A voxel of it has an address that both hearts share:
  - height: the place of its slice between the apex and the base;
  - angle about the centre of the left ventricle (LV) in its slice, counted from the middle of the septum;
  - depth: 0 at the inner border of the wall (endocardium), 1 at the outer one (epicardium), along that angle.
So position, radius and thickness of the wall, and the number of slices, may all differ.

Angles are in radians in the (H, W) plane of a depth-first array: 0 towards larger w, pi / 2 towards larger h.
Voxels count as square in the plane. The slices of both hearts must be seen from the same side, as those of
Axes.of_heart are: labels do not tell a mirrored heart. Which end is the apex is read off the labels: there
the cavity is small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from LeFusion.errors import UserError

RAYS = 360  # a step of one degree is half a voxel at the epicardium of a large heart
RAY_STEP = 0.25  # voxels
# The steps of two voxel grids would tear a lesion that is moved. So the wall's radii are smoothed along it,
# and the source's labels before they are looked up between its voxels
WALL_DEG, LABEL_BLUR = 10, 0.7  # degrees; sd in voxels

# Settings of septal_angle. Radii are counted in epicardial radii, outwards from the epicardium.
APICAL_SHARE = 0.25  # the share of the slices, at the apex, where there may be no right ventricle
RV_NEAR, RV_FAR = 0.1, 0.4  # behind the rim, which may be fat or partly myocardium
RV_ARC_DEG = 110  # the part of the circumference that the right ventricle lies along
BLUR_DEG = 15  # bridges noise and trabeculae


@dataclass(frozen=True)
class Anatomy:
    """The labels of the healthy parts of a heart. cavity: the blood in the LV."""

    cavity: int
    myocardium: int


@dataclass(frozen=True)
class _Wall:
    """The wall in one slice. inner, outer: (RAYS,) radii in voxels about `centre`; NaN: no wall there."""

    centre: np.ndarray
    inner: np.ndarray
    outer: np.ndarray


class WallCoordinates(NamedTuple):
    """Arrays (D, H, W) float64, NaN outside the wall. See wall_coordinates."""

    angle: np.ndarray
    depth: np.ndarray
    height: np.ndarray


def wall_coordinates(
    labels_dhw: np.ndarray, anatomy: Anatomy, lesion_labels: Sequence[int]
) -> WallCoordinates:
    """The address of each voxel of the wall (see the top of this file).

    angle: radians in (-pi, pi], as stored, not counted from the septum. depth: 0 at the endocardium to 1 at
    the epicardium, in the same slice. height: 0 at the apex to 1 at the base; the middle of slice i of n lies
    at (i + 1/2) / n. NaN outside the wall. labels_dhw: (D, H, W). Raises ValueError when the cavity or the
    myocardium is missing.
    """
    walls = _wall_mask(labels_dhw, anatomy, lesion_labels, "heart")
    return _coordinates(walls, labels_dhw == anatomy.cavity)


def septal_angle(
    image_dhw: np.ndarray, labels_dhw: np.ndarray, anatomy: Anatomy, lesion_labels: Sequence[int]
) -> float:
    """The direction from the LV's centre to the middle of the septum, in radians in (-pi, pi].

    The right ventricle lies along the septum, its blood is about as bright as that of the LV, and hardly
    anywhere else does such blood begin right behind the wall. So each ray from the LV's centre is scored by
    how far intensities like those of the LV's blood reach, without a gap, behind the epicardium; the answer
    is the middle of the arc of 110 degrees with the highest score, over all slices but the apical quarter.
    (Brightness alone fails more often: fat is brighter than blood, and liver or stomach may lie on the other
    side.) Of 87 EMIDEC hearts, on which the settings were chosen, 86 come within 30 degrees of the direction
    judged by eye, half of them within 8.

    image_dhw: (D, H, W), any units. labels_dhw: (D, H, W). Raises ValueError when the cavity or the
    myocardium is missing, and when the image does not show the septum (constant, not finite, all alike around
    the heart).
    """
    assert image_dhw.shape == labels_dhw.shape, f"image {image_dhw.shape}, labels {labels_dhw.shape}"
    walls = _wall_mask(labels_dhw, anatomy, lesion_labels, "heart")
    cavities = labels_dhw == anatomy.cavity
    slices = _apex_to_base(walls, cavities)
    slices = [z for z in slices[int(len(slices) * APICAL_SHARE) :] if cavities[z].any() and walls[z].any()]
    image = np.asarray(image_dhw, np.float64)
    if slices and np.isfinite(image).all():
        score = np.mean([_blood_score(image[z], cavities[z], walls[z]) for z in slices], axis=0)
        arc_score = _circular_mean(score, RV_ARC_DEG)
        if np.ptp(arc_score) > 1e-6:
            return float(_middle_of_the_highest(arc_score))
    raise UserError("the image does not show where the septum is; the septal angle must be given")


def transfer_lesions(
    source_labels: np.ndarray,
    target_labels: np.ndarray,
    anatomy: Anatomy,
    lesion_labels: Sequence[int],
    turn_rad: float,
) -> np.ndarray:
    """The target's labels with the source's lesions in its wall.

    A voxel of the target's wall is lesion where, at the same address (see the top of this file), more of the
    source's wall is lesion than myocardium, and it takes the label of which there is most; the source's
    labels are a little blurred. The rest of the wall is myocardium, also where the target had a lesion of its
    own. So no label leaves the target's wall, and what lies inside a lesion stays inside it. Where the
    source's wall has a gap (an open ring at the base), there is no lesion. A lesion in few slices may be lost
    in a heart that has fewer.

    source_labels: (D, H, W). target_labels: (D', H', W'); the result has its shape and type, nothing is
    changed in place. turn_rad: septal angle of the target minus that of the source. Raises ValueError when
    either heart lacks the cavity or the myocardium, when the source has no lesion, and when no lesion voxel
    results.
    """
    source_walls = _wall_mask(source_labels, anatomy, lesion_labels, "source")
    target_walls = _wall_mask(target_labels, anatomy, lesion_labels, "target")
    if not np.isin(source_labels, lesion_labels).any():
        raise UserError(f"the source's labels hold no lesion (labels {_listed(lesion_labels)})")
    source_order = _apex_to_base(source_walls, source_labels == anatomy.cavity)
    target = _coordinates(target_walls, target_labels == anatomy.cavity)
    result = np.where(np.isin(target_labels, lesion_labels), anatomy.myocardium, target_labels)
    result = result.astype(target_labels.dtype, copy=False)
    for z in np.flatnonzero(np.isfinite(target.height).any(axis=(1, 2))):
        voxels = np.argwhere(np.isfinite(target.height[z]))
        angle, depth, height = (values[z][tuple(voxels.T)] for values in target)
        # A middle may lie on the border of two of the source's slices: then the upper one, despite rounding
        source_z = source_order[int(height[0] * len(source_order) + 1e-9)]
        if not np.isin(source_labels[source_z], lesion_labels).any():
            continue
        source_wall = _measure(source_labels[source_z] == anatomy.cavity, source_walls[source_z])
        positions = _positions(angle - turn_rad, depth, source_wall)
        found = np.isfinite(positions).all(axis=1)
        voxels, positions = voxels[found], positions[found]
        held = [_share(source_labels[source_z] == label, positions) for label in lesion_labels]
        lesion = np.sum(held, axis=0) > _share(source_labels[source_z] == anatomy.myocardium, positions)
        labels = np.asarray(lesion_labels)[np.argmax(held, axis=0)]
        result[z][tuple(voxels[lesion].T)] = labels[lesion]
    if not np.isin(result, lesion_labels).any():
        target_order = _apex_to_base(target_walls, target_labels == anatomy.cavity)
        raise UserError(
            f"no voxel of the source's lesion (labels {_listed(lesion_labels)}) comes to lie in the target's "
            f"myocardium ({len(source_order)} slices onto {len(target_order)}); take another source"
        )
    return result


def _wall_mask(labels: np.ndarray, anatomy: Anatomy, lesion_labels: Sequence[int], whose: str) -> np.ndarray:
    """Myocardium and lesions (D, H, W); ValueError when the heart is not complete."""
    assert labels.ndim == 3, f"labels {labels.shape} must be (D, H, W)"
    for name, label in (("cavity", anatomy.cavity), ("myocardium", anatomy.myocardium)):
        if not (labels == label).any():
            raise UserError(f"the {whose}'s labels hold no {name} (label {label})")
    return np.isin(labels, (anatomy.myocardium, *lesion_labels))


def _listed(labels: Sequence[int]) -> str:
    return ", ".join(str(label) for label in labels)


def _apex_to_base(walls: np.ndarray, cavities: np.ndarray) -> list[int]:
    """The slices from the first to the last one with wall, the apex first.

    The cavity grows from apex to base, so the order is that in which its area rises (least squares). On a tie
    the stored order counts as apex first; in EMIDEC it is so in every case.
    """
    held = np.flatnonzero(walls.any(axis=(1, 2)))
    slices = list(range(int(held[0]), int(held[-1]) + 1))
    area = cavities[slices].sum(axis=(1, 2))
    rise = (np.arange(len(slices)) - (len(slices) - 1) / 2) @ area
    return slices if rise >= 0 else slices[::-1]


def _measure(cavity: np.ndarray, wall: np.ndarray) -> _Wall:
    """Centre and radii of the wall in one slice (H, W). Without cavity the centre is that of the wall."""
    centre = np.argwhere(cavity if cavity.any() else wall).mean(axis=0)
    radii = np.arange(0, np.hypot(*wall.shape), RAY_STEP)
    on_wall = _sample(wall, centre, radii[:, None], _ray_angles(), outside=False)
    inner = radii[on_wall.argmax(axis=0)]
    outer = radii[len(radii) - 1 - on_wall[::-1].argmax(axis=0)] + RAY_STEP
    has_wall = on_wall.any(axis=0)
    near = np.maximum(_circular_mean(has_wall, WALL_DEG), 1 / RAYS)
    inner, outer = (_circular_mean(np.where(has_wall, radii, 0), WALL_DEG) / near for radii in (inner, outer))
    return _Wall(centre, np.where(has_wall, inner, np.nan), np.where(has_wall, outer, np.nan))


def _coordinates(walls: np.ndarray, cavities: np.ndarray) -> WallCoordinates:
    coordinates = WallCoordinates(*(np.full(walls.shape, np.nan) for _ in range(3)))
    slices = _apex_to_base(walls, cavities)
    for index, z in enumerate(slices):
        if not walls[z].any():
            continue
        wall = _measure(cavities[z], walls[z])
        voxels = np.nonzero(walls[z])
        dy, dx = voxels[0] - wall.centre[0], voxels[1] - wall.centre[1]
        angle = np.arctan2(dy, dx)
        ray = _ray_index(angle)
        depth = (np.hypot(dy, dx) - wall.inner[ray]) / (wall.outer[ray] - wall.inner[ray])
        known = np.isfinite(depth)
        height = np.full(len(angle), (index + 0.5) / len(slices))
        for values, new in zip(coordinates, (angle, depth.clip(0, 1), height), strict=True):
            values[z][voxels] = np.where(known, new, np.nan)
    return coordinates


def _positions(angle: np.ndarray, depth: np.ndarray, wall: _Wall) -> np.ndarray:
    """Addresses (N,), (N,) in a slice -> places (N, 2) in it; NaN where there is no wall at that angle."""
    ray = _ray_index(angle)
    radius = wall.inner[ray] + depth * (wall.outer[ray] - wall.inner[ray])
    return wall.centre + radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)


def _share(mask: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """How much of a mask (H, W) is at each position (N, 2) -> (N,) in [0, 1]."""
    return ndimage.map_coordinates(
        ndimage.gaussian_filter(mask.astype(float), LABEL_BLUR), positions.T, order=1
    )


def _blood_score(image: np.ndarray, cavity: np.ndarray, wall: np.ndarray) -> np.ndarray:
    """(RAYS,) in [0, 1] for one slice: how like the LV's blood is what lies right behind the wall."""
    blood = np.median(image[cavity])
    spread = 1.4826 * np.median(
        np.abs(image[cavity] - blood)
    )  # standard deviation, robust to papillary muscles
    low, high = np.percentile(image, (5, 95))
    tolerance = max(1.5 * spread, 0.1 * (high - low))
    if tolerance == 0:
        return np.zeros(RAYS)
    likeness = np.exp(-0.5 * ((image - blood) / tolerance) ** 2)
    heart = _measure(cavity, cavity | wall)  # with the cavity, the heart has no gaps
    heart_radius = np.sqrt((cavity | wall).sum() / np.pi)
    epicardium = np.nan_to_num(heart.outer, nan=heart_radius)
    radii = epicardium + np.linspace(RV_NEAR, RV_FAR, 13)[:, None] * heart_radius
    rays = _sample(likeness, heart.centre, radii, _ray_angles(), outside=0.0)
    rays = _circular_mean(rays, BLUR_DEG)
    return np.minimum.accumulate(rays, axis=0).mean(axis=0)


def _ray_angles() -> np.ndarray:
    return np.arange(RAYS) * (2 * np.pi / RAYS)


def _ray_index(angle: np.ndarray) -> np.ndarray:
    return np.rint(angle * RAYS / (2 * np.pi)).astype(int) % RAYS


def _sample(
    slice_hw: np.ndarray, centre: np.ndarray, radii: np.ndarray, angles: np.ndarray, outside
) -> np.ndarray:
    """The nearest voxels' values at radii (R, 1 or A) and angles (A,) -> (R, A), else `outside`."""
    y = np.rint(centre[0] + radii * np.sin(angles)).astype(int)
    x = np.rint(centre[1] + radii * np.cos(angles)).astype(int)
    inside = (y >= 0) & (y < slice_hw.shape[0]) & (x >= 0) & (x < slice_hw.shape[1])
    return np.where(inside, slice_hw[np.where(inside, y, 0), np.where(inside, x, 0)], outside)


def _circular_mean(rays: np.ndarray, width_deg: float) -> np.ndarray:
    """Mean over an arc of `width_deg` about each ray. rays: (..., RAYS)."""
    half = round(width_deg / 360 * RAYS / 2)
    return np.mean([np.roll(rays, shift, axis=-1) for shift in range(-half, half + 1)], axis=0)


def _middle_of_the_highest(arc_score: np.ndarray) -> float:
    """The centre of mass of what lies within 10 % of the highest score, near it: steadier than it."""
    angles = _ray_angles()
    offset = np.angle(np.exp(1j * (angles - angles[arc_score.argmax()])))
    weight = np.clip(arc_score - 0.9 * arc_score.max(), 0, None) * (
        np.abs(offset) < np.radians(RV_ARC_DEG / 2)
    )
    return np.angle(np.exp(1j * (angles[arc_score.argmax()] + (weight * offset).sum() / weight.sum())))
