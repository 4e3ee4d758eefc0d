"""The edit mask: the voxels that are painted, which may be more than the label.

A scanner blurs: a lesion brightens the voxels around it, pulls on vessels and touches the pleura. A network
that paints a rim around the label as well learns how real lesions fade into their surroundings.
"""

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from LeFusion.dataset.boxes import Box, copy_overlap, extent

# Standard deviation of a Gaussian that real nodules' edges fit (90 LIDC regions at 1 mm)
EDGE_BLUR_MM = 0.8
SOFT_REACH = 2.0  # times quarter_mm that soften_edge changes outwards: beyond, less than 1/16 is left
OUTSIDE_ORGAN = 0.5  # times quarter_mm, outside the organ


def edit_masks(lesions: Tensor, margin_mm: float, spacing_mm: Sequence[float]) -> Tensor:
    """The lesions and a rim of `margin_mm` around them; a voxel of the rim belongs to the nearest class.

    lesions: (K, D, H, W) bool, which do not overlap. spacing_mm: of depth, height and width. Returns
    (K, D, H, W) bool, equal to the lesions with a margin of 0 or where no voxel centre is near enough.
    """
    union = lesions.any(dim=0).numpy()
    if margin_mm <= 0 or not union.any():
        return lesions
    place = _grown(union, margin_mm, spacing_mm)
    distance, nearest = scipy.ndimage.distance_transform_edt(
        ~union[place.slices], sampling=spacing_mm, return_indices=True
    )
    rim = torch.from_numpy((distance > 0) & (distance <= margin_mm + 1e-6))
    classes = lesions[(slice(None), *place.slices)].numpy()
    edit = lesions.clone()
    edit[(slice(None), *place.slices)] |= rim & torch.from_numpy(classes[(slice(None), *nearest)])
    return edit


def edit_part(
    mask: np.ndarray, place: Box, volume_shape: Sequence[int], margin_mm: float, spacing_mm: Sequence[float]
) -> tuple[Box, np.ndarray]:
    """`edit_masks` of a mask (*place.size) bool that lies at `place` in a volume: the box that holds the edit
    mask inside the volume, and the edit mask in it."""
    if margin_mm <= 0:
        return place, mask
    box = place.grown(_voxels(margin_mm, spacing_mm)).within(volume_shape)
    lesions = torch.zeros(1, *box.size, dtype=torch.bool)
    copy_overlap(torch.from_numpy(mask)[None], place, lesions, box)
    return box, edit_masks(lesions, margin_mm, spacing_mm)[0].numpy()


def carry_change(before: Tensor, after: Tensor, lesions: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """What a change of intensities inside the lesions does to the image around them, blurred as by a scanner.

    before, after: (1, D, H, W) in [-1, 1], different inside the lesions (K, D, H, W) only. Returns `after`
    with the change, blurred by a Gaussian of sd EDGE_BLUR_MM, added outside the lesions. A darker lesion
    darkens nothing below the lower quartile of what is around it.
    """
    if torch.equal(before, after):
        return after
    inside = lesions.any(dim=0).numpy()
    place = _grown(inside, 4 * EDGE_BLUR_MM, spacing_mm)
    part = (slice(None), *place.slices)
    change = (after[part] - before[part])[0].numpy()
    widths = [EDGE_BLUR_MM / mm for mm in spacing_mm]
    blurred = scipy.ndimage.gaussian_filter(change, widths, mode="constant")
    carried = after.clone()
    outside = torch.from_numpy(~inside[place.slices])[None]
    around = before[part]
    if not outside.any():
        return after
    quartile = around[outside].kthvalue((int(outside.sum()) + 3) // 4).values
    moved = (around + torch.from_numpy(blurred)).clamp(-1, 1)
    moved = torch.maximum(moved, torch.minimum(around, quartile))
    carried[part] = torch.where(outside, moved, after[part])
    return carried


def soften_edge(
    image: Tensor,
    lesions: Tensor,
    histogram: Tensor,
    spacing_mm: Sequence[float],
    quarter_mm: float,
    organ: Tensor | None = None,
) -> Tensor:
    """The image around lesions that are to be painted, as it would look with them there.

    image: (1, D, H, W) in [-1, 1]. lesions: (K, D, H, W) bool. histogram: (K * bins,) asked for; a class
    without one changes nothing. A voxel outside changes as the mean of the nearest class does, but less: a
    quarter of that change is left at quarter_mm, a sixteenth at twice as far. So a lesion that has its
    histogram already leaves its surroundings alone. organ: (D, H, W) bool; None: everywhere. Outside it the
    change reaches half as far: what a lesion does to its organ, it does not do to fat or lung, into which it
    is only blurred. Returns (1, D, H, W), new within SOFT_REACH * quarter_mm of the lesions and outside them
    only.
    """
    inside = lesions.any(dim=0)
    place = _grown(inside.numpy(), SOFT_REACH * quarter_mm, spacing_mm)
    part = (slice(None), *place.slices)
    change = torch.zeros(place.size)
    for lesion, shares in zip(lesions[part], histogram.reshape(len(lesions), -1), strict=True):
        if bool(lesion.any()) and float(shares.sum()) > 0:
            middles = (torch.arange(len(shares)) + 0.5) * (2 / len(shares)) - 1
            asked = float(shares.double() @ middles.double() / shares.double().sum())
            change[lesion] = asked - float(image[part][0][lesion].mean())
    distance, nearest = scipy.ndimage.distance_transform_edt(
        ~inside[place.slices].numpy(), sampling=spacing_mm, return_indices=True
    )
    if organ is not None:
        distance[~organ[place.slices].numpy()] /= OUTSIDE_ORGAN
    left = torch.from_numpy(0.25 ** (distance / quarter_mm)).to(image.dtype)
    near = torch.from_numpy((distance > 0) & (distance <= SOFT_REACH * quarter_mm))
    soft = (image[part] + left * change[tuple(torch.from_numpy(nearest))]).clamp(-1, 1)
    after = image.clone()
    after[part] = torch.where(near, soft, image[part])
    return after


def _grown(mask: np.ndarray, margin_mm: float, spacing_mm: Sequence[float]) -> Box:
    """The box of the mask's voxels and whatever is within the margin, inside the volume."""
    return extent(mask).grown(_voxels(margin_mm, spacing_mm)).within(mask.shape)


def _voxels(margin_mm: float, spacing_mm: Sequence[float]) -> list[int]:
    """That hold the margin, along each axis."""
    return [int(np.ceil(margin_mm / mm)) for mm in spacing_mm]
