"""The rim around a label, and what a changed lesion does to it."""

import math

import numpy as np
import pytest
import torch

from LeFusion.dataset.edit import EDGE_BLUR_MM, carry_change, edit_masks, soften_edge


def ball(shape=(11, 15, 15), centre=(5, 7, 7), radius=3.0) -> torch.Tensor:
    grids = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return torch.from_numpy(sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)) <= radius**2)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (3.0, 0.7, 0.7), (0.5, 2, 1)])
@pytest.mark.parametrize("margin", [0.5, 1, 2, 2.5])
def test_the_rim_is_what_lies_within_the_margin(spacing, margin):
    lesion = ball(radius=2.0)
    edit = edit_masks(lesion[None], margin, spacing)[0]
    voxels = torch.argwhere(lesion).double() * torch.tensor(spacing, dtype=torch.float64)
    everywhere = torch.argwhere(torch.ones_like(lesion)).double() * torch.tensor(spacing, dtype=torch.float64)
    nearest = torch.cdist(everywhere, voxels).min(dim=1).values.reshape(lesion.shape)
    assert torch.equal(edit, nearest <= margin + 1e-6)


def test_without_margin_the_edit_mask_is_the_label():
    lesion = ball()[None]
    assert edit_masks(lesion, 0, (1, 1, 1)) is lesion
    assert not bool(edit_masks(torch.zeros_like(lesion), 2, (1, 1, 1)).any())


def test_a_rim_belongs_to_the_nearest_class_and_to_one_only():
    lesions = torch.zeros(2, 5, 9, 9, dtype=torch.bool)
    lesions[0, 2, 4, 2], lesions[1, 2, 4, 6] = True, True
    edit = edit_masks(lesions, 2, (1, 1, 1))
    assert not bool((edit[0] & edit[1]).any())
    assert bool(edit[0, 2, 4, 1]) and bool(edit[1, 2, 4, 7])
    assert bool((lesions & edit).sum() == lesions.sum())


def test_a_lesion_at_the_volume_s_end_has_its_rim_inside():
    lesions = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
    lesions[0, 0, 0, 0] = True
    assert torch.argwhere(edit_masks(lesions, 1, (1, 1, 1))[0]).tolist() == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 0],
        [1, 0, 0],
    ]


def test_a_changed_lesion_changes_its_surroundings_as_a_blurred_one_would():
    """Against a plane of voxels: the Gaussian's share beyond it, layer by layer."""
    lesion = torch.zeros(1, 9, 9, 24, dtype=torch.bool)
    lesion[..., :12] = True
    before = torch.full((1, 9, 9, 24), -0.5)
    after = before + 0.4 * lesion
    carried = carry_change(before, after, lesion, (1, 1, 1))
    assert torch.equal(carried[..., :12], after[..., :12])
    line = (carried - before)[0, 4, 4, 12:].numpy() / 0.4
    for layer in range(3):
        share = 0.5 * math.erfc((layer + 0.5) / EDGE_BLUR_MM / 2**0.5)
        assert line[layer] == pytest.approx(share, abs=0.02)
    assert abs(line[6:]).max() < 1e-6


def test_a_darker_lesion_digs_no_moat():
    lesion = ball()[None]
    before = torch.full((1, 11, 15, 15), -0.8) + 0.6 * lesion
    darker = before - 0.4 * lesion
    assert torch.equal(carry_change(before, darker, lesion, (1, 1, 1)), darker)


def test_nothing_changes_where_nothing_changed():
    lesion, image = ball()[None], torch.randn(1, 11, 15, 15)
    assert carry_change(image, image, lesion, (1, 1, 1)) is image


def half(brightness):
    """(image, lesion, histogram asked for of 8 bins): the lesion is half of the volume, all of one value."""
    lesion = torch.zeros(1, 5, 9, 24, dtype=torch.bool)
    lesion[..., :12] = True
    histogram = torch.zeros(8)
    histogram[6] = 1  # middle at 0.625
    return torch.full((1, 5, 9, 24), brightness), lesion, histogram


def test_a_soft_edge_leaves_a_quarter_of_the_change_at_its_width():
    image, lesion, histogram = half(0.125)
    soft = soften_edge(image, lesion, histogram, (1, 1, 1), 2.0)[0, 2, 4]
    assert torch.equal(soft[:12], image[0, 2, 4, :12])  # the lesion itself is not touched
    assert ((soft[12:16] - 0.125) / 0.5).tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 16], abs=1e-6)
    assert torch.equal(soft[16:], image[0, 2, 4, 16:])  # within twice the width
    far = soften_edge(image, lesion, histogram, (1, 1, 5), 2.0)
    assert torch.equal(far, image)  # millimetres count


def test_a_soft_edge_reaches_half_as_far_outside_the_organ():
    image, lesion, histogram = half(0.125)
    organ = torch.zeros_like(lesion[0])
    organ[..., :14] = True
    soft = soften_edge(image, lesion, histogram, (1, 1, 1), 4.0, organ)[0, 2, 4]
    within, outside = ([0.25 ** (distance / mm) for distance in (1, 2, 3, 4)] for mm in (4, 2))
    shares = [*within[:2], *outside[2:], 0, 0]
    assert ((soft[12:18] - 0.125) / 0.5).tolist() == pytest.approx(shares, abs=1e-6)


def test_a_lesion_that_has_its_histogram_leaves_its_surroundings_alone():
    image, lesion, histogram = half(0.625)
    assert torch.equal(soften_edge(image, lesion, histogram, (1, 1, 1), 2.0), image)
    assert torch.equal(soften_edge(image - 1, lesion, 0 * histogram, (1, 1, 1), 2.0), image - 1)


def test_a_soft_edge_follows_the_nearest_class():
    image, lesion, histogram = half(0.125)
    two = torch.stack([lesion[0], torch.zeros_like(lesion[0])])
    two[1, ..., 6:12], two[0, ..., 6:12] = True, False
    darker = histogram.roll(-4)  # middle at -0.375
    soft = soften_edge(image, two, torch.cat([histogram, darker]), (1, 1, 1), 2.0)[0, 2, 4]
    assert float(soft[12]) == pytest.approx(0.125 - 0.25)
