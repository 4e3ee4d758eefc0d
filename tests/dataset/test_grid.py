"""Resampling between grids."""

import numpy as np
import pytest
import torch

from LeFusion.dataset.boxes import Box, extent
from LeFusion.dataset.grid import (
    resample_masks,
    resample_part,
)


def resample(image, shape):
    """A whole image (C, D, H, W) on another grid."""
    whole = Box((0, 0, 0), tuple(shape))
    return resample_part(
        lambda box: image[(slice(None), *box.slices)], tuple(image.shape[1:]), tuple(shape), whole
    )


def masks_on(masks, shape):
    """Whole masks (K, D, H, W) on another grid."""
    place = extent(masks.any(dim=0))
    inside = masks[(slice(None), *place.slices)]
    found, place = resample_masks(inside, place, tuple(masks.shape[1:]), tuple(shape))
    whole = torch.zeros((len(masks), *shape), dtype=torch.bool)
    whole[(slice(None), *place.slices)] = found
    return whole


def test_resampling_covers_the_same_extent():
    ramp = ((torch.arange(8.0) + 0.5) / 8).reshape(1, 1, 1, 8).expand(1, 4, 6, 8).contiguous()
    finer = resample(ramp, (4, 12, 16))
    assert finer.shape == (1, 4, 12, 16) and finer.dtype == torch.float32 and type(finer) is torch.Tensor
    places = (torch.arange(16.0) + 0.5) / 16
    assert torch.allclose(finer[0, 2, 5, 1:-1], places[1:-1], atol=1e-5)
    coarser = resample(ramp, (4, 6, 4))
    assert torch.allclose(coarser[0, 2, 3, 1:-1], ((torch.arange(4.0) + 0.5) / 4)[1:-1], atol=0.01)


@pytest.mark.parametrize("shape", [(9, 12, 14), (5, 6, 7), (5, 3, 7), (3, 9, 4), (2, 3, 3), (1, 1, 1)])
def test_a_part_is_that_part_of_the_whole(shape):
    """Means of what a voxel covers along axes that get coarser, linear interpolation along others; no more
    is read than needed."""
    image = torch.as_tensor(np.random.default_rng(1).normal(size=(2, 5, 6, 7)))
    coarser = tuple(min(n, m) for n, m in zip((5, 6, 7), shape, strict=True))
    means = image
    for axis, (n, m) in enumerate(zip((5, 6, 7), coarser, strict=True), start=1):
        pieces = means.movedim(axis, -1).repeat_interleave(m, -1)  # n * m pieces: m voxels of n pieces each
        means = pieces.unflatten(-1, (m, n)).mean(-1).movedim(-1, axis)
    whole = torch.nn.functional.interpolate(means[None], shape, mode="trilinear")[0]
    assert torch.allclose(resample(image, shape), whole, atol=1e-12)
    box = Box(tuple(n // 3 for n in shape), tuple(n - n // 3 - n // 4 for n in shape))
    read = []

    def part(asked):
        read.append(asked)
        return image[(slice(None), *asked.slices)]

    found = resample_part(part, (5, 6, 7), shape, box)
    assert torch.allclose(found, whole[(slice(None), *box.slices)], atol=1e-12)
    assert all(0 <= s and e <= n for s, e, n in zip(read[0].start, read[0].end, (5, 6, 7), strict=True))
    if shape == (9, 12, 14):
        assert read[0].size < (5, 6, 7)


@pytest.mark.parametrize("size", [59, 40, 33, 20, 7])
def test_nothing_moves_on_a_coarser_grid(size):
    """Every voxel of a ramp is the place of the coarse voxel's centre, to a tenth of it."""
    ramp = (torch.arange(60, dtype=torch.float64) + 0.5).reshape(1, 1, 1, 60)
    centres = (torch.arange(size) + 0.5) * 60 / size
    assert torch.allclose(resample(ramp, (1, 1, size))[0, 0, 0], centres.double(), atol=0.1 * 60 / size)


@pytest.mark.parametrize("shape", [(9, 12, 14), (5, 6, 7), (5, 3, 7), (3, 9, 4), (2, 3, 3)])
@pytest.mark.parametrize("value", [-1.0, 0.3])
def test_resampling_keeps_a_constant_up_to_the_border(shape, value):
    assert torch.allclose(
        resample(torch.full((2, 5, 6, 7), value), shape), torch.full((2, *shape), value), atol=1e-5
    )


def test_resampling_smooths_what_a_coarser_grid_cannot_show():
    stripes = (torch.arange(24) % 2).float().reshape(1, 1, 1, 24).expand(1, 2, 2, 24).contiguous()
    coarser = resample(stripes, (2, 2, 6))
    assert float((coarser[..., 1:-1] - 0.5).abs().max()) < 0.1


def test_resampling_to_the_same_grid_is_exact_and_there_and_back_nearly():
    rng = np.random.default_rng(0)
    image = torch.as_tensor(rng.normal(size=(1, 5, 6, 7)))
    assert torch.equal(resample(image, (5, 6, 7)), image)
    masks = torch.as_tensor(rng.random((2, 5, 6, 7)) < 0.3)
    assert torch.equal(masks_on(masks, (5, 6, 7)), masks)
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(20.0), indexing="ij")
    smooth = (torch.sin(y / 5) * torch.cos(x / 4)).expand(1, 3, 24, 20).contiguous()
    back = resample(resample(smooth, (3, 48, 50)), (3, 24, 20))
    assert float((back - smooth)[:, :, 2:-2, 2:-2].abs().max()) < 0.05


def test_resampled_masks_are_where_at_least_half_of_a_voxel_is():
    masks = torch.zeros(2, 4, 8, 12, dtype=torch.bool)
    masks[0, 1:3, 2:6, 4:10] = True
    finer = masks_on(masks, (8, 16, 24))
    assert finer.dtype == torch.bool
    expected = masks.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    corners = finer ^ expected  # interpolation takes off, at most, the edges of the block
    assert not bool((finer & ~expected).any()) and int(corners.sum()) < 0.15 * int(expected.sum())
    assert bool(finer[0, 3:5, 5:11, 9:19].all())
    assert not bool(finer[1].any())


@pytest.mark.parametrize("voxel", [(0, 0, 0), (2, 17, 9), (3, 31, 31), (1, 16, 15)])
def test_no_mask_vanishes_on_a_coarser_grid(voxel):
    masks = torch.zeros(2, 4, 32, 32, dtype=torch.bool)
    masks[(0, *voxel)] = True
    coarser = masks_on(masks, (2, 4, 4))
    assert 1 <= int(coarser[0].sum()) <= 4 and not bool(coarser[1].any())
    near = tuple(v * n // m for v, n, m in zip(voxel, (2, 4, 4), (4, 32, 32), strict=True))
    assert bool(coarser[(0, *near)])
