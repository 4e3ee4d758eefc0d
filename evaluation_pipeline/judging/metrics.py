"""How well a predicted lesion mask fits the real one: overlap, surfaces, volume, lesions found.

All masks are 3D arrays of one shape, lesion where not zero; spacing_mm is the voxel's size along the array's
axes. What lies beyond the volume counts as background, so a mask that touches the border has a surface there.

| empty           | Dice | NSD | HD95, mm     | sensitivity | precision | F1  | relative volume error |
| --------------- | ---- | --- | ------------ | ----------- | --------- | --- | --------------------- |
| both            | 1    | 1   | 0            | nan         | nan       | nan | nan                   |
| reference only  | 0    | 0   | the diagonal | nan         | 0         | 0   | nan                   |
| prediction only | 0    | 0   | the diagonal | 0           | nan       | 0   | 1                     |

HD95 has no value by its definition where one mask is empty. The diagonal of the volume, the largest distance
that it allows, keeps it finite: a mean stays a mean over all cases, and to miss a lesion never looks better
than to find it badly. nan means that there is nothing to judge; such cases are left out of that mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from LeFusion.errors import UserError

TOLERANCES_MM = (1.0, 2.0)
# nnDetection's lowest threshold, for boxes (arXiv:2106.00817). With "any voxel" a mask over half a region
# finds everything: an untrained network had sensitivity 1.0 and F1 0.9 on the 20 LIDC test regions.
LESION_MIN_IOU = 0.1
BITS = (
    (1 << np.arange(7, -1, -1)).astype(np.uint8).reshape(2, 2, 2)
)  # of the 8 voxels around a corner, in a neighbour code
ANY_NEIGHBOUR = np.ones((3, 3, 3), bool)  # 26-connectivity: voxels that share a corner are one lesion


@dataclass(frozen=True)
class SurfaceDistances:
    """Distance of every surface element of one mask to the other mask's surface, nearest first.

    distances_mm, areas_mm2: of (prediction, reference); empty arrays for an empty mask.
    diagonal_mm: of the whole volume.
    """

    distances_mm: tuple[np.ndarray, np.ndarray]
    areas_mm2: tuple[np.ndarray, np.ndarray]
    diagonal_mm: float

    def hd95(self) -> float:
        """Robust Hausdorff distance in mm: the larger of both directions' 95th percentile by area."""
        if any(len(areas) == 0 for areas in self.areas_mm2):
            return self.diagonal_mm if any(len(areas) for areas in self.areas_mm2) else 0.0
        percentiles = []
        for distances, areas in zip(self.distances_mm, self.areas_mm2, strict=True):
            first = np.searchsorted(np.cumsum(areas) / np.sum(areas), 0.95)
            percentiles.append(distances[min(first, len(distances) - 1)])
        return float(max(percentiles))

    def nsd(self, tolerance_mm: float) -> float:
        """Share of both surfaces that lies within the tolerance of the other one (surface Dice)."""
        if tolerance_mm < 0:
            raise UserError(f"a tolerance of {tolerance_mm} mm is negative; give 0 or more")
        if any(len(areas) == 0 for areas in self.areas_mm2):
            return 0.0 if any(len(areas) for areas in self.areas_mm2) else 1.0
        pairs = zip(self.distances_mm, self.areas_mm2, strict=True)
        near = sum(areas[distances <= tolerance_mm].sum() for distances, areas in pairs)
        return float(near / sum(areas.sum() for areas in self.areas_mm2))


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two masks of one shape; 1 when both are empty."""
    prediction, reference = _masks(prediction, reference)
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2 * np.count_nonzero(prediction & reference) / total if total else 1.0


def hd95(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """95 % Hausdorff distance in mm, see SurfaceDistances."""
    return surface_distances(prediction, reference, spacing_mm).hd95()


def nsd(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float
) -> float:
    """Normalised surface Dice at a tolerance in mm, see SurfaceDistances."""
    return surface_distances(prediction, reference, spacing_mm).nsd(tolerance_mm)


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """Distances between the surfaces of two masks, each element weighted by its area.

    A surface runs through the corners of voxels; the eight voxels around a corner say how much area it holds
    (marching_cubes.csv). Definition of Nikolov et al., Clinically applicable segmentation of head and neck
    anatomy, 2021 (arXiv:1809.04430), as the package surface-distance computes it. In float64
    throughout: MONAI's own surface Dice rounds distances to float32, which moves elements that lie exactly at
    a tolerance to its other side.
    """
    prediction, reference = _masks(prediction, reference)
    spacing = _checked_spacing(spacing_mm)
    diagonal_mm = float(np.linalg.norm(np.multiply(prediction.shape, spacing)))
    box = ndimage.find_objects((prediction | reference).astype(np.uint8))
    if not box:
        nothing = (np.zeros(0), np.zeros(0))
        return SurfaceDistances(nothing, nothing, diagonal_mm)
    codes = [_neighbour_codes(mask[box[0]]) for mask in (prediction, reference)]
    surfaces = [(code != 0) & (code != 255) for code in codes]
    distances, areas = [], []
    for own, other in ((0, 1), (1, 0)):
        if surfaces[other].any():
            to_other = ndimage.distance_transform_edt(~surfaces[other], sampling=spacing)[surfaces[own]]
        else:
            to_other = np.full(np.count_nonzero(surfaces[own]), np.inf)
        area = _areas_by_code(spacing)[codes[own][surfaces[own]]]
        order = np.lexsort((area, to_other))
        distances.append(to_other[order])
        areas.append(area[order])
    return SurfaceDistances(tuple(distances), tuple(areas), diagonal_mm)


def lesion_detection(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Lesion-wise sensitivity, precision and F1.

    A lesion is a connected component (26 neighbours). A real one is found when a predicted one overlaps it
    with an intersection over union of at least LESION_MIN_IOU, and that predicted one is right. So
    a prediction that bridges two lesions may find both, and two predictions in one lesion may both be right.
    F1 is the harmonic mean of the two shares.
    """
    prediction, reference = _masks(prediction, reference)
    real, num_real = ndimage.label(reference, ANY_NEIGHBOUR)
    predicted, num_predicted = ndimage.label(prediction, ANY_NEIGHBOUR)
    both = prediction & reference
    pairs, overlap = np.unique(np.stack([real[both], predicted[both]]), axis=1, return_counts=True)
    sizes = [np.bincount(components.ravel()) for components in (real, predicted)]
    union = sizes[0][pairs[0]] + sizes[1][pairs[1]] - overlap
    found, right = (len(np.unique(side)) for side in pairs[:, overlap >= LESION_MIN_IOU * union])
    sensitivity = found / num_real if num_real else math.nan
    precision = right / num_predicted if num_predicted else math.nan
    if math.isnan(sensitivity) and math.isnan(precision):
        f1 = math.nan
    elif math.isnan(sensitivity + precision) or sensitivity + precision == 0:
        f1 = 0.0
    else:
        f1 = 2 * sensitivity * precision / (sensitivity + precision)
    return {"Lesion Sensitivity": sensitivity, "Lesion Precision": precision, "Lesion F1": f1}


def volume_ml(mask: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Volume in ml (1 ml = 1000 mm^3)."""
    return np.count_nonzero(mask) * math.prod(_checked_spacing(spacing_mm)) / 1000


def case_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Sequence[float],
    label_values: Sequence[int],
    tolerances_mm: Sequence[float] = TOLERANCES_MM,
) -> dict[int, dict[str, float]]:
    """All metrics of one case, for each of the label values.

    prediction, reference: label maps of one 3D shape. The names of the metrics are the columns of the tables;
    volume errors are absolute values, their sign is that of Volume ml - Reference Volume ml.
    """
    results = {}
    for label in label_values:
        predicted, real = _masks(np.equal(prediction, label), np.equal(reference, label))
        surfaces = surface_distances(predicted, real, spacing_mm)
        volume, real_volume = volume_ml(predicted, spacing_mm), volume_ml(real, spacing_mm)
        error = abs(volume - real_volume)
        results[label] = {
            "Dice": dice(predicted, real),
            "HD95 mm": surfaces.hd95(),
            **{nsd_column(tolerance): surfaces.nsd(tolerance) for tolerance in tolerances_mm},
            **lesion_detection(predicted, real),
            "Volume Error ml": error,
            "Relative Volume Error": error / real_volume if real_volume else math.nan,
            "Volume ml": volume,
            "Reference Volume ml": real_volume,
        }
    return results


def wall_metrics(
    prediction: np.ndarray, reference: np.ndarray, label_values: Sequence[int], wall_values: Sequence[int]
) -> dict[int, dict[str, float]]:
    """Lesion volumes as percentages of the real myocardium, for each of the label values.

    wall_values: the labels that make up the wall of the left ventricle (myocardium, infarct, no-reflow).
    Both volumes are divided by the wall of the reference, so that the error is the lesion's alone. nan
    without a wall.
    """
    wall = np.count_nonzero(np.isin(reference, wall_values))
    results = {}
    for label in label_values:
        shares = [
            100 * np.count_nonzero(np.equal(labels, label)) / wall if wall else math.nan
            for labels in (prediction, reference)
        ]
        results[label] = {
            "Volume Error % of Myocardium": abs(shares[0] - shares[1]),
            "Volume % of Myocardium": shares[0],
            "Reference Volume % of Myocardium": shares[1],
        }
    return results


def nsd_column(tolerance_mm: float) -> str:
    """The column of a tolerance, such as `NSD 1 mm` or `NSD 1.5 mm`."""
    return f"NSD {tolerance_mm:g} mm"


def _masks(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    prediction, reference = np.asarray(prediction) != 0, np.asarray(reference) != 0
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise UserError(
            f"masks of shapes {prediction.shape} (prediction) and {reference.shape} (reference) cannot be "
            "compared; give two 3D masks of one shape"
        )
    return prediction, reference


def _checked_spacing(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    spacing = tuple(float(size) for size in spacing_mm)
    if len(spacing) != 3 or not all(0 < size < math.inf for size in spacing):
        raise UserError(f"spacing {spacing} must be three positive numbers in mm")
    return spacing


def _neighbour_codes(mask: np.ndarray) -> np.ndarray:
    """(D, H, W) bool -> (D + 1, H + 1, W + 1) uint8: a bit for each of the 8 voxels around a corner."""
    padded = np.pad(mask, 1).astype(np.uint8)
    depth, height, width = (size + 1 for size in mask.shape)
    codes = np.zeros((depth, height, width), np.uint8)
    for (z, y, x), bit in np.ndenumerate(BITS):
        codes += bit * padded[z : z + depth, y : y + height, x : x + width]
    return codes


@cache
def _normals() -> np.ndarray:
    """For each of the 256 codes the normals of up to four triangles (256, 4, 3), as long as their areas."""
    table = Path(__file__).with_name("marching_cubes.csv")
    return np.loadtxt(table, delimiter=",").reshape(256, 4, 3) / 8


@lru_cache(maxsize=64)
def _areas_by_code(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """(256,) float64 area in mm^2 for each neighbour code.

    The order of the products and sums is that of surface-distance, so that
    the 95th percentile falls on the same element where equal lesions put a distance exactly there.
    """
    z, y, x = spacing_mm
    scaled = _normals() * (y, z, z) * (x, x, y)
    return np.array([sum(np.linalg.norm(normal) for normal in code) for code in scaled])
