"""Cleaning masks, by hand-made ones."""

import numpy as np
import pytest

from DiffMask.postprocess import clean_mask, largest_part, smooth_as_released, smooth_mask


def block(start, end, shape=(12, 16, 16)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(s, e) for s, e in zip(start, end, strict=True))] = True
    return mask


def soft(mask):
    return np.where(mask, 0.2, -0.3)


def test_holes_are_filled_and_specks_dropped():
    solid = block((2, 2, 2), (8, 9, 10))
    hollow = solid & ~block((4, 4, 4), (6, 6, 6))
    speck = block((10, 13, 13), (12, 15, 15))
    assert np.array_equal(clean_mask(soft(hollow | speck)), solid)


def test_voxels_that_touch_at_a_corner_are_one_part():
    two = block((2, 2, 2), (4, 4, 4)) | block((4, 4, 4), (5, 5, 5))
    assert np.array_equal(largest_part(two), two)
    apart = block((2, 2, 2), (4, 4, 4)) | block((5, 5, 5), (6, 6, 6))
    assert np.array_equal(largest_part(apart), block((2, 2, 2), (4, 4, 4)))


def test_zero_is_outside():
    assert clean_mask(np.zeros((4, 4, 4))) is None
    assert clean_mask(np.full((4, 4, 4), -1.0)) is None


def test_the_organ_clips_and_what_it_splits_off_goes():
    lesion = block((2, 2, 2), (6, 6, 14))
    wall = block((0, 0, 5), (12, 16, 7))
    assert np.array_equal(clean_mask(soft(lesion), organ=~wall), block((2, 2, 7), (6, 6, 14)))
    assert clean_mask(soft(lesion), organ=np.zeros(lesion.shape, bool)) is None


def test_smoothing_keeps_the_volume_and_rounds_corners():
    cube = block((2, 3, 3), (10, 11, 11))
    smooth = clean_mask(soft(cube), smoothing=1.5)
    assert not smooth[2, 3, 3] and smooth[6, 7, 2]  # from the corners to the faces
    assert abs(int(smooth.sum()) - int(cube.sum())) <= 24  # as near as equal values at the cut allow
    assert smooth_mask(np.zeros((3, 3, 3), bool), 1, (1, 1, 1)).sum() == 0


def test_the_width_of_smoothing_is_in_mm():
    cube = block((4, 4, 4), (8, 12, 12))
    along = [smooth_mask(cube, 2.0, spacing)[:, 8, 8].sum() for spacing in ((1, 1, 1), (50, 1, 1))]
    assert along[1] == 4 and along[0] != 4  # slices of 50 mm do not mix


@pytest.mark.parametrize(
    "voxels, side, grown", [(1, (1, 1, 1), True), (4096, (16, 16, 16), False), (12167, (23, 23, 23), False)]
)
def test_the_released_rule_grows_the_smallest(voxels, side, grown):
    mask = block((4, 4, 4), np.add(side, 4), (32, 32, 32))
    assert mask.sum() == voxels
    assert (smooth_as_released(mask).sum() > voxels) == grown


def test_the_released_rule_by_hand():
    """One voxel, sd 0.5, cut at 0.01: the Gaussian's weights are 0.786 in the middle and 0.106 beside it."""
    found = smooth_as_released(block((4, 4, 4), (5, 5, 5), (9, 9, 9)))
    assert found.sum() == 7  # 0.106^2 * 0.786 = 0.0089 at the edges' middles is below
    assert found[4, 4, 5] and not found[4, 5, 5]


@pytest.mark.parametrize("smoothing, text", [("strong", "smoothing='strong'"), (-1.0, "smoothing=-1.0")])
def test_other_smoothing_is_refused(smoothing, text):
    with pytest.raises(ValueError, match=text):
        clean_mask(soft(block((2, 2, 2), (5, 5, 5))), smoothing=smoothing)
