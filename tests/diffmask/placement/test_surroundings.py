"""Beside a drawn place lies as much tissue as beside real nodules."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from DiffMask.placement import spheres
from DiffMask.placement.spheres import LungScene, Placement, load_statistics, place_lesions
from DiffMask.placement.surroundings import FILLED, LIKE, draw_tissue, tissue_share

ONE_MM = (1.0, 1.0, 1.0)
SHAPE = (48, 80, 80)


def in_a_ball(centre, radius):
    places = np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))
    return np.sqrt((places**2).sum(axis=0)) - radius


def lung():
    """All but a wall at the volume's left."""
    return np.broadcast_to(np.arange(SHAPE[2]) >= 4, SHAPE)


def vessels(hu=0.0, every=12):
    """Lung of -850 HU with vessels of 2 x 2 voxels along each slice's rows."""
    image = np.full(SHAPE, -850.0)
    for d in range(0, SHAPE[0], every):
        for w in range(0, SHAPE[2], every):
            image[d : d + 2, :, w : w + 2] = hu
    return image


@pytest.mark.parametrize("tissue, hu", [(1.0, 50), (1.0, 400), (0.5, -400), (-0.1, -940)])
def test_the_share_of_tissue_is_linear_up_to_soft_tissue(tissue, hu):
    outside = in_a_ball((24, 40, 40), 5)
    image = np.where((outside > 0.5) & (outside <= 3.5), hu, -850.0)
    assert tissue_share(image, np.ones(SHAPE, bool), outside) == pytest.approx(tissue, abs=0.01)


def test_a_wall_counts_as_tissue_and_the_lesion_does_not():
    outside = in_a_ball((24, 40, 40), 5)
    image = np.where(lung(), -850.0, 50.0)
    image[outside < 0] = 50
    assert tissue_share(image, lung(), outside) == pytest.approx(0)
    left = np.broadcast_to(np.arange(SHAPE[2]) < 40, SHAPE)
    image[left] = 50  # half of the shell and of what is around
    assert tissue_share(image, ~left, outside) == pytest.approx(0.5, abs=0.1)
    assert np.isnan(tissue_share(image, left & ~left, outside))


def test_a_nodule_of_like_size_is_drawn_on_the_same_side_of_the_border():
    nodules = [(float(mm), int(border), mm + 1000 * border) for mm in range(5, 45) for border in (0, 1)]
    for border in (False, True):
        drawn = {draw_tissue(nodules, 20.0, border, rank) for rank in np.linspace(0, 1, 200)}
        assert len(drawn) == LIKE
        sizes = [tissue - 1000 * border for tissue in drawn]
        assert 13 <= min(sizes) < 20 < max(sizes) <= 27


def test_places_follow_the_surroundings_of_real_nodules(monkeypatch):
    scene = LungScene(vessels(), ONE_MM, lung=lung())
    options = {"separate": False, "diameter_mm": 9, "border_mm": (0, 40), "vessel_share": 1.0}
    for tissue in (0.005, 0.035):
        table = {"surroundings": {"nodules": [(9.0, 0, tissue)]}}
        monkeypatch.setattr(spheres, "load_statistics", lambda name, table=table: table)
        placed = place_lesions(scene, 20, (0,), **options)
        found = np.array([scene.tissue_around(placement) for placement in placed])
        assert np.abs(found - tissue).mean() < 0.005


def test_other_organs_are_not_compared_with_lungs(monkeypatch):
    liver = np.full(SHAPE, 60.0)
    scene = LungScene(liver, ONE_MM, lung=lung())
    monkeypatch.setattr(LungScene, "tissue_around", None)
    assert len(place_lesions(scene, 2, (0,), diameter_mm=9, border_mm=(0, 40), vessel_share=1.0)) == 2


def test_the_table_holds_the_training_nodules():
    table = load_statistics("lidc")["surroundings"]
    diameters, borders, tissues = np.array(table["nodules"]).T
    assert table["count"] == len(diameters) == 77
    assert 0.03 < np.median(tissues) < 0.1 and set(borders) == {0, 1}
    large = diameters > np.median(diameters)
    assert np.median(tissues[large]) > 1.5 * np.median(tissues[~large])  # they pull on more of the lung


def test_the_ball_of_a_sphere_stands_for_its_lesion():
    image = vessels()
    scene = LungScene(image, ONE_MM, lung=lung())
    placement = Placement((25.0, 40.0, 40.0), 16.0, 0.0, 1.0)
    ball = in_a_ball(placement.centre_dhw, FILLED * 8) <= 0
    real = tissue_share(image, scene.lung, ndimage.distance_transform_edt(~ball) - 0.5)
    assert scene.tissue_around(placement) == pytest.approx(real, abs=0.02)


def test_draws_are_those_of_the_generator():
    scene = LungScene(vessels(), ONE_MM, lung=lung())
    one, two = (
        spheres.place_in_lung(scene, torch.Generator().manual_seed(3), 9, (0, 40), vessel_share=1.0)
        for _ in range(2)
    )
    assert one == two
