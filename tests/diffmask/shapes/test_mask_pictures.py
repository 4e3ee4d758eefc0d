"""Surfaces have the place and size of their mask; the sheets are pictures of all scenes."""

import numpy as np
import pytest
from PIL import Image

from DiffMask.shapes.pictures import save_surfaces, surface

ONE_MM = (1.0, 1.0, 1.0)


def ball(centre, radius_mm, shape=(20, 40, 40), spacing=ONE_MM):
    offsets = [(np.arange(n) - c) * s for n, c, s in zip(shape, centre, spacing, strict=True)]
    return sum(part**2 for part in np.meshgrid(*offsets, indexing="ij")) <= radius_mm**2


def picture(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def coloured(pixels, colour):
    """How many pixels are clearly of the hue of the first (orange) or second (blue) class."""
    first, last = (0, 2) if colour == "orange" else (2, 0)
    return int((pixels[..., first] - pixels[..., last] > 60).sum())


@pytest.mark.parametrize("spacing", [ONE_MM, (2.0, 1.0, 0.5)])
def test_a_surface_lies_where_its_mask_does(spacing):
    centre = (9, 14, 22)
    vertices, triangles = surface(ball(centre, 6, spacing=spacing), spacing)
    assert triangles.min() == 0 and triangles.max() == len(vertices) - 1
    radii = np.linalg.norm(vertices - np.multiply(centre, spacing), axis=1)
    assert radii.mean() == pytest.approx(6, abs=0.6) and np.ptp(radii) < 2
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    assert (low + high) / 2 == pytest.approx(np.multiply(centre, spacing), abs=0.05)


def test_a_surface_does_not_depend_on_the_volume_around_it():
    mask = ball((9, 14, 22), 5)
    mask[12:, :, 20:] = False
    shift = np.array([3, 2, 1])
    inner, triangles = surface(mask[3:, 2:, 1:], ONE_MM)
    whole, same = surface(mask, ONE_MM)
    assert np.allclose(inner + shift, whole) and np.array_equal(triangles, same)
    at_border, _ = surface(mask[4:15, 9:20, 17:28], ONE_MM)  # the mask touches all sides
    assert np.allclose(at_border + [4, 9, 17], whole)


@pytest.mark.parametrize("voxels", [1, 2])
def test_the_smallest_mask_has_a_surface(voxels):
    mask = np.zeros((5, 6, 7), bool)
    mask[2, 3, 2 : 2 + voxels] = True
    vertices, triangles = surface(mask, (2.0, 1.0, 1.0))
    assert len(triangles) > 4 and vertices.mean(axis=0) == pytest.approx([4, 3, 2 + (voxels - 1) / 2])


def test_a_sheet_shows_every_scene(tmp_path):
    scenes = [[ball((9, 14, 22), radius)] for radius in (3, 5, 7, 4, 6, 8, 5)]
    shapes = []
    for count in (1, 2, 7):
        path = tmp_path / "new folder" / f"{count}.png"
        save_surfaces(path, scenes[:count], [ONE_MM] * count, [f"mask {i}" for i in range(count)])
        pixels = picture(path)
        shapes.append(pixels.shape[:2])
        assert coloured(pixels, "orange") > 1500 * count and coloured(pixels, "blue") == 0
    one, two, seven = shapes
    assert one[0] == two[0] and two[1] == pytest.approx(2 * one[1], abs=2)
    assert seven == pytest.approx((2 * one[0], 6 * one[1]), abs=6)  # two rows of six places
    assert sorted(p.name for p in (tmp_path / "new folder").iterdir()) == ["1.png", "2.png", "7.png"]


def test_a_lesion_is_seen_through_its_organ_and_an_empty_class_is_left_out(tmp_path):
    wall = ball((9, 20, 20), 8) & ~ball((9, 20, 20), 6)
    infarct = wall & (np.arange(40) < 18)
    core, nothing = infarct & (np.arange(40) < 14), np.zeros_like(wall)
    found = {}
    for name, scene in {
        "wall": [wall, nothing, nothing],
        "infarct": [wall, infarct, nothing],
        "core": [wall, infarct, core],
    }.items():
        path = tmp_path / f"{name}.png"
        save_surfaces(path, [scene], [(2.0, 1.0, 1.0)], [name], (0.12, 0.4, 1.0))
        found[name] = picture(path)
    orange = {name: coloured(pixels, "orange") for name, pixels in found.items()}
    blue = {name: coloured(pixels, "blue") for name, pixels in found.items()}
    assert orange["wall"] == blue["wall"] == blue["infarct"] == 0 and (found["wall"] < 240).any()
    assert orange["infarct"] > 1000
    less_red = (found["infarct"] - found["core"])[..., 0] > 40  # blue, seen through the infarct
    assert 200 < less_red.sum() < orange["infarct"] / 2
