"""Real and synthetic lesions on voxels of one size: textures, layers and grain are of voxels.

Without it, lesions at 0.7 x 0.7 x 2.5 mm differ from real ones at 1 mm whatever they look like.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from evaluation_pipeline.fidelity.lesions import Lesion
from LeFusion.dataset.boxes import Box
from LeFusion.dataset.grid import grid_shape, resample_masks, resample_part

SAME = 0.1  # voxels whose sides differ by less, relatively, count as equally large

Spacing = tuple[float, float, float]


def median_spacing(lesions: Sequence[Lesion]) -> Spacing:
    """(depth, height, width) in mm."""
    return tuple(np.median([lesion.spacing_mm for lesion in lesions], axis=0).tolist())


def median_volume_ml(lesions: Sequence[Lesion]) -> float:
    return float(np.median([lesion.mask.sum() * np.prod(lesion.spacing_mm) / 1000 for lesion in lesions]))


def common_spacing(real: Sequence[Lesion], synthetic: Sequence[Lesion]) -> Spacing | None:
    """The larger of both medians along each axis, so that none is made finer than it is; None where they are
    the same."""
    first, second = np.array(median_spacing(real)), np.array(median_spacing(synthetic))
    larger = np.maximum(first, second)
    return None if (np.minimum(first, second) > (1 - SAME) * larger).all() else tuple(larger.tolist())


def on_grid(lesion: Lesion, spacing_mm: Spacing) -> Lesion:
    """The lesion on voxels of about this size: over the same extent, in as many voxels as fit.

    Where they get larger, intensities are means over them, as a scanner's are; else linear between them. A
    voxel is in a label where half of it is; no label vanishes. origin: that of the voxels before.
    """
    source = lesion.mask.shape
    target = grid_shape(source, lesion.spacing_mm, spacing_mm)
    if target == source:
        return lesion
    image = torch.from_numpy(lesion.image)[None]
    made = resample_part(
        lambda box: image[(slice(None), *box.slices)], source, target, Box((0, 0, 0), target)
    )
    values = [int(value) for value in np.unique(lesion.labels) if value]
    labels, mask = np.zeros(target, lesion.labels.dtype), np.zeros(target, bool)
    carried = partial(resample_masks, place=Box((0, 0, 0), source), source=source, target=target)
    for value in values:
        found, place = carried(torch.from_numpy(lesion.labels == value)[None])
        labels[place.slices][found[0].numpy()] = value
    found, place = carried(torch.from_numpy(lesion.mask)[None])
    mask[place.slices] = found[0].numpy()
    spacing = tuple(mm * n / m for mm, n, m in zip(lesion.spacing_mm, source, target, strict=True))
    return replace(lesion, image=made[0].numpy(), mask=mask, labels=labels, spacing_mm=spacing)
