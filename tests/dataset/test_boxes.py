"""Boxes hold the lesion, lie inside, and are cut and padded."""

import numpy as np
import pytest
import torch

from LeFusion.dataset.boxes import Box, crop, extent, lesion_box, random_box, tight_box_around


def mask_with(shape, start, end):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(s, e) for s, e in zip(start, end, strict=True))] = True
    return mask


def random_lesion(rng, shape):
    """A few lesion voxels within a random sub-box."""
    start = [int(rng.integers(0, n)) for n in shape]
    end = [int(rng.integers(s + 1, n + 1)) for s, n in zip(start, shape, strict=True)]
    mask = mask_with(shape, start, end) & (rng.random(shape) < 0.3)
    mask[tuple(start)] = True
    return mask


def covered(mask, box):
    return int(crop(mask, box, False).sum())


def inside(box, shape):
    return all(s >= 0 and s + w <= n for s, w, n in zip(box.start, box.size, shape, strict=True))


def test_lesion_box_is_centred_and_stays_inside():
    assert lesion_box(mask_with((40, 40, 40), (10, 18, 20), (14, 22, 21)), (8, 8, 9)) == Box(
        (8, 16, 16), (8, 8, 9)
    )
    corner = mask_with((40, 40, 40), (0, 38, 0), (1, 40, 40))
    assert lesion_box(corner, (8, 8, 40)).start == (0, 32, 0)
    small_volume = mask_with((5, 40, 8), (4, 3, 0), (5, 5, 2))
    assert lesion_box(small_volume, (8, 8, 8)).start == (-1, 0, 0)
    with pytest.raises(ValueError, match=r"\(1, 2, 40\).*\(8, 8, 32\)"):
        lesion_box(corner, (8, 8, 32))
    with pytest.raises(ValueError, match="empty"):
        lesion_box(np.zeros((4, 4, 4), bool), (4, 4, 4))


def test_tight_box_rounds_up_and_keeps_within_its_limits():
    mask = mask_with((32, 64, 64), (10, 20, 30), (13, 25, 37))
    assert tight_box_around(extent(mask), mask.shape, 2, (32, 64, 64)) == Box((8, 14, 25), (7, 16, 16))
    assert tight_box_around(extent(mask), mask.shape, 2, (5, 8, 8)).size == (5, 8, 8)
    assert tight_box_around(extent(mask), mask.shape, 100, (32, 64, 64)) == Box((0, 0, 0), (32, 64, 64))
    small = mask_with((7, 30, 30), (0, 0, 29), (7, 1, 30))
    assert tight_box_around(extent(small), small.shape, 20, (32, 64, 64)) == Box((0, -1, -1), (7, 32, 32))
    with pytest.raises(ValueError, match="lesion spans"):
        tight_box_around(extent(mask), mask.shape, 2, (2, 64, 64))
    with pytest.raises(ValueError, match="multiple"):
        tight_box_around(extent(mask), mask.shape, 2, (32, 60, 64))


def test_boxes_over_random_volumes_hold_the_lesion_and_lie_inside():
    rng = np.random.default_rng(0)
    for _ in range(60):
        shape = tuple(int(n) for n in rng.integers(1, 30, 3))
        mask = random_lesion(rng, shape)
        size = (int(rng.integers(30, 34)), 32, 32)
        boxes = [
            lesion_box(mask, size),
            tight_box_around(extent(mask), mask.shape, int(rng.integers(0, 6)), size),
        ]
        boxes.append(random_box(mask, size, torch.Generator().manual_seed(0)))
        for box in boxes:
            assert covered(mask, box) == mask.sum()
        assert all(size % unit == 0 for size, unit in zip(boxes[1].size, (1, 8, 8), strict=True))


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("dtype", [np.float32, bool, np.int16])
def test_crop_is_a_slice_of_the_padded_volume(kind, dtype):
    rng = np.random.default_rng(1)
    for _ in range(25):
        shape = tuple(int(n) for n in rng.integers(1, 14, 3))
        volume = kind((rng.normal(size=(2, *shape)) * 3).astype(dtype))
        size = tuple(int(n) for n in rng.integers(1, 18, 3))
        start = tuple(int(rng.integers(1 - w, n)) for w, n in zip(size, shape, strict=True))
        box = Box(start, size)
        patch = crop(volume, box, 0)
        assert type(patch) is type(volume) and patch.dtype == volume.dtype and patch.shape == (2, *size)
        padded = np.pad(volume, [(0, 0), *[(20, 20)] * 3])
        part = tuple(slice(20 + s, 20 + s + w) for s, w in zip(start, size, strict=True))
        np.testing.assert_array_equal(patch, padded[(slice(None), *part)])
        patch[:] = 1
        np.testing.assert_array_equal(padded[:, 20:-20, 20:-20, 20:-20], volume)  # it is a copy


def test_crop_pads_what_overhangs():
    volume = torch.arange(8.0).reshape(2, 2, 2)
    patch = crop(volume, Box((-1, 0, 1), (2, 2, 2)), -1)
    assert patch.tolist() == [[[-1, -1], [-1, -1]], [[1, -1], [3, -1]]]
    with pytest.raises(ValueError, match="outside"):
        crop(volume, Box((2, 0, 0), (2, 2, 2)), -1)


def test_crop_takes_views_with_other_strides():
    stored = np.random.default_rng(2).normal(size=(6, 5, 4))[::-1]
    view = np.moveaxis(stored, 2, 0)
    np.testing.assert_array_equal(crop(view, Box((1, 2, 0), (2, 3, 4)), 0), view[1:3, 2:5, 0:4])


@pytest.mark.parametrize(
    "lesion, shape, most, size",
    [
        ((3, 5, 7), (32, 64, 64), (32, 64, 64), (8, 16, 16)),
        ((6, 13, 5), (32, 64, 64), (32, 64, 64), (16, 32, 32)),
        ((7, 18, 20), (32, 64, 64), (18, 24, 24), (16, 24, 24)),  # the largest box is no multiple
        ((15, 5, 7), (32, 64, 64), (18, 24, 24), (18, 16, 16)),
        ((3, 20, 7), (6, 30, 20), (32, 64, 64), (6, 32, 24)),  # nor is the volume
    ],
)
def test_boxes_are_rounded_up_as_far_as_the_volume_and_the_limit_go(lesion, shape, most, size):
    lesion = Box((1, 2, 3), lesion)
    tight = tight_box_around(lesion, shape, 2, most)
    rounded = tight_box_around(lesion, shape, 2, most, step=(8, 16))
    assert rounded.size == size
    assert all(a <= b for a, b in zip(tight.size, rounded.size, strict=True))


def test_random_box_holds_the_lesion_at_every_feasible_place():
    mask = mask_with((12, 20, 20), (3, 0, 8), (5, 3, 10))
    generator = torch.Generator().manual_seed(0)
    starts = []
    for _ in range(400):
        box = random_box(torch.as_tensor(mask), (4, 8, 16), generator)
        assert box.size == (4, 8, 16) and inside(box, mask.shape) and covered(mask, box) == mask.sum()
        starts.append(box.start)
    assert {s[0] for s in starts} == {1, 2, 3}
    assert {s[1] for s in starts} == {0}
    assert {s[2] for s in starts} == {0, 1, 2, 3, 4}
    counts = np.bincount([s[2] for s in starts])
    assert counts.min() > 50, "each place about equally often"


def test_random_box_in_a_lesion_larger_than_the_box():
    rng = np.random.default_rng(3)
    mask = np.zeros((10, 40, 40), bool)
    mask[2, 3, 4] = mask[7, 36, 30] = mask[5, 20, 8] = True  # scattered: most places would miss it
    generator = torch.Generator().manual_seed(int(rng.integers(100)))
    for _ in range(200):
        box = random_box(mask, (16, 8, 8), generator)
        assert box.start[0] == -3 and 3 <= box.start[1] <= 29 and 4 <= box.start[2] <= 23
        assert covered(mask, box) >= 1
