"""Axes and voxel sizes: stored order <-> depth first, one grid <-> another over the same extent."""

from collections.abc import Sequence

import numpy as np
import torch

from LeFusion.dataset.intensity import Array


def to_depth_first(array: Array, depth_axis: int) -> Array:
    """Stored axis order -> (D, H, W); a view. depth_axis 2: (H, W, D) -> (D, H, W)."""
    return _move_axis(array, depth_axis, 0)


def from_depth_first(array: Array, depth_axis: int) -> Array:
    """(D, H, W) -> stored axis order; a view. The inverse of `to_depth_first`."""
    return _move_axis(array, 0, depth_axis)


def spacing_depth_first(affine: np.ndarray, depth_axis: int) -> tuple[float, float, float]:
    """Distance of voxels in mm along (depth, height, width), from a (4, 4) affine of the stored axes."""
    stored = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0).tolist()
    return stored.pop(depth_axis), *stored


def resample(image: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Channels (C, D, H, W) on a grid of another shape over the same extent.

    Axes that get coarser take means, so that nothing is skipped; the others are interpolated linearly.
    """
    coarser = tuple(min(n, m) for n, m in zip(image.shape[1:], shape, strict=True))
    for step, mode in ((coarser, "area"), (tuple(shape), "trilinear")):
        if tuple(image.shape[1:]) != step:
            image = torch.nn.functional.interpolate(image[None], step, mode=mode)[0]
    return image


def resample_masks(masks: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Masks (K, D, H, W) bool on another grid: a voxel is in where at least half of it is, or, in a mask too
    thin for that, where half as much of it is as in the fullest voxel. No mask vanishes."""
    if tuple(masks.shape[1:]) == tuple(shape):
        return masks
    shares = resample(masks.float(), shape)
    most = shares.flatten(1).amax(dim=1).reshape(-1, 1, 1, 1)
    return (shares >= most / 2) & (most > 0)


def _move_axis(array: Array, source: int, target: int) -> Array:
    if isinstance(array, torch.Tensor):
        return array.movedim(source, target)
    return np.moveaxis(array, source, target)
