"""Baseline: pastes real lesions of training cases into other scans, with a border that fades.

    python baselines/copy_paste.py --dataset_root_dir ../data/LIDC/Normal \
        --lesions_from ../data/LIDC/Pathological --types 3 \
        --target_img_path datasets/copy_paste/imagesTr --target_label_path datasets/copy_paste/labelsTr

Each image gets a lesion of a training case, drawn at random, flipped and turned by a multiple of 90 degrees
at random, at the centroid of the scan's own mask; the new mask is the pasted lesion's. Hearts: the lesions of
a training case are moved into the wall by LeFusion.dataset.transfer, with their contrast to healthy
myocardium. Writes Image_1..types, Mask_1..types and manifest.csv as LeFusion's inference does. Voxels outside
the masks stay as they are.
"""

import numpy as np

from evaluation_pipeline.baselines.common import Painted, Scan, centroid, fade, parser, run
from evaluation_pipeline.baselines.hearts import paste_into_heart
from LeFusion.data_types import DataType
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import run_with_flags


def paint(
    scan: Scan, lesions: list[Scan], data_type: DataType, generator: np.random.Generator, blend_mm: float
) -> Painted:
    """One training lesion in a scan; see the top of this file."""
    if data_type.layout.hearts:
        return paste_into_heart(scan, lesions, data_type, generator, blend_mm)
    own = scan.lesion(data_type.layout)
    if not own.any():
        raise UserError("marks no place for a lesion")
    donor = lesions[generator.integers(len(lesions))]
    if not np.allclose(donor.spacing_mm, scan.spacing_mm, rtol=0.02):
        raise UserError(
            f"has voxels of {_listed(scan.spacing_mm)} mm but {donor.case.image_path} of "
            f"{_listed(donor.spacing_mm)} mm; resample the data sets to one spacing"
        )
    values, labels = draw_turn(donor, data_type.layout.lesion_labels, generator)
    labels, values = place(labels, values, centroid(own), scan.values.shape)
    mask, name = labels > 0, donor.case.name
    share = fade(mask, scan.spacing_mm, blend_mm)
    blended = scan.values + share * (values - scan.values)
    return Painted(blended, np.where(mask, labels, np.where(own, 0, scan.labels)), name, name)


def draw_turn(
    donor: Scan, lesion_labels: tuple[int, ...], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A lesion's (values, labels) in its bounding box, labels 0 around it, under random flips of the plane's
    axes and, where pixels are square, a turn by 90 degrees."""
    flips = generator.random(2) < 0.5
    turn = generator.random() < 0.5 and np.isclose(*donor.spacing_mm[1:], rtol=0.02)
    lesion = np.where(np.isin(donor.labels, lesion_labels), donor.labels, 0)
    held = np.argwhere(lesion)
    box = tuple(slice(a, b + 1) for a, b in zip(held.min(axis=0), held.max(axis=0), strict=True))
    turned = []
    for array in (donor.values[box], lesion[box]):
        array = np.flip(array, [axis + 1 for axis in range(2) if flips[axis]])
        turned.append(np.swapaxes(array, 1, 2) if turn else array)
    return tuple(turned)


def place(
    labels: np.ndarray, values: np.ndarray, centre: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """(labels, values) of a small box in an empty volume of `shape`, the lesion's centroid at `centre`; what
    sticks out is cut off."""
    voxels = np.argwhere(labels)
    target = voxels - centroid(labels > 0) + centre
    inside = ((target >= 0) & (target < shape)).all(axis=1)
    if not inside.any():
        raise UserError("the pasted lesion lies outside the volume")
    new_labels, new_values = np.zeros(shape, labels.dtype), np.zeros(shape)
    at, origin = tuple(target[inside].T), tuple(voxels[inside].T)
    new_labels[at], new_values[at] = labels[origin], values[origin]
    return new_labels, new_values


def _listed(spacing_mm: tuple[float, float, float]) -> str:
    return " x ".join(f"{step:.3g}" for step in spacing_mm)


def main(argv: list[str] | None = None) -> None:
    described = parser("Pastes real lesions of training cases into other scans, with a border that fades.")
    run_with_flags(described, lambda arguments: run(arguments, paint), argv)


if __name__ == "__main__":
    main()
