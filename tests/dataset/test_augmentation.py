"""Flips and contrasts are drawn and applied as they say."""

import numpy as np
import pytest
import torch

from LeFusion.dataset.augmentation import (
    STEEPEST,
    draw_contrast,
    draw_flip_axes,
    flip,
    match_histogram,
    quantile,
    remap_contrast,
    scan_noise,
    turn,
)


def test_flips_move_image_and_mask_together():
    image = torch.arange(24.0).reshape(1, 2, 3, 4)
    lesions = torch.stack([image[0] == 0, image[0] == 23])
    for axes in [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)]:
        moved_image, moved_lesions = flip(image, lesions, axes=axes)
        assert type(moved_image) is torch.Tensor and moved_lesions.dtype == torch.bool
        assert moved_image[0][moved_lesions[0]].tolist() == [0] and moved_image[0][moved_lesions[1]] == 23
        np.testing.assert_array_equal(moved_image, np.flip(image.numpy(), [axis + 1 for axis in axes]))
        back_image, back_lesions = flip(moved_image, moved_lesions, axes=axes)
        assert torch.equal(back_image, image) and torch.equal(back_lesions, lesions)


def test_flip_axes_are_drawn_independently():
    generator = torch.Generator().manual_seed(0)
    draws = [draw_flip_axes(generator) for _ in range(400)]
    assert len(set(draws)) == 8
    for axis in range(3):
        assert 150 < sum(axis in drawn for drawn in draws) < 250


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


def test_turns_move_image_and_mask_together():
    image = torch.arange(32.0).reshape(1, 2, 4, 4)
    mask = image > 25
    for quarters in range(5):
        moved, its_mask = turn(image, mask, quarters=quarters)
        assert torch.equal(moved > 25, its_mask)
        assert torch.equal(moved[0, 1], torch.rot90(image[0, 1], quarters))
    assert turn(image, mask, quarters=0)[0] is image


def two_lesions() -> tuple[torch.Tensor, torch.Tensor]:
    """A lung with noise, a sloping lesion and a flat one."""
    generator = torch.Generator().manual_seed(0)
    image = torch.full((1, 24, 24, 24), -0.8) + 0.03 * torch.randn(1, 24, 24, 24, generator=generator)
    lesions = torch.zeros(3, 24, 24, 24, dtype=torch.bool)
    lesions[0, 8:16, 2:10, 2:22] = lesions[1, 8:16, 13:22, 2:22] = True  # the third is absent
    image[0, :, :12] += torch.linspace(0, 1, 24) * lesions[0, :, :12]
    image[0, :, 12:] += 0.8 * lesions[1, :, 12:]
    return image, lesions


def test_a_lesion_is_matched_towards_its_own_histogram():
    image, lesions = two_lesions()
    histogram = torch.zeros(3, 16)
    histogram[0, 5:10] = histogram[2, 5] = 1.0
    before = image.clone()
    matched = match_histogram(image, lesions, histogram.flatten())
    assert torch.equal(image, before)
    assert torch.equal(matched[0][~lesions[0]], image[0][~lesions[0]])  # and the second class: no histogram
    found = torch.histc(matched[0][lesions[0]], 16, -1, 1) / lesions[0].sum()
    assert float(found[5:10].sum()) > 0.85
    assert float(matched[0][lesions[0]].median()) == pytest.approx(-1 + 7.5 / 8, abs=0.1)


def test_a_flat_lesion_is_moved_but_keeps_its_noise():
    image, lesions = two_lesions()
    histogram = torch.zeros(3, 16)
    histogram[1] = 1.0  # as wide as can be
    matched = match_histogram(image, lesions, histogram.flatten())
    inside = lesions[1].clone()
    inside[:, :15] = inside[:, 20:] = inside[:, :, :4] = inside[:, :, 20:] = inside[:10] = inside[14:] = False
    was, now = (float(x[0][inside].std()) for x in (image, matched))
    assert now < STEEPEST * was
    assert float(matched[0][lesions[1]].median()) == pytest.approx(0, abs=0.1)


def test_the_scan_s_noise_leaves_edges_out():
    image, lesions = two_lesions()
    noise = scan_noise(image)
    assert float(noise[0, 20:].std()) == pytest.approx(0.03, rel=0.2)
    assert float(noise.abs().max()) < 0.12  # an edge is 0.8 high
