"""Flips and contrasts are drawn and applied as they say."""

import numpy as np
import pytest
import torch

from LeFusion.dataset.augmentation import draw_contrast, draw_flip_axes, flip, quantile, remap_contrast


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
