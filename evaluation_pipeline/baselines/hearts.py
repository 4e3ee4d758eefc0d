"""Lesions in the wall of a heart (short-axis cardiac MR), for the baselines."""

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from evaluation_pipeline.baselines.common import Painted, Scan, fade
from LeFusion.data_types import DataType
from LeFusion.dataset.cases import Layout
from LeFusion.errors import UserError
from LeFusion.hearts.transfer import (
    Anatomy,
    WallCoordinates,
    septal_angle,
    transfer_lesions,
    wall_coordinates,
)

DONORS_TRIED = 10  # for one heart, where the lesions of the first drawn leave nothing on it


def paste_into_heart(
    scan: Scan, lesions: list[Scan], data_type: DataType, generator: np.random.Generator, blend_mm: float
) -> Painted:
    """The lesions of another heart, moved into the wall of this one, with their contrast.

    Each voxel takes the intensity of the donor's voxel of the same label that is nearest in the wall's
    coordinates, as its difference to the donor's healthy myocardium in shares of the scan's range.
    """
    layout = data_type.layout
    anatomy = Anatomy(layout.cavity_label, layout.myocardium_label)
    others = [donor for donor in lesions if donor.case.name != scan.case.name]
    reason = ValueError("no other heart in --lesions_from has a lesion")
    for index in generator.permutation(len(others))[:DONORS_TRIED]:
        donor = others[index]
        try:
            turn = _angle(scan, anatomy, layout) - _angle(donor, anatomy, layout)
            labels = transfer_lesions(donor.labels, scan.labels, anatomy, layout.lesion_labels, turn)
        except ValueError as error:
            reason = error
            continue
        values = _carried_over(scan, labels, donor, anatomy, layout, turn)
        share = fade(np.isin(labels, layout.lesion_labels), scan.spacing_mm, blend_mm)
        name = donor.case.name
        return Painted(scan.values + share * (values - scan.values), labels, name, name)
    raise reason


def made_up_lesion(
    scan: Scan, layout: Layout, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Labels (D, H, W) with an infarct of simple shape, and what it is: a sector that begins at the inside of
    the wall, of random width, depth and height, with a border that smooth noise deforms."""
    anatomy = Anatomy(layout.cavity_label, layout.myocardium_label)
    wall = wall_coordinates(scan.labels, anatomy, layout.lesion_labels)
    known = np.isfinite(wall.angle)
    centre, half_width = generator.uniform(-np.pi, np.pi), generator.uniform(0.3, 1.2)
    depth, middle, half_height = (
        generator.uniform(0.4, 1),
        generator.uniform(0.2, 0.8),
        generator.uniform(0.15, 0.4),
    )
    noise = np.stack([gaussian_filter(generator.standard_normal(part.shape), 3) for part in scan.labels])
    noise /= noise.std()
    angle = np.abs(np.angle(np.exp(1j * (np.nan_to_num(wall.angle) - centre)))) / half_width
    outside = np.maximum.reduce(
        [angle, np.nan_to_num(wall.depth) / depth, np.abs(np.nan_to_num(wall.height) - middle) / half_height]
    )
    mask = known & (outside + 0.15 * noise < 1)
    if not mask.any():  # between the slices of a heart with few of them: the voxel nearest to the middle
        mask = known & (outside == outside[known].min())
    healthy = np.where(np.isin(scan.labels, layout.lesion_labels), layout.myocardium_label, scan.labels)
    return np.where(mask, layout.lesion_labels[0], healthy).astype(layout.label_dtype), mask


def healthy_scale(scan: Scan, layout: Layout) -> tuple[float, float]:
    """(mean of the healthy myocardium, width of the scan's range), in the scan's units.

    Raises ValueError when the heart has no healthy myocardium.
    """
    healthy = scan.values[scan.labels == layout.myocardium_label]
    if not healthy.size:
        raise UserError(f"{scan.case.mask_path} has no myocardium (label {layout.myocardium_label})")
    return float(healthy.mean()), float(np.ptp(scan.values))


def _angle(scan: Scan, anatomy: Anatomy, layout: Layout) -> float:
    return septal_angle(scan.values, scan.labels, anatomy, layout.lesion_labels)


def _carried_over(
    scan: Scan, labels: np.ndarray, donor: Scan, anatomy: Anatomy, layout: Layout, turn: float
) -> np.ndarray:
    """The scan's values with those of the donor's lesions under `labels`."""
    target = wall_coordinates(labels, anatomy, layout.lesion_labels)
    source = wall_coordinates(donor.labels, anatomy, layout.lesion_labels)
    (mean, span), (donor_mean, donor_span) = healthy_scale(scan, layout), healthy_scale(donor, layout)
    values = scan.values.copy()
    for label in layout.lesion_labels:
        at = labels == label
        given = (donor.labels == label) & np.isfinite(source.angle)
        if not at.any():
            continue
        places = np.nan_to_num(_points(target, at, turn))
        nearest = cKDTree(_points(source, given, 0.0)).query(places)[1]
        values[at] = mean + (donor.values[given][nearest] - donor_mean) / donor_span * span
    return values


def _points(wall: WallCoordinates, where: np.ndarray, turn: float) -> np.ndarray:
    """(N, 4) places in the wall. Angles weigh as on a circle of radius 2 thicknesses of the wall, heights as
    one heart of 8 thicknesses: about a heart's shape."""
    angle = wall.angle[where] - turn
    return np.stack([2 * np.cos(angle), 2 * np.sin(angle), wall.depth[where], 8 * wall.height[where]], axis=1)
