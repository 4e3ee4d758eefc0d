"""Layers of a lesion by distance from its border: by hand, and sums that must hold."""

import pytest
import torch

from LeFusion.textures.histograms import lesion_histogram
from LeFusion.textures.layers import (
    BRIGHTER,
    DEPTHS_MM,
    NEAR_BORDER,
    brightest_of,
    depth_below_border,
    layer_shares,
    layered_histogram,
    layers_of,
    no_darker_than,
    rays_through,
    rim_histograms,
    rim_layers_of,
    with_shares,
    without_bright_border,
    without_brightest,
)

MM = (1, 1, 1)


def block(size=15, first=3, last=12):
    lesion = torch.zeros(size, size, size, dtype=torch.bool)
    lesion[first:last, first:last, first:last] = True
    return lesion


def ball(radius=8.0, slice_mm=1.0):
    """And the distance of each voxel from its middle, in mm."""
    across = torch.arange(21) - 10.0
    along = across if slice_mm == 1 else (torch.arange(11) - 5) * slice_mm
    distance = sum(axis**2 for axis in torch.meshgrid(along, across, across, indexing="ij")) ** 0.5
    return distance <= radius, distance


@pytest.mark.parametrize("slice_mm", [1.0, 2.0])
def test_layers_of_a_ball_are_its_shells(slice_mm):
    """To a voxel, also in thick slices; but for its ends, which are rounded off more."""
    lesion, distance = ball(8.0, slice_mm)
    layers = layers_of(lesion, (slice_mm, 1, 1), (2.0, 4.0))
    assert torch.equal(layers >= 0, lesion)
    middle = slice(len(lesion) // 2 - round(2 / slice_mm), len(lesion) // 2 + round(2 / slice_mm) + 1)
    layers, distance = layers[middle], distance[middle]
    assert bool((layers[distance < 3.1] == 2).all()) and bool((layers[distance > 6.6] <= 0).all())
    assert bool((layers[(distance > 4.1) & (distance < 5.4)] == 1).all())


def test_a_mask_s_corners_and_edges_lie_nearer_to_the_border_than_its_faces():
    """They are rounded off: a mask that was drawn slice by slice has steps, the lesion has none. More
    across slices than within them."""
    corner, edge, upright, end, face = (3, 3, 3), (3, 3, 7), (7, 3, 3), (3, 7, 7), (7, 3, 7)
    places = (corner, edge, upright, end, face)
    found = [[int(layers_of(block(), MM, (depth,))[at]) for at in places] for depth in (-0.4, -0.15, 0.3)]
    assert found == [[0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]


def test_small_lesions_have_a_core():
    """As the smallest nodules have; larger ones are not moved."""
    for radius in (0.5, 1.0, 1.5, 2.0):
        layers = layers_of(ball(radius)[0], MM, (0.55,))
        assert int(layers.max()) == 1 and int(layers[10, 10, 10]) == 1
        assert radius < 1.5 or int(layers[ball(radius)[0]].min()) == 0
    assert int(layers_of(ball(3.0)[0], MM, (1.0,))[10, 10, 10]) == 1


def test_one_voxel_more_on_a_face_hardly_moves_the_border():
    """Its distance from the voxel beneath is one less by its own count, but the border is smooth."""
    bumpy = block()
    bumpy[2, 7, 7] = True
    beneath, far = (3, 7, 7), (3, 5, 10)
    assert int(layers_of(bumpy, MM, (0.9,))[beneath]) == int(layers_of(bumpy, MM, (0.9,))[far]) == 0


def test_beyond_the_array_is_outside():
    layers = layers_of(torch.ones(9, 9, 9, dtype=torch.bool), MM, (2.0,))
    assert int(layers[4, 4, 4]) == 1 and int(layers[0, 4, 4]) == 0


def test_a_lesion_has_no_border_at_a_wall():
    """Its layers are those of lesion and wall together."""
    wall = torch.zeros(15, 15, 15, dtype=torch.bool)
    wall[:, :, 12:] = True
    depths = (1.0, 2.0)
    free, beside = layers_of(block(), MM, depths), layers_of(block(), MM, depths, wall)
    assert torch.equal(beside >= 0, block())
    assert torch.equal(beside[block()], layers_of(block() | wall, MM, depths)[block()])
    assert int(beside[7, 7, 11]) == 2 and int(free[7, 7, 11]) == 0
    shares = layer_shares(block(), MM, depths, wall)
    assert float(shares.sum()) == pytest.approx(1)
    assert float(shares[0]) == pytest.approx(float((beside == 0).sum()) / 9**3)
    assert float(shares[0]) < float(layer_shares(block(), MM, depths)[0])
    image = torch.rand(1, 15, 15, 15, generator=torch.Generator().manual_seed(0)) * 2 - 1
    layered = layered_histogram(image, block()[None], MM, 16, depths, wall)
    assert torch.allclose(layered[0].sum(dim=1), shares)


def test_layers_around_a_ball_are_shells_as_well():
    lesion, distance = ball(5.0)
    rim = (distance > 5) & (distance <= 9)
    layers = rim_layers_of(depth_below_border(lesion, MM), rim)
    assert torch.equal(layers >= 0, rim)
    for layer in range(4):  # a voxel's centre next to the border is half a millimetre away
        found = distance[layers == layer]
        assert float(found.min()) > 4.4 + layer and float(found.max()) < 6.6 + layer


@pytest.mark.parametrize("slice_mm", [1.0, 2.0])
def test_rays_go_through_the_middle_of_a_ball(slice_mm):
    """Each ray of a rim's voxel goes inwards, itself in the middle, and ends one mm deep in the lesion."""
    lesion, distance = ball(5.0, slice_mm)
    rim = (distance > 5.0) & (distance <= 8.0)
    rays = rays_through(depth_below_border(lesion, (slice_mm, 1, 1)), rim, (slice_mm, 1, 1))
    numbers = torch.arange(lesion.numel()).view_as(lesion)
    assert rays.shape == (7, int(rim.sum())) and torch.equal(rays[3], numbers[rim])
    away = torch.where(rays >= 0, distance.flatten()[rays.clamp(min=0)], torch.nan)
    steps = -away.diff(dim=0)
    steps = steps[steps.isfinite()]
    assert float(steps.mean()) == pytest.approx(1, abs=0.15) and float((steps < -0.01).float().mean()) < 0.02
    depths = layers_of(lesion, (slice_mm, 1, 1), (1.0,))
    ends = rays[(rays >= 0) & lesion.flatten()[rays.clamp(min=0)]]
    assert len(ends) and not bool((depths.flatten()[ends] == 1).any())


def test_rays_of_a_single_slice_stay_in_it():
    lesion, distance = ball(5.0)
    lesion, rim = lesion[10:11], (distance > 5.0)[10:11] & (distance <= 8.0)[10:11]
    rays = rays_through(depth_below_border(lesion, MM), rim, MM)
    assert bool((rays >= 0).any(dim=0).all()) and int(rays.max()) < lesion.numel()


def test_histograms_around_a_lesion_are_of_each_layer_alone():
    lesion, distance = ball(5.0)
    rim = ~lesion & (distance <= 7)
    image = torch.where(distance < 6, -0.35, -0.9)[None]
    found = rim_histograms(image, lesion, rim, MM, 10)
    assert found.shape == (5, 10) and found[:2].sum(dim=1).tolist() == pytest.approx([1, 1])
    assert found[0, 3] > 0.7 and found[1, 0] > 0.7
    assert not bool(found[3:].any())  # as good as no voxels there
    few = rim & (torch.arange(21) == 10)[:, None, None] & (torch.arange(21) == 10)[None, :, None]
    assert not bool(rim_histograms(image, lesion, few, MM, 10).any())


def test_layers_sum_to_the_histogram_of_the_lesion():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 15, 15, 15, generator=generator) * 2 - 1
    lesions = torch.stack([block(), torch.zeros_like(block()), ~block()])
    layered = layered_histogram(image, lesions, MM)
    assert torch.allclose(layered.sum(dim=1).flatten(), lesion_histogram(image, lesions), atol=1e-6)
    assert not bool(layered[1].any())


def test_a_lesion_with_other_shares_takes_the_nearest_layer_for_one_that_is_missing():
    layers = torch.zeros(4, 3)
    layers[0, 0], layers[1, 1], layers[1, 2] = 0.5, 0.25, 0.25
    shares = torch.tensor([0.2, 0.2, 0.3, 0.3])
    moved = with_shares(layers, shares)
    assert torch.allclose(moved.sum(dim=1), shares)
    assert torch.allclose(moved[2], torch.tensor([0, 0.15, 0.15]))
    assert torch.allclose(moved[0], torch.tensor([0.2, 0, 0]))


def histograms(*shares):
    """Of layers: {bin: share}, ten bins."""
    layers = torch.zeros(len(shares), 10)
    for layer, held in zip(layers, shares, strict=True):
        for bin_, share in held.items():
            layer[bin_] = share
    return layers


def test_a_rim_is_no_brighter_than_what_lies_deeper():
    layers = histograms({2: 0.2, 5: 0.1, 9: 0.1}, {4: 0.15, 6: 0.05}, {}, {5: 0.3, 6: 0.1})
    wanted = histograms({2: 0.2, 5: 0.1, 6: 0.1}, {4: 0.15, 6: 0.05}, {}, {5: 0.3, 6: 0.1})
    assert torch.allclose(without_bright_border(layers), wanted, atol=1e-6)


def test_no_share_of_a_layer_near_the_border_is_brighter_than_that_of_the_core():
    layers = torch.rand(NEAR_BORDER + 3, 100, generator=torch.Generator().manual_seed(0))
    layers[-1, 90:] = 0
    found, step = without_bright_border(layers), round(BRIGHTER / 2 * 100)
    assert step == 1 and DEPTHS_MM[NEAR_BORDER] == 3.0
    assert torch.allclose(found.sum(dim=1), layers.sum(dim=1))
    assert torch.equal(found[NEAR_BORDER + 1 :], layers[NEAR_BORDER + 1 :])
    below = found.cumsum(dim=1) / found.sum(dim=1, keepdim=True)
    for n in range(NEAR_BORDER + 1):
        core = found[n + 1 :].sum(dim=0)
        assert bool((below[n, step:] >= (core.cumsum(dim=0) / core.sum())[:-step] - 1e-5).all())
    assert not torch.allclose(found[NEAR_BORDER], layers[NEAR_BORDER])


def test_the_wall_of_a_cavity_stays_brighter_than_the_cavity():
    layers = histograms({1: 0.2, 4: 0.1, 8: 0.1}, {6: 0.3}, {1: 0.8})
    wanted = histograms({1: 0.2, 4: 0.1, 6: 0.1}, {6: 0.3}, {1: 0.8})
    found = without_bright_border(layers)
    assert torch.allclose(found[1:], wanted[1:])
    assert float(found[0, 7:].sum()) == pytest.approx(0, abs=1e-6)


def test_a_lesion_without_a_bright_rim_stays_as_it_is():
    layers = histograms({1: 0.3, 3: 0.1}, {2: 0.2, 5: 0.1}, {5: 0.3})
    assert torch.allclose(without_bright_border(layers), layers, atol=1e-6)


def test_the_brightest_of_a_histogram():
    (shares,) = histograms({1: 0.5, 4: 0.485, 8: 0.015})
    assert brightest_of(shares) == pytest.approx(0.8)
    assert brightest_of(histograms({1: 0.5, 4: 0.495, 8: 0.005})[0]) == pytest.approx(0.0)


def test_without_the_brightest_voxels_of_a_layer():
    layers = histograms({1: 0.5, 4: 0.3, 8: 0.2}, {2: 0.4}, {})
    found = without_brightest(layers, torch.tensor([0.3, 0.5, 0.1]))
    assert torch.allclose(found, histograms({1: 0.5 / 0.7, 4: 0.2 / 0.7}, {2: 0.4}, {}))
    assert torch.allclose(without_brightest(layers, torch.zeros(3)), layers)
    assert not bool(without_brightest(layers, torch.ones(3)).any())


def test_no_layer_is_darker_than_the_darkest_of_the_scan():
    layers = histograms({0: 0.2, 3: 0.1}, {1: 0.1, 2: 0.1, 9: 0.1}, {})
    wanted = histograms({2: 0.2, 3: 0.1}, {2: 0.2, 9: 0.1}, {})
    assert torch.allclose(no_darker_than(layers, -0.5), wanted)  # of bins of 0.2
    assert torch.equal(no_darker_than(layers, -1.0), layers)
    assert torch.equal(no_darker_than(layers, 1.0)[:, 9], layers.sum(dim=1))
