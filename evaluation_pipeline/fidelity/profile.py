"""What happens across a lesion's border, voxel layer by voxel layer, and how grainy and uneven its inside is.

A lesion that ends at its label, or that carries other noise than the scan, is given away by these alone,
whatever its histogram. So is one that is sharp across slices in a scan that is not, or that no strand joins.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import (
    distance_transform_edt,
    gaussian_filter,
    map_coordinates,
    minimum_filter,
)
from scipy.stats import spearmanr

from evaluation_pipeline.fidelity.discriminator import roc_auc
from evaluation_pipeline.fidelity.lesions import Lesion, TooLittleData
from LeFusion.textures.noise import BESIDE, third_difference

LAYERS = (-3, -2, -1, 1, 2, 3)  # from the border: inside below 0, outside above 0
SURROUNDINGS_MM = (5.0, 10.0)  # where the lung, or other tissue around, is looked at
CORE_MM = 2.5  # from the border inwards: what is deeper is the core
RESAMPLES = 500
LEAST_CORE = 20  # voxels
BORDER = 2.0  # voxels to each side: where a lesion's sharpness across slices is looked at
STRANDS_MM = (1.5, 3.5)  # from the border: between which strands are followed
ALIKE = 20  # real lesions whose scans are most like those of the synthetic ones in noise
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


def sharpness_across_slices(lesion: Lesion) -> float:
    """Third differences of voxels across slices over those within them, about the border, over the same of
    the scan around; NaN where there is too little of either.

    A scan of thick slices is smoother across them, and so are the lesions in it.
    """
    away = distance_transform_edt(~lesion.mask, sampling=lesion.spacing_mm)
    border = np.maximum(distance_transform_edt(~lesion.mask), distance_transform_edt(lesion.mask)) <= BORDER
    image = lesion.image.astype(np.float64)
    found = []
    for region in (border, away > SURROUNDINGS_MM[0]):
        turned = [(image.swapaxes(0, axis), region.swapaxes(0, axis)) for axis in range(3)]
        sizes = [third_difference(*one, LEAST_CORE) for one in turned]
        found.append(2 * sizes[0] / (sizes[1] + sizes[2]) if min(sizes) > 0 else float("nan"))
    return found[0] / found[1]


def strands(lesion: Lesion) -> float:
    """Rank correlation of what lies outside the border at the first of STRANDS_MM and, on the same normal, at
    the second; NaN where there is too little. Vessels, spicules and tails go on."""
    if min(lesion.mask.shape) < 2:
        return float("nan")
    depth = gaussian_filter(
        distance_transform_edt(~lesion.mask, sampling=lesion.spacing_mm)
        - distance_transform_edt(lesion.mask, sampling=lesion.spacing_mm),
        [1 / mm for mm in lesion.spacing_mm],
    )
    normal = np.stack(np.gradient(depth, *lesion.spacing_mm))
    normal /= np.linalg.norm(normal, axis=0).clip(min=1e-6)
    half = max(lesion.spacing_mm) / 2
    near = np.argwhere((np.abs(depth - STRANDS_MM[0]) <= half) & ~lesion.mask).T
    step = (STRANDS_MM[1] - STRANDS_MM[0]) / np.array(lesion.spacing_mm)[:, None]
    far = near + step * normal[(slice(None), *near)]
    within = ((far >= 0) & (far <= np.array(lesion.mask.shape)[:, None] - 1)).all(axis=0)
    if within.sum() < LEAST_CORE:
        return float("nan")
    image = lesion.image.astype(np.float64)
    pair = (map_coordinates(image, places[:, within], order=1) for places in (near, far))
    return float(spearmanr(*pair).statistic)


def darkest_dot(lesion: Lesion, scan: float) -> float:
    """How far, at the most, a voxel of the lesion is darker than all six beside it, over the grain of the
    scan (see grain); NaN without any. Matching a histogram leaves lone dark voxels, a scanner does not."""
    image = lesion.image.astype(np.float64)
    deeper = minimum_filter(image, footprint=BESIDE) - image
    return float(deeper[lesion.mask].max() / scan) if scan > 0 else float("nan")


def profiles(lesions: Sequence[Lesion]) -> np.ndarray:
    """(lesions, len(LAYERS)); see layer_profile."""
    return np.array([layer_profile(lesion) for lesion in lesions]).reshape(-1, len(LAYERS))


def grains(lesions: Sequence[Lesion]) -> np.ndarray:
    """(lesions, 2): grain of the core and of the scan around, see grain."""
    return np.array([grain(lesion) for lesion in lesions]).reshape(-1, 2)


def in_like_scans(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """Of real grains those, ALIKE at most, whose scans are nearest in noise to the median of the synthetic
    ones' scans. Both (lesions, 2); lesions without a core do not count. (The core of a real nodule is
    grainier than a smooth scan and not grainier than a noisy one: Spearman -0.64 in 53 nodules of
    LIDC-IDRI.)"""
    real, synthetic = (part[~np.isnan(part).any(axis=1)] for part in (real, synthetic))
    if not len(synthetic):
        return real[:0]
    distance = np.abs(np.log(real[:, 1].clip(min=1e-6) / max(float(np.median(synthetic[:, 1])), 1e-6)))
    return real[np.argsort(distance, kind="stable")[:ALIKE]]


def compare_profiles(
    real: Sequence[Lesion], synthetic: Sequence[Lesion], generator: np.random.Generator
) -> dict:
    """How well each layer, the grain and the unevenness alone tell synthetic lesions from real ones.

    `layers`: for each, the median share of the contrast of both, and the AUC (of the better direction, so 0.5
    at least) with 95 % over lesions drawn anew. `grain`: the same for the grain of the core over the scan's;
    `grain_in_like_scans`, against the real lesions of in_like_scans, `unevenness`, `sharpness`, `strands`,
    `dots`: likewise.
    Raises TooLittleData without surroundings or contrast to measure.
    """
    shares = profiles(real), profiles(synthetic)
    if any(np.isnan(part).all() for part in shares):
        raise TooLittleData("no lesion has surroundings and contrast, so there is no profile")
    rows = [
        {"layer": layer} | _told_apart(shares[0][:, column], shares[1][:, column], generator)
        for column, layer in enumerate(LAYERS)
    ]
    of_real, of_synthetic = grains(real), grains(synthetic)
    ratios = of_synthetic[:, 0] / of_synthetic[:, 1]
    found = {"layers": rows, "grain": _told_apart(of_real[:, 0] / of_real[:, 1], ratios, generator)}
    measures = {"unevenness": unevenness, "sharpness": sharpness_across_slices, "strands": strands}
    for name, measure in measures.items():
        values = (np.array([measure(lesion) for lesion in lesions]) for lesions in (real, synthetic))
        found[name] = _told_apart(*values, generator)
    dots = (
        np.array([darkest_dot(one, scan) for one, scan in zip(lesions, scans, strict=True)])
        for lesions, scans in ((real, of_real[:, 1]), (synthetic, of_synthetic[:, 1]))
    )
    found["dots"] = _told_apart(*dots, generator)
    alike = in_like_scans(of_real, of_synthetic)
    found["grain_in_like_scans"] = _told_apart(alike[:, 0] / alike[:, 1], ratios, generator)
    return found


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
