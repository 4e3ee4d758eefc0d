"""Voxel sizes: one grid <-> another over the same extent."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from LeFusion.dataset.boxes import Box, Size, copy_overlap, extent


def grid_shape(shape: Sequence[int], spacing_mm: Sequence[float], wanted_mm: Sequence[float]) -> Size:
    """The shape of a grid of voxels of about this size over the extent of another."""
    return tuple(max(1, round(n * mm / new)) for n, mm, new in zip(shape, spacing_mm, wanted_mm, strict=True))


def resample_part(
    read: Callable[[Box], torch.Tensor], source: Sequence[int], target: Sequence[int], box: Box
) -> torch.Tensor:
    """A box of an image of shape `source` on a grid of shape `target` over the same extent, (C, *box.size).

    Axes that get coarser take means, so that nothing is skipped; the others are interpolated linearly.
    read: a box within the source -> its voxels (C, D, H, W), floating point. Only what `box`, which lies
    within the target, is made of is read.
    """
    axes = [
        _axis_weights(n, m, start, end)
        for n, m, start, end in zip(source, target, box.start, box.end, strict=True)
    ]
    part = read(Box(tuple(first for first, _ in axes), tuple(weights.shape[1] for _, weights in axes)))
    for axis, (_, weights) in enumerate(axes, start=1):
        if source[axis - 1] != target[axis - 1]:
            part = torch.tensordot(part, weights.to(part.dtype), ([axis], [1])).movedim(-1, axis)
    return part


def reach(part: Box, source: Sequence[int], target: Sequence[int]) -> Box:
    """The box of the target grid that holds every voxel to which a part of the source contributes."""
    start, size = [], []
    for first, end, n, m in zip(part.start, part.end, source, target, strict=True):
        low = max(math.floor((first - 1) * m / n) - 1, 0) if n != m else first
        high = min(math.ceil((end + 1) * m / n) + 1, m) if n != m else end
        start.append(low)
        size.append(high - low)
    return Box(tuple(start), tuple(size))


def resample_masks(
    masks: torch.Tensor, place: Box, source: Sequence[int], target: Sequence[int]
) -> tuple[torch.Tensor, Box]:
    """Masks on another grid, and their bounding box there, which the (K, D, H, W) bool returned fill.

    masks: (K, *place.size) bool; outside `place` they are empty. A voxel is in where at least half of it is,
    or, in a mask too thin for that, where half as much of it is as in the fullest voxel. No mask vanishes.
    """
    if tuple(source) == tuple(target):
        return masks, place
    wide = reach(place, source, target)

    def read(box: Box) -> torch.Tensor:
        found = masks.new_zeros((len(masks), *box.size), dtype=torch.float32)
        copy_overlap(masks.float(), place, found, box)
        return found

    shares = resample_part(read, source, target, wide)
    most = shares.flatten(1).amax(dim=1).reshape(-1, 1, 1, 1)
    found = (shares >= most / 2) & (most > 0)
    tight = extent(found.any(dim=0))
    return found[(slice(None), *tight.slices)].contiguous(), tight.moved(wide.start)


def _axis_weights(n: int, m: int, start: int, end: int) -> tuple[int, torch.Tensor]:
    """Voxels start..end of m are means of the voxels of n that they cover, each by the share of it that lies
    inside (m < n), or linear blends of them (m > n): the first of these that is needed, and the weights
    (end - start, needed) float64."""
    index = np.arange(start, end)
    if m == n:
        return start, torch.eye(end - start, dtype=torch.float64)
    if m < n:
        lows = index * n // m
        highs = -((-(index + 1) * n) // m)
        covered = [np.arange(low, high) for low, high in zip(lows, highs, strict=True)]
        shares = [
            np.minimum((i + 1) * n, (voxels + 1) * m) - np.maximum(i * n, voxels * m)  # in 1/m voxels of n
            for i, voxels in zip(index, covered, strict=True)
        ]
        weights = [(low, share / n) for low, share in zip(lows, shares, strict=True)]
    else:
        places = np.maximum((index + 0.5) * n / m - 0.5, 0)
        lows = np.minimum(places.astype(int), n - 1)
        highs = np.minimum(lows + 1, n - 1) + 1
        weights = [
            (low, [1.0] if high == low + 1 else [1 - share, share])
            for low, high, share in zip(lows, highs, places - lows, strict=True)
        ]
    first = int(lows.min())
    matrix = torch.zeros(len(index), int(highs.max()) - first, dtype=torch.float64)
    for row, (low, values) in enumerate(weights):
        matrix[row, low - first : low - first + len(values)] = torch.as_tensor(values, dtype=torch.float64)
    return first, matrix
