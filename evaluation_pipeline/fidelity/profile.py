"""What happens across a lesion's border, voxel layer by voxel layer, and how grainy and uneven its inside is.

A lesion that ends at its label, or that carries other noise than the scan, is given away by these alone,
whatever its histogram.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from evaluation_pipeline.fidelity.discriminator import roc_auc
from evaluation_pipeline.fidelity.lesions import Lesion, TooLittleData

LAYERS = (-3, -2, -1, 1, 2, 3)  # from the border: inside below 0, outside above 0
SURROUNDINGS_MM = (5.0, 10.0)  # where the lung, or other tissue around, is looked at
CORE_MM = 2.5  # from the border inwards: what is deeper is the core
RESAMPLES = 500
LEAST_CORE = 20  # voxels
GRAIN_SIGMA = 1.0  # voxels: grain is what a Gaussian of this width takes off


def layer_profile(lesion: Lesion) -> np.ndarray:
    """(len(LAYERS),): share of the lesion's contrast in each layer of voxels, NaN where there is none.

    0 is the median of the surroundings, 1 the median of the innermost layers.
    """
    depth = _layers(lesion.mask)
    image = lesion.image.astype(np.float64)
    core = depth <= min(-3, int(depth.min()) + 1) if depth.min() <= -3 else depth == depth.min()
    lung = surroundings(lesion)
    if np.isnan(lung) or not core.any():
        return np.full(len(LAYERS), np.nan)
    contrast = np.median(image[core]) - lung
    if abs(contrast) < 1e-6:
        return np.full(len(LAYERS), np.nan)
    found = []
    for layer in LAYERS:
        voxels = image[depth == layer]
        found.append(float((np.median(voxels) - lung) / contrast) if voxels.size else np.nan)
    return np.array(found)


def surroundings(lesion: Lesion) -> float:
    """The median of what lies SURROUNDINGS_MM around the lesion; NaN where nothing does."""
    away = distance_transform_edt(~lesion.mask, sampling=lesion.spacing_mm)
    around = (away > SURROUNDINGS_MM[0]) & (away <= SURROUNDINGS_MM[1])
    return float(np.median(lesion.image[around])) if around.any() else float("nan")


def grain(lesion: Lesion) -> tuple[float, float]:
    """(sd of the fine structure of the core, the same of the scan around), NaN without a core.

    The scan's is that of smooth tissue: the lower quartile of local values outside the lesion.
    """
    image = lesion.image.astype(np.float64)
    fine = image - gaussian_filter(image, GRAIN_SIGMA)
    deep = distance_transform_edt(lesion.mask, sampling=lesion.spacing_mm) > CORE_MM
    outside = distance_transform_edt(~lesion.mask, sampling=lesion.spacing_mm) > SURROUNDINGS_MM[0]
    local = np.sqrt(gaussian_filter(fine**2, 2.0))
    inside = float(fine[deep].std()) if deep.sum() >= LEAST_CORE else float("nan")
    scan = float(np.quantile(local[outside], 0.25)) if outside.any() else float("nan")
    return inside, scan


def unevenness(lesion: Lesion) -> float:
    """sd of what a Gaussian of GRAIN_SIGMA leaves of the core, in the image's units; NaN without a core.

    Mottle as a reader sees it in a narrow window: that of a large solid nodule is low.
    """
    deep = distance_transform_edt(lesion.mask, sampling=lesion.spacing_mm) > CORE_MM
    if deep.sum() < LEAST_CORE:
        return float("nan")
    weight = gaussian_filter(deep.astype(np.float64), GRAIN_SIGMA)
    smooth = gaussian_filter(np.where(deep, lesion.image, 0.0).astype(np.float64), GRAIN_SIGMA)
    return float((smooth[deep] / weight[deep]).std())


def profiles(lesions: Sequence[Lesion]) -> np.ndarray:
    """(lesions, len(LAYERS)); see layer_profile."""
    return np.array([layer_profile(lesion) for lesion in lesions]).reshape(-1, len(LAYERS))


def grain_ratios(lesions: Sequence[Lesion]) -> np.ndarray:
    """(lesions,): grain of the core over that of the scan, NaN for lesions without a core."""
    found = np.array([grain(lesion) for lesion in lesions]).reshape(-1, 2)
    return found[:, 0] / found[:, 1]


def compare_profiles(
    real: Sequence[Lesion], synthetic: Sequence[Lesion], generator: np.random.Generator
) -> dict:
    """How well each layer, the grain and the unevenness alone tell synthetic lesions from real ones.

    `layers`: for each, the median share of the contrast of both, and the AUC (of the better direction, so 0.5
    at least) with 95 % over lesions drawn anew. `grain`: the same for the grain of the core over the scan's;
    `unevenness`: likewise.
    Raises TooLittleData without surroundings or contrast to measure.
    """
    shares = profiles(real), profiles(synthetic)
    if any(np.isnan(part).all() for part in shares):
        raise TooLittleData("no lesion has surroundings and contrast, so there is no profile")
    rows = [
        {"layer": layer} | _told_apart(shares[0][:, column], shares[1][:, column], generator)
        for column, layer in enumerate(LAYERS)
    ]
    grains = (grain_ratios(lesions) for lesions in (real, synthetic))
    uneven = (np.array([unevenness(lesion) for lesion in lesions]) for lesions in (real, synthetic))
    return {
        "layers": rows,
        "grain": _told_apart(*grains, generator),
        "unevenness": _told_apart(*uneven, generator),
    }


def _told_apart(real: np.ndarray, synthetic: np.ndarray, generator: np.random.Generator) -> dict:
    """Medians of both and the AUC between them; None where one has no value."""
    real, synthetic = real[~np.isnan(real)], synthetic[~np.isnan(synthetic)]
    medians = {
        name: float(np.median(part)) if part.size else None
        for name, part in (("real", real), ("synthetic", synthetic))
    }
    if not real.size or not synthetic.size:
        return medians | {"auc": None, "low": None, "high": None}
    brighter = roc_auc(*_labelled(real, synthetic)) >= 0.5
    aucs = [roc_auc(*_labelled(real, synthetic))]
    for _ in range(RESAMPLES):
        drawn = [generator.choice(part, part.size) for part in (real, synthetic)]
        aucs.append(roc_auc(*_labelled(*drawn)))
    found = np.array(aucs) if brighter else 1 - np.array(aucs)
    low, high = (float(v) for v in np.percentile(found[1:], (2.5, 97.5)))
    return medians | {"auc": float(found[0]), "low": low, "high": high}


def _labelled(real: np.ndarray, synthetic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which are synthetic, values) of both."""
    values = np.concatenate([real, synthetic])
    return np.arange(len(values)) >= len(real), values


def _layers(mask: np.ndarray) -> np.ndarray:
    """Layers of voxels from the border: -1, -2, ... inside, 1, 2, ... outside (in voxels, not in mm)."""
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    return np.where(mask, -np.ceil(inside - 1e-9), np.ceil(outside - 1e-9)).astype(int)
