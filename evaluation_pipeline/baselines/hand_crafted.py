"""Baseline: lesions made by hand: a deformed ellipsoid filled with smooth noise, with a border that fades.

    python baselines/hand_crafted.py --dataset_root_dir ../data/LIDC/Normal \
        --lesions_from ../data/LIDC/Pathological --types 3 \
        --target_img_path datasets/hand_crafted/imagesTr --target_label_path datasets/hand_crafted/labelsTr

The ellipsoid has the volume and the centroid of the scan's own mask. Mean and standard deviation inside are
those of a training lesion, drawn at random. Hearts: an infarct (no no-reflow) that begins at the inside of
the wall, as bright against healthy myocardium as a training lesion. Writes Image_1..types, Mask_1..types and
manifest.csv as LeFusion's inference does. Voxels outside the masks stay as they are.
"""

import numpy as np
from scipy.ndimage import gaussian_filter, label

from evaluation_pipeline.baselines.common import Painted, Scan, fade, parser, run
from evaluation_pipeline.baselines.hearts import healthy_scale, made_up_lesion
from LeFusion.data_types import DataType
from LeFusion.dataset.cases import Layout
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import run_with_flags

GRAIN_MM = 1.0  # standard deviation of the Gaussian that smooths the texture's noise
DEFORMATION = 0.25  # standard deviation of the border's distance, in radii


def paint(
    scan: Scan, lesions: list[Scan], data_type: DataType, generator: np.random.Generator, blend_mm: float
) -> Painted:
    """One made-up lesion in a scan; see the top of this file."""
    layout = data_type.layout
    donor = lesions[generator.integers(len(lesions))]
    mean, sd = _statistics(donor, scan, layout)
    if layout.hearts:
        labels, mask = made_up_lesion(scan, layout, generator)
    else:
        own = scan.lesion(layout)
        if not own.any():
            raise UserError("marks no place for a lesion")
        mask = deformed_ellipsoid(own, scan.spacing_mm, generator)
        labels = np.where(mask, layout.lesion_labels[0], np.where(own, 0, scan.labels)).astype(
            layout.label_dtype
        )
    texture = mean + sd * smooth_noise(mask, scan.spacing_mm, generator)
    share = fade(mask, scan.spacing_mm, blend_mm)
    return Painted(scan.values + share * (texture - scan.values), labels, "", donor.case.name)


def deformed_ellipsoid(
    own: np.ndarray, spacing_mm: tuple[float, float, float], generator: np.random.Generator
) -> np.ndarray:
    """A connected mask (D, H, W) about the centroid of `own`, at most as many voxels as that.

    Random half-axes and turn; each voxel's distance, in radii, is changed by smooth noise, and the nearest
    voxels, as many as `own` has, are taken. Fewer result where the noise cuts pieces off.
    """
    count = np.count_nonzero(own)
    radius = (3 * count * np.prod(spacing_mm) / (4 * np.pi)) ** (1 / 3)
    middle = np.argwhere(own).mean(axis=0)
    reach = np.ceil(2 * radius / np.array(spacing_mm)) + 1
    box = tuple(
        slice(max(0, int(c - r)), min(n, int(c + r) + 1))
        for c, r, n in zip(middle, reach, own.shape, strict=True)
    )
    places = np.moveaxis(np.mgrid[box], 0, -1) - middle
    axes = generator.uniform(0.7, 1.4, 3)
    turn, _ = np.linalg.qr(generator.standard_normal((3, 3)))
    distance = np.linalg.norm((places * spacing_mm) @ turn / (axes / np.cbrt(axes.prod())), axis=-1) / radius
    noise = gaussian_filter(generator.standard_normal(places.shape[:3]), radius / 2 / np.array(spacing_mm))
    near = distance < 2
    noise = (noise - noise[near].mean()) / max(noise[near].std(), 1e-12)
    score = np.where(near, distance + DEFORMATION * noise, np.inf)
    last = min(count, np.count_nonzero(near)) - 1
    pieces, _ = label(near & (score <= np.partition(score.ravel(), last)[last]))
    mask = np.zeros(own.shape, bool)
    mask[box] = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
    return mask


def smooth_noise(
    mask: np.ndarray, spacing_mm: tuple[float, float, float], generator: np.random.Generator
) -> np.ndarray:
    """Gaussian noise (D, H, W), smoothed over GRAIN_MM, of mean 0 and standard deviation 1 in the mask."""
    noise = gaussian_filter(generator.standard_normal(mask.shape), GRAIN_MM / np.array(spacing_mm))
    inside = noise[mask]
    return (noise - inside.mean()) / max(inside.std(), 1e-12)


def _statistics(donor: Scan, scan: Scan, layout: Layout) -> tuple[float, float]:
    """Mean and standard deviation of a training lesion in the scan's units; for hearts relative to healthy
    myocardium."""
    values = donor.values[donor.lesion(layout)]
    if not layout.hearts:
        return float(values.mean()), float(values.std())
    (mean, span), (donor_mean, donor_span) = healthy_scale(scan, layout), healthy_scale(donor, layout)
    return mean + (values.mean() - donor_mean) / donor_span * span, float(values.std()) / donor_span * span


def main(argv: list[str] | None = None) -> None:
    described = parser("Paints deformed ellipsoids of smooth noise into scans, with a border that fades.")
    run_with_flags(described, lambda arguments: run(arguments, paint), argv)


if __name__ == "__main__":
    main()
