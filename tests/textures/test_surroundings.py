"""The scan around a lesion, from made-up scans: noise, lung, walls and vessels."""

import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from chosen import scan
from scipy.ndimage import gaussian_filter

from LeFusion.textures.surroundings import (
    DARKEST_RANK,
    WALL,
    lesion_and_walls,
    look_around,
    near_walls,
    vessels_in,
)


def found_in(loaded):
    return look_around(loaded, loaded.all_lesions).noise


def test_noise_is_found_in_proportion_and_whatever_the_lesion_is():
    quiet, loud = found_in(scan(0.02)), found_in(scan(0.1))
    assert loud == pytest.approx(5 * quiet, rel=0.02)
    assert 0.7 * 0.1 < loud < 0.1  # the quietest of it, less what the Gaussian leaves
    assert found_in(scan(0.1, lesion=-0.9)) == pytest.approx(loud, rel=0.01)


def test_edges_and_what_is_clamped_to_the_window_do_not_count():
    plain, image = found_in(scan()), scan()
    values = image.volume.raw.copy()
    values[:, :8] = -1.0  # air around the patient
    values[:, :, 30:32] += 1.0  # a wall
    assert found_in(replace(image, volume=replace(image.volume, raw=values))) == pytest.approx(plain, rel=0.1)


def test_tissue_beyond_reach_does_not_count():
    """A scan of 80 voxels: 20 mm around the lesion of 6 are 46."""
    image = scan(size=80)
    values = image.volume.raw.copy()
    values[:4] += np.random.default_rng(1).normal(size=values[:4].shape)
    assert found_in(replace(image, volume=replace(image.volume, raw=values))) == found_in(image)


@pytest.mark.parametrize("widths", [(0, 0, 0), (1.2, 0.6, 0.6), (0.5, 0.8, 1.6)])
def test_how_rough_the_noise_is_is_found_along_each_axis_whatever_the_trend(widths):
    """Of white noise after a Gaussian, voxels n apart correlate by exp(-n^2 / 4 sd^2)."""
    image = scan(0.0, size=48)
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(48,) * 3), widths)
    values = image.volume.raw + 0.05 * noise / noise.std() + np.linspace(0, 0.1, 48)
    values = np.where(image.labels_dhw > 0, 0.9, values)
    found = look_around(replace(image, volume=replace(image.volume, raw=values)), image.all_lesions)
    alike = [np.exp(-(np.arange(1, 4) ** 2) / (4 * max(width, 0.01) ** 2)) for width in widths]
    wanted = [0.05 * (20 - 30 * one[0] + 12 * one[1] - 2 * one[2]) ** 0.5 for one in alike]
    assert [rough * found.noise for rough in found.rough] == pytest.approx(wanted, rel=0.15)


def test_too_little_tissue_tells_nothing():
    small = scan(size=12)
    assert look_around(small, small.all_lesions) is None


def test_the_darkest_is_that_of_the_tissue():
    image = scan(0.1, lesion=-0.9)
    values = image.volume.raw.copy()
    values[:, :8] = -1.0  # air around the patient
    image = replace(image, volume=replace(image.volume, raw=values))
    darkest = look_around(image, image.all_lesions).darkest
    assert darkest == pytest.approx(-0.3 - 0.1 * statistics.NormalDist().inv_cdf(1 - DARKEST_RANK), abs=0.02)


def test_the_lung_is_what_is_beside_the_lesion_but_for_vessels_and_walls():
    image = scan(0.1, lesion=-0.9)
    values = image.volume.raw.copy()
    values[:, :, ::4] = 0.7  # vessels
    around = look_around(replace(image, volume=replace(image.volume, raw=values)), image.all_lesions)
    assert around.lung == pytest.approx(-0.3, abs=0.02)


def test_walls_beside_a_lesion_are_solid_and_vessels_are_not():
    image = scan(0.05)
    values = image.volume.raw.copy()
    values[:, :, 23:30] = 0.6  # a wall, at which the lesion lies
    values[18:20, 10:17] = 0.6  # a vessel
    image = replace(image, volume=replace(image.volume, raw=values))
    around = look_around(image, image.all_lesions)
    seen, lesions, walls = lesion_and_walls(image, image.all_lesions, around, 6.0)
    assert seen.shape[1:] == lesions.shape[1:] == walls.shape == (20, 20, 20)  # 6 voxels and 7 on each side
    wall = torch.zeros_like(walls)
    wall[:, :, 13:] = True
    assert torch.equal(walls, wall & ~lesions[0])
    assert not bool(lesion_and_walls(image, image.all_lesions, None, 6.0)[2].any())


def test_what_is_beside_a_wall_is_within_three_millimetres():
    walls = torch.zeros(4, 4, 12, dtype=torch.bool)
    assert near_walls(walls, (1, 1, 1)) is walls
    walls[:, :, 8:] = True
    assert near_walls(walls, (1, 1, 1))[2, 2].tolist() == [False] * 5 + [True] * 7
    assert near_walls(walls, (1, 1, 2))[2, 2].tolist() == [False] * 7 + [True] * 5


def test_vessels_run_on_outside_of_what_is_painted_and_are_thin():
    """Not what lies within, as a nodule that is to be painted over does; not walls and large lesions."""
    image = torch.full((1, 24, 24, 24), -0.9)
    painted = torch.zeros(24, 24, 24, dtype=torch.bool)
    painted[6:18, 6:18, 6:18] = True
    vessel, within, thick, wall = (torch.zeros_like(painted) for _ in range(4))
    vessel[8:10, 2:16, 8:11] = within[14:16, 9:13, 12:15] = True
    thick[2:12, 2:12, 14:24] = wall[20:] = True
    image[:, vessel | within | thick | wall] = 0.0
    lesions = painted.clone()[None]
    lesions[0, :, :9] = False
    given = (image, lesions, painted[None], -0.9 + WALL)
    found = vessels_in(*given)
    assert bool(found[vessel].all()) and not bool(found[within].any())
    assert not bool(found[6:8, 6:8, 18:20].any()) and not bool(found[22:, 4:20, 4:20].any())
    assert not bool(found[image[0] < -0.5].any())
    assert not bool(vessels_in(image - 0.5, *given[1:]).any())  # 0.4 above the darkest is lung
    image[:, 6:18, 9:13, 6:18] = 0.0  # a lesion is there already
    assert not bool(vessels_in(*given).any())
