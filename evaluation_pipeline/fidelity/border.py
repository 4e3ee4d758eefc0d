"""The seam: intensities and their gradient across a lesion's border, against real lesions."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt

from evaluation_pipeline.fidelity.lesions import Lesion, TooLittleData

REACH_MM = 4
EDGES_MM = np.arange(-REACH_MM, REACH_MM + 1)  # bins of 1 mm; negative: inside
CENTRES_MM = (EDGES_MM[:-1] + EDGES_MM[1:]) / 2
ANISOTROPIC = 2.0  # slices farther apart than this many pixels: borders are looked at slice by slice


def signed_distance_mm(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """(D, H, W) distance in mm of each voxel's centre to the border, negative inside.

    The border runs midway between a voxel and its neighbour. With slices more than twice as far apart as
    pixels, distances are taken in the plane; slices without the lesion are then infinitely far outside.
    """
    if _flat(spacing_mm):
        distance = np.full(mask.shape, np.inf)
        for z in np.flatnonzero(mask.any(axis=(1, 2))):
            distance[z] = _signed(mask[z], spacing_mm[1:])
        return distance
    return _signed(mask, spacing_mm)


def gradient_magnitude(image: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """(D, H, W) gradient magnitude per mm by central differences; in the plane only, where distances are."""
    axes = [axis for axis in ((1, 2) if _flat(spacing_mm) else (0, 1, 2)) if image.shape[axis] > 1]
    squares = [np.gradient(image.astype(np.float64), spacing_mm[axis], axis=axis) ** 2 for axis in axes]
    return np.sqrt(sum(squares, np.zeros(image.shape)))


def border_profile(lesion: Lesion) -> tuple[np.ndarray, np.ndarray]:
    """(intensity, gradient magnitude) for each bin of CENTRES_MM, (8,) each; NaN where no voxel lies."""
    distance = signed_distance_mm(lesion.mask, lesion.spacing_mm)
    gradient = gradient_magnitude(lesion.image, lesion.spacing_mm)
    near = np.abs(distance) < REACH_MM
    bins = np.digitize(distance[near], EDGES_MM) - 1
    count = np.bincount(bins, minlength=len(CENTRES_MM)).astype(np.float64)
    count[count == 0] = np.nan
    sums = (
        np.bincount(bins, array[near].astype(np.float64), len(CENTRES_MM))
        for array in (lesion.image, gradient)
    )
    intensity, steepness = (total / count for total in sums)
    return intensity, steepness


def gradient_at_border(lesion: Lesion) -> float:
    """Mean gradient magnitude within 1 mm of the border, per mm."""
    distance = signed_distance_mm(lesion.mask, lesion.spacing_mm)
    gradient = gradient_magnitude(lesion.image, lesion.spacing_mm)
    return float(gradient[np.abs(distance) <= 1].mean()) if (np.abs(distance) <= 1).any() else np.nan


def contrast(lesion: Lesion) -> float:
    """Mean of the lesion minus mean of what lies up to 3 mm outside it; NaN without any outside."""
    distance = signed_distance_mm(lesion.mask, lesion.spacing_mm)
    around = (distance > 0) & (distance <= 3)
    return float(lesion.values.mean() - lesion.image[around].mean()) if around.any() else np.nan


def seam(synthetic: Sequence[Lesion], real: Sequence[Lesion]) -> dict:
    """Gradient magnitude at the border (within 1 mm), and profiles over the signed distance, of both sets.

    `difference`: mean at the border, synthetic minus real, in standard deviations over real lesions (a bright
    rim or a hard cut: above 0; a lesion that fades away: below). Raises TooLittleData without any border.
    """
    result = {"distance_mm": CENTRES_MM.tolist()}
    at_border = {}
    for name, lesions in (("synthetic", synthetic), ("real", real)):
        profiles = np.array([border_profile(lesion) for lesion in lesions])
        at_border[name] = np.array([gradient_at_border(lesion) for lesion in lesions])
        held = at_border[name][np.isfinite(at_border[name])]
        if not held.size:
            raise TooLittleData(f"no {name} lesion has voxels within 1 mm of its border")
        result[name] = {
            "border_gradient_mean": float(held.mean()),
            "border_gradient_sd": float(held.std()),
            "intensity_profile": _mean(profiles[:, 0]),
            "gradient_profile": _mean(profiles[:, 1]),
            "gradient_profile_quartiles": _quartiles(profiles[:, 1]),
            "intensity_profile_quartiles": _quartiles(profiles[:, 0]),
        }
    spread = result["real"]["border_gradient_sd"]
    shift = result["synthetic"]["border_gradient_mean"] - result["real"]["border_gradient_mean"]
    result["difference"] = shift / spread if spread > 0 else None
    return result


def _mean(profiles: np.ndarray) -> list[float | None]:
    held = np.isfinite(profiles)
    total = np.where(held, profiles, 0).sum(axis=0)
    return [float(t / n) if n else None for t, n in zip(total, held.sum(axis=0), strict=True)]


def _quartiles(profiles: np.ndarray) -> list[list[float | None]]:
    """The lower and the upper quartile in each bin."""
    held = [profile[np.isfinite(profile)] for profile in profiles.T]
    return [[float(np.percentile(p, q)) if p.size else None for p in held] for q in (25, 75)]


def _flat(spacing_mm: Sequence[float]) -> bool:
    return spacing_mm[0] > ANISOTROPIC * max(spacing_mm[1:])


def _signed(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """A lesion that is cut off by the volume has no border there."""
    if mask.all():
        return np.full(mask.shape, -np.inf)
    half = min(spacing_mm) / 2
    inside, outside = (distance_transform_edt(part, sampling=spacing_mm) for part in (mask, ~mask))
    return np.where(mask, half - inside, outside - half)
