"""Masks come from the network's box to the voxels of the scan: place and size in mm stay."""

import itertools

import numpy as np
import pytest
import torch

from DiffMask.grid import MaskGrid

ONE_MM = (1.0, 1.0, 1.0)
SIZE = (8, 12, 10)


def random_mask(size=SIZE, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random(size) < 0.5)


def soft(inside):
    return torch.where(inside, 1.0, -1.0)


def on_scan(grid, inside, shape):
    """A mask of the grid as bool volume of the scan."""
    volume = np.zeros(shape, bool)
    box = grid.box(shape)
    volume[box] = grid.to_scan(soft(inside), box) > 0
    return volume


def sphere_on_scan(diameter_mm, centre, scan_mm, shape, size, spacing_mm=ONE_MM):
    grid = MaskGrid.around(centre, diameter_mm, scan_mm, size, spacing_mm)
    return grid, on_scan(grid, grid.sphere(diameter_mm), shape)


@pytest.mark.parametrize("spacing", [ONE_MM, (2.0, 0.7, 1.3)])
def test_the_same_grid_reproduces_a_mask(spacing):
    grid = MaskGrid(SIZE, spacing, tuple(n // 2 for n in SIZE), spacing)
    box = grid.box(SIZE)
    assert box == tuple(slice(0, n) for n in SIZE)
    mask = random_mask()
    assert np.array_equal(grid.to_scan(soft(mask), box), soft(mask).numpy())
    assert np.array_equal(grid.to_scan(soft(mask).numpy(), box), soft(mask).numpy())


@pytest.mark.parametrize("centre", [(10, 20, 15), (4, 6, 5), (20, 33, 26)])
def test_a_whole_centre_moves_the_mask_by_whole_voxels(centre):
    shape, mask = (24, 40, 32), random_mask()
    grid = MaskGrid(SIZE, ONE_MM, centre, ONE_MM)
    expected = np.zeros(shape, bool)
    start = [c - n // 2 for c, n in zip(centre, SIZE, strict=True)]
    whole = tuple(slice(s, s + n) for s, n in zip(start, SIZE, strict=True))
    expected[whole] = mask
    assert grid.box(shape) == whole and np.array_equal(on_scan(grid, mask, shape), expected)


def test_half_as_large_voxels_make_every_second_one_the_same():
    mask, centre = random_mask(), (10, 20, 15)
    grid = MaskGrid(SIZE, (2.0, 2.0, 2.0), centre, ONE_MM)
    shape = (30, 50, 40)
    box = grid.box(shape)
    fine = grid.to_scan(soft(mask), box)
    assert fine.shape == tuple(2 * n - 1 for n in SIZE)
    assert np.array_equal(fine[::2, ::2, ::2], soft(mask).numpy())
    between = (fine[:-2:2] + fine[2::2]) / 2
    assert np.allclose(fine[1::2], between, atol=1e-6)  # linear


@pytest.mark.parametrize("centre", [(14.0, 30.0, 25.0), (13.4, 30.25, 24.5), (14.65, 29.9, 25.75)])
@pytest.mark.parametrize("scan_mm", [(2.5, 0.7, 0.9), (0.8, 1.6, 1.1), ONE_MM])
@pytest.mark.parametrize("diameter", [10, 16, 24])
def test_a_sphere_arrives_with_its_place_and_size(centre, scan_mm, diameter):
    shape = (40, 70, 50)
    centre = tuple(c / s for c, s in zip(centre, scan_mm, strict=True))
    _, mask = sphere_on_scan(diameter, centre, scan_mm, shape, (32, 32, 32))
    voxels = np.argwhere(mask)
    off_mm = (voxels.mean(axis=0) - centre) * scan_mm
    assert abs(off_mm).max() < 0.35
    # The grid's ball has voxels at exactly the radius, half of whose width is mask
    volume = mask.sum() * np.prod(scan_mm)
    low, high = (np.pi / 6 * (diameter + change) ** 3 for change in (-0.6, 1.1))
    assert low < volume < high
    reach = np.linalg.norm((voxels - centre) * scan_mm, axis=1)
    assert reach.max() <= diameter / 2 + 0.9
    held = np.argwhere(~mask)
    assert np.linalg.norm((held - centre) * scan_mm, axis=1).min() >= diameter / 2 - 0.9


@pytest.mark.parametrize("diameter, voxel", [(10, 1.0), (30, 1.0), (45, 1.5), (60, 2.0)])
def test_larger_spheres_get_larger_voxels(diameter, voxel):
    scan_mm, centre, shape = (2.0, 1.0, 1.5), (40, 50.5, 45), (80, 100, 90)
    grid, mask = sphere_on_scan(diameter, centre, scan_mm, shape, (32, 32, 32))
    assert grid.spacing_mm == pytest.approx((voxel, voxel, voxel))
    inside = grid.sphere(diameter)
    for axis in range(3):  # whole in the box
        assert not inside.movedim(axis, 0)[0].any()
        assert inside.movedim(axis, 0).flatten(1).any(dim=1).sum() == 2 * int(diameter / 2 / voxel) + 1
    volume = mask.sum() * np.prod(scan_mm)
    assert volume == pytest.approx(np.pi / 6 * diameter**3, rel=0.17)
    assert abs((np.argwhere(mask).mean(axis=0) - centre) * scan_mm).max() < 0.35


def test_the_shortest_side_in_mm_limits_the_sphere():
    def voxel(diameter, size, spacing):
        return MaskGrid.around((0, 0, 0), diameter, ONE_MM, size, spacing).spacing_mm

    assert voxel(14, (16, 32, 32), ONE_MM) == ONE_MM
    assert voxel(28, (16, 32, 32), ONE_MM) == (2.0, 2.0, 2.0)
    assert voxel(28, (16, 32, 32), (2.0, 1.0, 1.0)) == (2.0, 1.0, 1.0)
    assert voxel(56, (16, 32, 32), (2.0, 1.0, 1.0)) == (4.0, 2.0, 2.0)


def test_the_radius_is_cut_to_whole_voxels_as_in_training():
    for diameter, radius in ((6, 3), (7.9, 3), (8, 4), (0.5, 0)):
        inside = MaskGrid.around((0, 0, 0), diameter, ONE_MM, (16, 16, 16), ONE_MM).sphere(diameter)
        line = inside[8, 8]
        assert line.sum() == 2 * radius + 1 and bool(line[8 - radius]) and bool(line[8 + radius])


@pytest.mark.parametrize("scan_mm", [(2.5, 0.7, 0.9), ONE_MM])
@pytest.mark.parametrize("centre", [(1.0, 20.3, 15.0), (12.0, 39.0, 31.0), (-1.2, 2.0, 3.0)])
def test_the_box_holds_the_voxels_of_the_volume_that_lie_in_the_grid(scan_mm, centre):
    shape = (13, 40, 32)
    grid = MaskGrid(SIZE, ONE_MM, centre, scan_mm)
    for part, n, c, s, length in zip(grid.box(shape), SIZE, centre, scan_mm, shape, strict=True):
        inside = [i for i in range(length) if -1e-9 <= n // 2 + (i - c) * s <= n - 1 + 1e-9]
        assert list(range(part.start, part.stop)) == inside


def test_a_mask_at_the_border_is_cut_there():
    shape, mask = (24, 40, 32), random_mask()
    for corner in itertools.product(*((0, n - 1) for n in shape)):
        expected = np.pad(np.zeros(shape, bool), 12)
        start = [12 + c - n // 2 for c, n in zip(corner, SIZE, strict=True)]
        expected[tuple(slice(s, s + n) for s, n in zip(start, SIZE, strict=True))] = mask
        found = on_scan(MaskGrid(SIZE, ONE_MM, corner, ONE_MM), mask, shape)
        assert np.array_equal(found, expected[12:-12, 12:-12, 12:-12])


@pytest.mark.parametrize("centre", [(-5, 20, 16), (12, 50, 16), (12, 20, 40)])
def test_a_sphere_outside_the_volume_is_refused(centre):
    grid = MaskGrid(SIZE, ONE_MM, centre, ONE_MM)
    with pytest.raises(ValueError, match=r"outside the volume of \(24, 40, 32\)") as caught:
        grid.box((24, 40, 32))
    assert "\n" not in str(caught.value)
