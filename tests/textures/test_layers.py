"""Layers of a lesion by distance from its border: by hand, and sums that must hold."""

import pytest
import torch

from LeFusion.textures.histograms import lesion_histogram
from LeFusion.textures.layers import (
    layer_shares,
    layered_histogram,
    layers_of,
    no_darker_than,
    with_shares,
    without_bright_rim,
)


def block(size=9, first=2, last=7):
    lesion = torch.zeros(size, size, size, dtype=torch.bool)
    lesion[first:last, first:last, first:last] = True
    return lesion


def test_layers_of_a_block_are_its_shells():
    layers = layers_of(block(), (1, 1, 1), (1.0, 2.0))
    assert torch.equal(layers >= 0, block())
    assert torch.equal(layers == 1, block(first=3, last=6) & ~block(first=4, last=5))
    assert torch.equal(layers == 2, block(first=4, last=5))


def test_distances_are_in_mm():
    assert torch.equal(layers_of(block(), (2, 2, 2), (2.0, 4.0)), layers_of(block(), (1, 1, 1), (1.0, 2.0)))
    flat = layers_of(block(), (10, 1, 1), (1.0, 2.0))  # thick slices: the border is in the plane
    assert torch.equal(flat[3], flat[4]) and int(flat[2].max()) == 2


def test_beyond_the_array_is_outside():
    assert int(layers_of(torch.ones(3, 3, 3, dtype=torch.bool), (1, 1, 1), (1.0,))[1, 1, 1]) == 1
    assert int(layers_of(torch.ones(3, 3, 3, dtype=torch.bool), (1, 1, 1), (1.0,))[0, 1, 1]) == 0


def test_a_lesion_has_no_border_at_a_wall():
    """Its layers are those of lesion and wall together."""
    wall = torch.zeros(9, 9, 9, dtype=torch.bool)
    wall[:, :, 7:] = True
    together = block() | wall
    found = layers_of(block(), (1, 1, 1), (1.0, 2.0), wall)
    assert torch.equal(found >= 0, block())
    assert torch.equal(found[block()], layers_of(together, (1, 1, 1), (1.0, 2.0))[block()])
    assert int(found[4, 4, 6]) == 2 and int(layers_of(block(), (1, 1, 1), (1.0, 2.0))[4, 4, 6]) == 0
    shares = layer_shares(block(), (1, 1, 1), (1.0, 2.0), wall)
    assert float(shares.sum()) == pytest.approx(1) and float(shares[0]) == pytest.approx(89 / 125)
    image = torch.rand(1, 9, 9, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    layered = layered_histogram(image, block()[None], (1, 1, 1), 16, (1.0, 2.0), wall)
    assert torch.allclose(layered[0].sum(dim=1), shares)


def test_shares_count_the_voxels():
    assert layer_shares(block(), (1, 1, 1), (1.0, 2.0)).tolist() == pytest.approx(
        [98 / 125, 26 / 125, 1 / 125]
    )


def test_layers_sum_to_the_histogram_of_the_lesion():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 9, 9, 9, generator=generator) * 2 - 1
    lesions = torch.stack([block(), torch.zeros_like(block()), ~block()])
    layered = layered_histogram(image, lesions, (1, 1, 1))
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
    layers = histograms({2: 0.2, 5: 0.1, 9: 0.1}, {4: 0.15, 6: 0.05, 8: 0.002}, {}, {5: 0.298, 6: 0.1})
    wanted = histograms({2: 0.2, 5: 0.1, 6: 0.1}, {4: 0.15, 6: 0.052}, {}, {5: 0.298, 6: 0.1})
    assert torch.allclose(without_bright_rim(layers), wanted)


def test_the_wall_of_a_cavity_stays_brighter_than_the_cavity():
    layers = histograms({1: 0.1, 4: 0.2, 8: 0.1}, {6: 0.3}, {1: 0.3})
    wanted = histograms({1: 0.1, 4: 0.2, 6: 0.1}, {6: 0.3}, {1: 0.3})
    assert torch.allclose(without_bright_rim(layers), wanted)


def test_a_lesion_without_a_bright_rim_stays_as_it_is():
    layers = histograms({1: 0.3, 3: 0.1}, {2: 0.2, 5: 0.1}, {5: 0.3})
    assert torch.equal(without_bright_rim(layers), layers)


def test_no_layer_is_darker_than_the_darkest_of_the_scan():
    layers = histograms({0: 0.2, 3: 0.1}, {1: 0.1, 2: 0.1, 9: 0.1}, {})
    wanted = histograms({2: 0.2, 3: 0.1}, {2: 0.2, 9: 0.1}, {})
    assert torch.allclose(no_darker_than(layers, -0.5), wanted)  # of bins of 0.2
    assert torch.equal(no_darker_than(layers, -1.0), layers)
    assert torch.equal(no_darker_than(layers, 1.0)[:, 9], layers.sum(dim=1))
