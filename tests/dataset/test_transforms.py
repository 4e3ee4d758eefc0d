"""Every change of units, axes and boxes is undone exactly by its inverse."""

import numpy as np
import pytest
import torch

from LeFusion.dataset.augmentation import draw_contrast, draw_flip_axes, flip, quantile, remap_contrast
from LeFusion.dataset.boxes import Box, crop, extent, lesion_box, paste, random_box, tight_box
from LeFusion.dataset.grid import (
    from_depth_first,
    resample_masks,
    resample_part,
    spacing_depth_first,
    to_depth_first,
)
from LeFusion.dataset.intensity import IntensityMap
from LeFusion.textures.histograms import (
    blend_histograms,
    lesion_histogram,
    match_histogram,
    match_intensities,
    shift_histogram,
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


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_intensity_map_by_hand_and_back(kind):
    window = IntensityMap.of(kind(np.zeros(3)), [-1000, 400])
    mapped = window.to_network(kind(np.array([-2000, -1000, -300, 400, 3071], np.int16)))
    assert mapped.tolist() == [-1, -1, 0, 1, 1] and str(mapped.dtype).endswith("float32")
    values = np.arange(-1000, 401).astype(np.int16)
    back = np.asarray(window.to_source(window.to_network(kind(values))))
    np.testing.assert_array_equal(np.rint(back), values)
    np.testing.assert_allclose(back, values, atol=1e-4)


def test_minmax_takes_the_volumes_own_range():
    assert IntensityMap.of(np.array([3.0, -2, 11]), "minmax") == IntensityMap(-2, 11)
    assert IntensityMap.of(torch.tensor([3.0, -2, 11]), "minmax") == IntensityMap(-2, 11)
    for values, window in [
        (np.full(4, 7.0), "minmax"),
        (np.arange(4.0), "mean"),
        (np.arange(4.0), (1, 2, 3)),
        (np.arange(4.0), (400, -1000)),
        (np.arange(4.0), (0, float("nan"))),
    ]:
        with pytest.raises(ValueError):
            IntensityMap.of(values, window)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_percentiles_leave_the_extremes_out(kind):
    values = kind(np.concatenate([np.arange(101.0), [-5000.0] * 10, [9000.0] * 10]))
    clean = kind(np.arange(101.0))
    assert IntensityMap.of(clean, {"percentiles": [5, 90]}) == IntensityMap(5, 90)
    assert IntensityMap.of(clean, {"percentiles": (0, 100)}) == IntensityMap.of(clean, "minmax")
    window = IntensityMap.of(values, {"percentiles": [10, 90]})
    assert 0 <= window.low < 5 and 95 < window.high <= 100
    mapped = window.to_network(values)
    assert (float(mapped.min()), float(mapped.max())) == (-1, 1)


@pytest.mark.parametrize(
    "percentiles", [[99, 1], [5, 5], [50], [0, 50, 100], [-1, 99], [1, 101], [float("nan"), 99]]
)
def test_other_percentiles_are_refused(percentiles):
    with pytest.raises(ValueError, match="window percentiles"):
        IntensityMap.of(np.arange(101.0), {"percentiles": percentiles})


def test_percentiles_without_range_between_them_are_refused_with_the_value():
    mostly_air = np.array([7.0] * 99 + [50.0])
    with pytest.raises(ValueError, match=r"percentiles \[1\.0, 90\.0\] are both 7"):
        IntensityMap.of(mostly_air, {"percentiles": [1, 90]})
    with pytest.raises(ValueError, match="minmax: every voxel is 7"):
        IntensityMap.of(mostly_air[:99], "minmax")


@pytest.mark.parametrize(
    "window",
    [
        {"percentiles": 99},
        {"percentiles": None},
        {"percentile": [1, 99]},
        {},
        5,
        None,
        ["low", 4],
        {"percentiles": ["a", 99]},
    ],
)
def test_windows_of_another_kind_are_refused_as_the_users_mistake(window):
    """A ValueError, which a command shows in one line; any other kind of error is a traceback."""
    with pytest.raises(ValueError):
        IntensityMap.of(np.arange(101.0), window)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_depth_axis_there_and_back(kind):
    stored = kind(np.arange(2 * 3 * 5).reshape(2, 3, 5))
    assert to_depth_first(stored, 0).shape == (2, 3, 5)
    assert to_depth_first(stored, 2).shape == (5, 2, 3)
    assert to_depth_first(stored, 2)[4, 1, 2] == stored[1, 2, 4]
    for axis in (0, 1, 2):
        np.testing.assert_array_equal(from_depth_first(to_depth_first(stored, axis), axis), stored)


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
    assert tight_box(mask, mask.shape, 2, (32, 64, 64)) == Box((8, 14, 25), (7, 16, 16))
    assert tight_box(mask, mask.shape, 2, (5, 8, 8)).size == (5, 8, 8)
    assert tight_box(mask, mask.shape, 100, (32, 64, 64)) == Box((0, 0, 0), (32, 64, 64))
    small = mask_with((7, 30, 30), (0, 0, 29), (7, 1, 30))
    assert tight_box(small, small.shape, 20, (32, 64, 64)) == Box((0, -1, -1), (7, 32, 32))
    with pytest.raises(ValueError, match="lesion spans"):
        tight_box(mask, mask.shape, 2, (2, 64, 64))
    with pytest.raises(ValueError, match="multiple"):
        tight_box(mask, mask.shape, 2, (32, 60, 64))


def test_boxes_over_random_volumes_hold_the_lesion_and_lie_inside():
    rng = np.random.default_rng(0)
    for _ in range(60):
        shape = tuple(int(n) for n in rng.integers(1, 30, 3))
        mask = random_lesion(rng, shape)
        size = (int(rng.integers(30, 34)), 32, 32)
        boxes = [lesion_box(mask, size), tight_box(mask, shape, int(rng.integers(0, 6)), size)]
        boxes.append(random_box(mask, size, torch.Generator().manual_seed(0)))
        for box in boxes:
            assert covered(mask, box) == mask.sum()
        assert all(size % unit == 0 for size, unit in zip(boxes[1].size, (1, 8, 8), strict=True))


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("dtype", [np.float32, bool, np.int16])
def test_crop_then_paste_is_the_identity(kind, dtype):
    rng = np.random.default_rng(1)
    for _ in range(25):
        shape = tuple(int(n) for n in rng.integers(1, 14, 3))
        volume = kind((rng.normal(size=(2, *shape)) * 3).astype(dtype))
        size = tuple(int(n) for n in rng.integers(1, 18, 3))
        start = tuple(int(rng.integers(1 - w, n)) for w, n in zip(size, shape, strict=True))
        box = Box(start, size)
        patch = crop(volume, box, 0)
        assert type(patch) is type(volume) and patch.dtype == volume.dtype and patch.shape == (2, *size)
        pasted = paste(patch, box, volume)
        assert pasted is not volume and type(pasted) is type(volume)
        np.testing.assert_array_equal(pasted, volume)
        again = crop(paste(patch * 0, box, volume), box, 0)
        assert not np.asarray(again).any()


def test_crop_pads_what_overhangs_and_paste_leaves_the_rest():
    volume = torch.arange(8.0).reshape(2, 2, 2)
    patch = crop(volume, Box((-1, 0, 1), (2, 2, 2)), -1)
    assert patch.tolist() == [[[-1, -1], [-1, -1]], [[1, -1], [3, -1]]]
    pasted = paste(torch.full((2, 2, 2), 9.0), Box((-1, 0, 1), (2, 2, 2)), volume)
    assert pasted.tolist() == [[[0, 9], [2, 9]], [[4, 5], [6, 7]]]
    assert volume[0, 0, 1] == 1
    with pytest.raises(ValueError, match="outside"):
        crop(volume, Box((2, 0, 0), (2, 2, 2)), -1)


def test_crop_takes_views_with_other_strides():
    stored = np.random.default_rng(2).normal(size=(6, 5, 4))[::-1]
    view = to_depth_first(stored, 2)
    np.testing.assert_array_equal(crop(view, Box((1, 2, 0), (2, 3, 4)), 0), view[1:3, 2:5, 0:4])


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


def test_histogram_against_numpy_and_by_hand():
    rng = np.random.default_rng(4)
    image = torch.as_tensor(np.clip(rng.normal(size=(1, 6, 7, 8), scale=0.7), -1, 1), dtype=torch.float32)
    lesions = torch.as_tensor(rng.random((3, 6, 7, 8)) < 0.2)
    lesions[1] = False
    histogram = lesion_histogram(image, lesions).reshape(3, 16)
    for k in (0, 2):
        counts, _ = np.histogram(image[0][lesions[k]].numpy(), bins=16, range=(-1, 1))
        np.testing.assert_allclose(histogram[k], counts / lesions[k].sum().item(), rtol=1e-6)
        assert histogram[k].sum().item() == pytest.approx(1)
    assert not histogram[1].any()

    edges = torch.tensor([-1.0, -0.5, 0.0, 1.0]).reshape(1, 1, 1, 4)
    by_hand = lesion_histogram(edges, torch.ones(1, 1, 1, 4, dtype=torch.bool), bins=4)
    assert by_hand.tolist() == [0.25, 0.25, 0.25, 0.25]


def test_flips_move_image_and_mask_together():
    image = torch.arange(24.0).reshape(1, 2, 3, 4)
    lesions = torch.stack([image[0] == 0, image[0] == 23])
    for axes in [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)]:
        moved_image, moved_lesions = flip(image, lesions, axes)
        assert type(moved_image) is torch.Tensor and moved_lesions.dtype == torch.bool
        assert moved_image[0][moved_lesions[0]].tolist() == [0] and moved_image[0][moved_lesions[1]] == 23
        np.testing.assert_array_equal(moved_image, np.flip(image.numpy(), [axis + 1 for axis in axes]))
        back_image, back_lesions = flip(moved_image, moved_lesions, axes)
        assert torch.equal(back_image, image) and torch.equal(back_lesions, lesions)


def test_flip_axes_are_drawn_independently():
    generator = torch.Generator().manual_seed(0)
    draws = [draw_flip_axes(generator) for _ in range(400)]
    assert len(set(draws)) == 8
    for axis in range(3):
        assert 150 < sum(axis in drawn for drawn in draws) < 250
    assert draw_flip_axes(generator, 0) == () and draw_flip_axes(generator, 1) == (0, 1, 2)


def test_remap_contrast_by_hand():
    image = torch.full((1, 4, 8, 8), -0.8)
    lesion = torch.zeros(4, 8, 8, dtype=torch.bool)
    lesion[1:3, 2:6, 2:6] = True
    image[0][lesion] = -0.2  # a height of 0.6 above the surroundings
    image[0, 1, 2, 2] = -0.5  # a voxel of the border, half as high
    image[0, 1, 2, 3] = -0.9  # and one below the surroundings
    remapped = remap_contrast(image, lesion, 1.5, 0.5)[0]
    assert torch.equal(remapped[~lesion], image[0][~lesion])
    assert float(remapped[2, 4, 4]) == pytest.approx(-0.8 + 1.5 * 0.6)
    assert float(remapped[1, 2, 2]) == pytest.approx(-0.8 + 1.5 * 0.6 * 0.5**0.5)
    assert float(remapped[1, 2, 3]) == pytest.approx(-0.9)
    assert torch.allclose(remap_contrast(image, lesion, 1.0, 1.0), image)
    brightest = remap_contrast(image, lesion, 100.0, 1.0)[0]
    assert float(brightest[2, 4, 4]) == pytest.approx(0.65)  # held down


@pytest.mark.parametrize("count", [1, 2, 3, 7, 1000, 65_537, 1_000_001])
def test_a_quantile_is_torch_s_to_the_bit(count):
    values = torch.randn(2 * count, generator=torch.Generator().manual_seed(count))[::2]
    before = values.clone()
    for q in (0.0, 0.1, 0.37, 0.5, 0.95, 1.0):
        assert torch.equal(quantile(values, q), torch.quantile(values, q)), q
    assert torch.equal(values, before)


def test_a_quantile_has_no_largest_size():
    values = torch.zeros(17_000_000)  # torch.quantile ends at 16 million
    values[:2_000_000] = -1
    assert [float(quantile(values, q)) for q in (0.1, 0.2)] == [-1, 0]


def test_contrast_is_drawn_within_its_bounds_and_not_always():
    drawn = [draw_contrast(torch.Generator().manual_seed(i), (0.5, 2.0)) for i in range(400)]
    factors = np.array([factor for factor, _ in drawn])
    untouched = factors == 1.0
    assert 0.2 < untouched.mean() < 0.4
    assert factors.min() >= 0.5 and factors.max() <= 2.0
    assert factors[~untouched].min() < 0.6 and factors[~untouched].max() > 1.8
    assert all(gamma == 1.0 for factor, gamma in drawn if factor == 1.0)


def test_spacing_follows_the_axes_into_depth_first_order():
    stored = np.diag([1.5, 1.25, 8.0, 1.0])
    assert spacing_depth_first(stored, 2) == (8.0, 1.5, 1.25)
    assert spacing_depth_first(stored, 0) == (1.5, 1.25, 8.0)
    assert spacing_depth_first(stored, 1) == (1.25, 1.5, 8.0)
    for axis in range(3):  # as the axes of an array do
        moved = to_depth_first(np.zeros((3, 5, 7)), axis).shape
        affine = np.diag([3.0, 5.0, 7.0, 1.0])
        affine[:3, 3] = (-40, 12, 9)  # where the volume lies changes nothing
        assert spacing_depth_first(affine, axis) == moved


def test_spacing_of_a_turned_and_mirrored_volume():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.7, 2.0, 5.0])
    assert spacing_depth_first(affine, 2) == pytest.approx((5.0, 0.7, 2.0))


def test_resampling_covers_the_same_extent():
    ramp = ((torch.arange(8.0) + 0.5) / 8).reshape(1, 1, 1, 8).expand(1, 4, 6, 8).contiguous()
    finer = resample(ramp, (4, 12, 16))
    assert finer.shape == (1, 4, 12, 16) and finer.dtype == torch.float32 and type(finer) is torch.Tensor
    places = (torch.arange(16.0) + 0.5) / 16
    assert torch.allclose(finer[0, 2, 5, 1:-1], places[1:-1], atol=1e-5)
    coarser = resample(ramp, (4, 6, 4))
    assert torch.allclose(coarser[0, 2, 3, 1:-1], ((torch.arange(4.0) + 0.5) / 4)[1:-1], atol=0.01)


@pytest.mark.parametrize("shape", [(9, 12, 14), (5, 6, 7), (5, 3, 7), (3, 9, 4), (2, 3, 3), (1, 1, 1)])
def test_a_part_is_what_torch_makes_of_the_whole(shape):
    """Means along axes that get coarser, linear interpolation along others; no more is read than needed."""
    image = torch.as_tensor(np.random.default_rng(1).normal(size=(2, 5, 6, 7)))
    coarser = tuple(min(n, m) for n, m in zip((5, 6, 7), shape, strict=True))
    whole = torch.nn.functional.interpolate(image[None], coarser, mode="area")
    whole = torch.nn.functional.interpolate(whole, shape, mode="trilinear")[0]
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


def test_intensities_are_matched_by_hand():
    values = torch.tensor([0.3, -0.2, 0.9, 0.1])
    matched = match_intensities(values, torch.tensor([0.5, 0.0, 0.0, 0.5]))
    # ranks 1/8, 3/8 | 5/8, 7/8: a quarter and three quarters into the first and into the last bin
    assert torch.allclose(matched, torch.tensor([0.625, -0.875, 0.875, -0.625]))
    assert torch.equal(values, torch.tensor([0.3, -0.2, 0.9, 0.1])) and matched.dtype == torch.float32
    assert torch.allclose(match_intensities(values, torch.tensor([7.0, 0, 0, 7])), matched)  # of any sum
    assert torch.allclose(
        match_intensities(torch.tensor([5.0]), torch.tensor([0.0, 0, 1, 0])), torch.tensor([0.25])
    )


def histogram_of(values, bins):
    return torch.histc(values, bins, -1, 1) / len(values)


def test_matched_intensities_have_the_histogram_and_keep_their_ranks():
    generator = torch.Generator().manual_seed(0)
    for bins in (4, 16):
        for voxels in (64, 333):
            values = torch.randn(voxels, generator=generator)
            histogram = torch.rand(bins, generator=generator) ** 4
            histogram[[0, bins // 2]] = 0
            histogram = histogram / histogram.sum()
            matched = match_intensities(values, histogram)
            assert float((histogram_of(matched, bins) - histogram).abs().max()) <= 1.001 / voxels
            assert not bool(histogram_of(matched, bins)[histogram == 0].any())
            assert bool((matched[values.argsort()].diff() >= 0).all())
            assert torch.equal(
                histogram_of(match_intensities(matched, histogram), bins), histogram_of(matched, bins)
            )
    whole = torch.tensor([0.125, 0.0, 0.5, 0.375])
    assert torch.equal(histogram_of(match_intensities(torch.randn(64, generator=generator), whole), 4), whole)


def test_equal_intensities_are_spread_in_the_order_of_the_voxels():
    matched = match_intensities(torch.zeros(4), torch.tensor([0.5, 0.5]))
    assert torch.allclose(matched, torch.tensor([-0.75, -0.25, 0.25, 0.75]))


def test_each_class_is_matched_to_its_own_histogram():
    rng = np.random.default_rng(0)
    image = torch.as_tensor(rng.uniform(-1, 1, (1, 4, 8, 8)), dtype=torch.float32)
    lesions = torch.zeros(4, 4, 8, 8, dtype=torch.bool)
    lesions[0, :2, :4, :4] = lesions[1, :, 5:, :2] = lesions[2, :, :3, 6:] = True  # the last one is absent
    histogram = torch.zeros(4, 16)
    histogram[0, 3] = histogram[1, [10, 12]] = histogram[3, 5] = 1.0
    before = image.clone()
    matched = match_histogram(image, lesions, histogram.flatten())
    assert torch.equal(image, before)
    assert torch.equal(
        matched[0][~lesions[:2].any(0)], image[0][~lesions[:2].any(0)]
    )  # and class 2: no histogram
    expected = (histogram / histogram.sum(1, keepdim=True).clamp(min=1))[:2]
    assert torch.equal(lesion_histogram(matched, lesions).reshape(4, 16)[:2], expected)
    for lesion in lesions[:2]:
        assert bool((matched[0][lesion][image[0][lesion].argsort()].diff() > 0).all())


def test_histograms_shift_by_whole_bins_and_pile_up_at_the_ends():
    histogram = torch.zeros(2, 8)
    histogram[0, [2, 3, 6]] = torch.tensor([0.5, 0.25, 0.25])  # the second class is absent
    shifted = shift_histogram(histogram.flatten(), 2 * 0.25, 8).reshape(2, 8)
    assert torch.allclose(shifted[0], torch.tensor([0, 0, 0, 0, 0.5, 0.25, 0, 0.25]))
    assert not bool(shifted[1].any())
    darker = shift_histogram(histogram.flatten(), -3 * 0.25, 8).reshape(2, 8)
    assert torch.allclose(darker[0], torch.tensor([0.75, 0, 0, 0.25, 0, 0, 0, 0]))
    assert torch.equal(shift_histogram(histogram.flatten(), 0.0, 8), histogram.flatten())
    far = shift_histogram(histogram.flatten(), -9.0, 8).reshape(2, 8)
    assert torch.allclose(far[0], torch.eye(8)[0])


def test_a_part_of_a_bin_goes_to_its_neighbour():
    one = torch.eye(8)[4]
    assert torch.allclose(shift_histogram(one, 0.25 * 0.25, 8), 0.75 * one + 0.25 * torch.eye(8)[5])
    assert torch.allclose(shift_histogram(one, -0.4 * 0.25, 8), 0.6 * one + 0.4 * torch.eye(8)[3])
    centres = (torch.arange(16) + 0.5) / 8 - 1
    generator = torch.Generator().manual_seed(0)
    histogram = torch.zeros(16)
    histogram[5:11] = torch.rand(6, generator=generator)
    histogram = histogram / histogram.sum()
    for shift in (-0.51, -0.1, 0.033, 0.6):
        shifted = shift_histogram(histogram, shift, 16)
        assert float(shifted.sum()) == pytest.approx(1)
        assert float((shifted - histogram) @ centres) == pytest.approx(
            shift, abs=1e-5
        )  # the mean moves by it


def test_a_blend_has_the_quantiles_between():
    first, second = torch.eye(8)[1], torch.eye(8)[5]
    for share, bin_of_all in ((0.0, 1), (0.25, 2), (0.5, 3), (1.0, 5)):
        assert torch.allclose(blend_histograms(first, second, share, 8), torch.eye(8)[bin_of_all], atol=2e-3)
    wide = torch.tensor([0.5, 0, 0, 0, 0, 0, 0, 0.5])  # dark half and bright half, each halfway to bin 3
    assert torch.allclose(
        blend_histograms(wide, torch.eye(8)[3], 0.5, 8), torch.tensor([0, 0.5, 0, 0, 0, 0.5, 0, 0]), atol=0.26
    )


def test_a_blend_is_a_histogram_whose_mean_lies_by_share_between():
    generator = torch.Generator().manual_seed(0)
    first, second = (h / h.sum() for h in torch.rand(2, 16, generator=generator) ** 3)
    centres = (torch.arange(16) + 0.5) / 8 - 1
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        blend = blend_histograms(first, second, share, 16)
        expected = float((1 - share) * first @ centres + share * second @ centres)
        assert blend.dtype == torch.float32 and float(blend.sum()) == pytest.approx(1)
        assert float(blend @ centres) == pytest.approx(expected, abs=0.02)
    assert torch.allclose(blend_histograms(first, second, 0.0, 16), first, atol=2e-3)
    assert torch.allclose(blend_histograms(first, second, 1.0, 16), second, atol=2e-3)


def test_a_class_that_one_lacks_is_taken_from_the_other():
    first, second, none = torch.eye(8)[1], torch.eye(8)[5], torch.zeros(8)
    blend = blend_histograms(torch.cat([first, none, none]), torch.cat([second, second, none]), 0.5, 8)
    expected = torch.cat([torch.eye(8)[3], second, none])
    assert torch.allclose(blend, expected, atol=2e-3)
    assert torch.equal(
        blend_histograms(torch.cat([first, second]), torch.cat([none, none]), 0.9, 8)[8:], second
    )
