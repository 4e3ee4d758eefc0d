"""Radiomics features of a lesion: a small set of our own, on scikit-image and scipy.

First order (inside the mask, in the window's scale): mean, standard deviation, skewness, excess kurtosis,
10th, 50th and 90th percentile, entropy of the histogram of 32 bins over the window (bits).
GLCM (Haralick 1973): grey-level co-occurrence at 1 pixel in four directions of each slice, both voxels in
the mask, 32 levels over the window, symmetric, summed over the slices, normalised; mean of the directions.
Shape: log10 of the volume (mm3), largest diameter (mm), sphericity, elongation, flatness.
Border: mean gradient magnitude within 1 mm of the border; lesion minus surroundings (see border.py).
"""

from collections.abc import Sequence

import numpy as np
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist
from scipy.stats import kurtosis, skew
from skimage.feature import graycomatrix, graycoprops
from skimage.measure import marching_cubes, mesh_surface_area

from evaluation_pipeline.fidelity.border import contrast, gradient_at_border
from evaluation_pipeline.fidelity.lesions import Lesion

LEVELS = 32
ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
FIRST_ORDER = ("mean", "sd", "skewness", "kurtosis", "p10", "median", "p90", "entropy")
GLCM = ("glcm_contrast", "glcm_dissimilarity", "glcm_homogeneity", "glcm_energy", "glcm_correlation")
SHAPE = ("log10_volume", "diameter_mm", "sphericity", "elongation", "flatness")
BORDER = ("border_gradient", "border_contrast")
GROUPS = {"first order": FIRST_ORDER, "GLCM": GLCM, "shape": SHAPE, "border": BORDER}
REALISM = (*FIRST_ORDER, *GLCM, *SHAPE)  # what distances between distributions are taken over
NAMES = (*REALISM, *BORDER)


def feature_table(lesions: Sequence[Lesion], scale: tuple[float, float]) -> np.ndarray:
    """(lesions, len(NAMES)) float64, all finite. scale: (lowest, highest) intensity."""
    return np.array([_features(lesion, scale) for lesion in lesions]).reshape(-1, len(NAMES))


def columns(names: Sequence[str]) -> list[int]:
    """Where these features stand in a feature_table."""
    return [NAMES.index(name) for name in names]


def _features(lesion: Lesion, scale: tuple[float, float]) -> list[float]:
    border = [gradient_at_border(lesion), contrast(lesion)]
    return [
        *first_order(lesion.values, scale),
        *glcm(lesion.image, lesion.mask, scale),
        *shape(lesion.mask, lesion.spacing_mm),
        *np.nan_to_num(border).tolist(),
    ]


def quantise(values: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Intensities -> 0..LEVELS-1, equal steps over the scale, clamped to it."""
    low, high = scale
    return np.clip((values - low) / (high - low) * LEVELS, 0, LEVELS - 1).astype(np.uint8)


def first_order(values: np.ndarray, scale: tuple[float, float]) -> list[float]:
    """FIRST_ORDER of (N,) intensities; a constant lesion has skewness, kurtosis and entropy 0."""
    values = values.astype(np.float64)
    constant = np.ptp(values) < 1e-9 * (scale[1] - scale[0])
    shares = np.bincount(quantise(values, scale)) / len(values)
    entropy = -(shares[shares > 0] * np.log2(shares[shares > 0])).sum()
    third, fourth = (0.0, 0.0) if constant else (skew(values), kurtosis(values))
    p10, median, p90 = np.percentile(values, (10, 50, 90))
    return [float(v) for v in (values.mean(), values.std(), third, fourth, p10, median, p90, entropy + 0.0)]


def glcm(image: np.ndarray, mask: np.ndarray, scale: tuple[float, float]) -> list[float]:
    """GLCM features of (D, H, W); without neighbours: those of a constant lesion, (0, 0, 1, 1, 1)."""
    levels = np.where(mask, quantise(image, scale) + 1, 0).astype(np.uint8)  # 0: not in the lesion
    counts = sum(
        graycomatrix(levels[z], [1], ANGLES, LEVELS + 1, symmetric=True).astype(np.int64)
        for z in np.flatnonzero(mask.any(axis=(1, 2)))
    )[1:, 1:]
    held = counts.sum(axis=(0, 1))[0] > 0  # directions in which a thin lesion has neighbours
    if not held.any():
        return [0.0, 0.0, 1.0, 1.0, 1.0]
    counts = counts[..., held]
    shares = counts / counts.sum(axis=(0, 1))
    return [float(graycoprops(shares, name.removeprefix("glcm_")).mean()) for name in GLCM]


def shape(mask: np.ndarray, spacing_mm: Sequence[float]) -> list[float]:
    """SHAPE of a mask (D, H, W).

    Sphericity: pi^(1/3) (6 V)^(2/3) / A of the mask's surface mesh (marching cubes); 1 for a ball. Elongation
    and flatness: square root of the second and third principal variance over the first, voxels as boxes.
    """
    spacing = np.asarray(spacing_mm, np.float64)
    voxels = np.argwhere(mask)
    points = voxels * spacing
    vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5, spacing=tuple(spacing))
    corners = (vertices - vertices.mean(axis=0))[faces].astype(np.float64)
    mesh_volume = abs(np.linalg.det(corners).sum()) / 6
    sphericity = np.pi ** (1 / 3) * (6 * mesh_volume) ** (2 / 3) / mesh_surface_area(vertices, faces)
    covariance = np.cov(points.T, bias=True) if len(points) > 1 else np.zeros((3, 3))
    variances = np.linalg.eigvalsh(covariance + np.diag(spacing**2 / 12))[::-1]
    elongation, flatness = np.sqrt(variances[1:] / variances[0])
    volume = np.log10(len(voxels) * spacing.prod())
    return [float(v) for v in (volume, _diameter(points), sphericity, elongation, flatness)]


def _diameter(points: np.ndarray) -> float:
    """The largest distance between two voxel centres, (N, 3) in mm."""
    try:
        points = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):  # flat lesions and single voxels have no hull
        points = points[:: max(1, len(points) // 2000)]
    return float(pdist(points).max()) if len(points) > 1 else 0.0
