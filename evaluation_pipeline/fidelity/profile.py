"""What happens across a lesion's border, voxel layer by voxel layer, and how grainy its inside is.

A lesion that ends at its label, or that carries other noise than the scan, is given away by these alone,
whatever its histogram.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from evaluation_pipeline.fidelity.lesions import Lesion

LAYERS = (-3, -2, -1, 1, 2, 3)  # from the border: inside below 0, outside above 0
SURROUNDINGS_MM = (5.0, 10.0)  # where the lung, or other tissue around, is looked at
CORE_MM = 2.5  # from the border inwards: what is deeper is the core
GRAIN_SIGMA = 1.0  # voxels: grain is what a Gaussian of this width takes off


def layer_profile(lesion: Lesion) -> np.ndarray:
    """(len(LAYERS),): share of the lesion's contrast in each layer of voxels, NaN where there is none.

    0 is the median of the surroundings, 1 the median of the innermost layers. Voxels outside count only
    where the surroundings are like their darker half, so that a wall beside the lesion is not taken for it.
    """
    depth = _layers(lesion.mask)
    image = lesion.image.astype(np.float64)
    away = distance_transform_edt(~lesion.mask, sampling=lesion.spacing_mm)
    around = (away > SURROUNDINGS_MM[0]) & (away <= SURROUNDINGS_MM[1])
    core = depth <= min(-3, int(depth.min()) + 1) if depth.min() <= -3 else depth == depth.min()
    if not around.any() or not core.any():
        return np.full(len(LAYERS), np.nan)
    lung, inside = np.median(image[around]), np.median(image[core])
    contrast = inside - lung
    if abs(contrast) < 1e-6:
        return np.full(len(LAYERS), np.nan)
    found = []
    for layer in LAYERS:
        voxels = image[depth == layer]
        found.append(float((np.median(voxels) - lung) / contrast) if voxels.size else np.nan)
    return np.array(found)


def grain(lesion: Lesion) -> tuple[float, float]:
    """(sd of the fine structure of the core, the same of the scan around), NaN without a core.

    The scan's is that of smooth tissue: the lower quartile of local values outside the lesion.
    """
    image = lesion.image.astype(np.float64)
    fine = image - gaussian_filter(image, GRAIN_SIGMA)
    deep = distance_transform_edt(lesion.mask, sampling=lesion.spacing_mm) > CORE_MM
    outside = distance_transform_edt(~lesion.mask, sampling=lesion.spacing_mm) > SURROUNDINGS_MM[0]
    local = np.sqrt(gaussian_filter(fine**2, 2.0))
    inside = float(fine[deep].std()) if deep.sum() >= 20 else float("nan")
    scan = float(np.quantile(local[outside], 0.25)) if outside.any() else float("nan")
    return inside, scan


def profiles(lesions: Sequence[Lesion]) -> np.ndarray:
    """(lesions, len(LAYERS)); see layer_profile."""
    return np.array([layer_profile(lesion) for lesion in lesions]).reshape(-1, len(LAYERS))


def grain_ratios(lesions: Sequence[Lesion]) -> np.ndarray:
    """(lesions,): grain of the core over that of the scan, NaN for lesions without a core."""
    found = np.array([grain(lesion) for lesion in lesions]).reshape(-1, 2)
    return found[:, 0] / found[:, 1]


def _layers(mask: np.ndarray) -> np.ndarray:
    """Layers of voxels from the border: -1, -2, ... inside, 1, 2, ... outside (in voxels, not in mm)."""
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    return np.where(mask, -np.ceil(inside - 1e-9), np.ceil(outside - 1e-9)).astype(int)
