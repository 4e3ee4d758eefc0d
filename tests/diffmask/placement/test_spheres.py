"""Spheres lie where they may; draws are addressed."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from DiffMask.placement.spheres import (
    DIAMETERS,
    LungScene,
    draw_border,
    draw_diameter,
    load_statistics,
    place_in_lung,
    place_lesions,
    require_fit,
    sphere_around,
)
from LeFusion.dataset.scans import read_volume

REPOSITORY = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("LEFUSION_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
ONE_MM = (1.0, 1.0, 1.0)
SHAPE = (32, 64, 64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scene(lesions=None, vessel=False, spacing=ONE_MM):
    """A lung that ends at a chest wall at w = 10, with a vessel of 10 mm across it or without."""
    d, h, w = np.mgrid[:32, :64, :64]
    hu = np.full(SHAPE, -850.0)
    if vessel:
        hu[np.hypot(d - 16, h - 32) < 5] = 40
    hu[w < 10] = 40
    return LungScene(hu, spacing, lung=w >= 10, lesions=lesions)


@pytest.mark.parametrize("diameter, border", [(6, 0), (6, 20), (12, -1), (12, 5), (20, (3, 8))])
def test_a_sphere_has_the_diameter_and_distance_asked_for(diameter, border):
    place = scene()
    for seed in range(10):
        placed = place_in_lung(place, seeded(seed), diameter, border)
        radius = diameter / 2
        assert placed.diameter_mm == diameter
        gap = placed.centre_dhw[2] - 9.5 - radius  # the wall ends at w = 9.5
        assert gap == pytest.approx(placed.distance_to_border_mm)
        low, high = border if isinstance(border, tuple) else (border, border)
        assert low - 1 <= gap <= high + 1
        ball = placed.mask(SHAPE, ONE_MM)
        assert ball.sum() == pytest.approx(np.pi / 6 * diameter**3, rel=0.1)
        assert place.lung[ball].mean() == placed.inside_share >= 0.9
        assert all(radius <= c + 0.5 <= n - radius for c, n in zip(placed.centre_dhw, SHAPE, strict=True))


def test_millimetres_are_not_voxels():
    spacing = (2.0, 1.0, 0.5)
    placed = place_in_lung(scene(spacing=spacing), seeded(), 8, 4)
    assert placed.distance_to_border_mm == pytest.approx((placed.centre_dhw[2] - 9.5) * 0.5 - 4)
    assert [np.ptp(axis) for axis in np.nonzero(placed.mask(SHAPE, spacing))] == [4, 8, 16]


def test_how_much_of_a_sphere_is_in_the_lung_is_an_option():
    shares = [
        [place_in_lung(scene_, seeded(s), 16, (-8, 4), inside_share=least).inside_share for s in range(15)]
        for scene_ in [scene()]
        for least in (0.6, 1.0)
    ]
    assert 0.6 <= min(shares[0]) < 0.9 and min(shares[1]) == 1


def test_several_lesions_keep_apart_from_each_other_and_from_those_there():
    d, h, w = np.mgrid[:32, :64, :64]
    lesion = (d - 16) ** 2 + (h - 32) ** 2 + (w - 36) ** 2 <= 9**2
    place = scene(lesion)
    options = {"diameter_mm": 9, "border_mm": (0, 40)}
    placed = place_lesions(place, 8, (0, "case"), gap_mm=2, **options)
    union = np.zeros(SHAPE, int)
    for sphere in placed:
        grown = sphere.mask(SHAPE, ONE_MM)
        assert not (ndimage.distance_transform_edt(~grown) < 2)[lesion].any()
        union += grown
    assert union.max() == 1
    free = place_lesions(place, 25, (0, "case"), separate=False, **options)
    assert sum(sphere.mask(SHAPE, ONE_MM).astype(int) for sphere in free).max() > 1


def test_large_vessels_are_avoided():
    with_vessel = scene(vessel=True)
    assert with_vessel.vessels.any()
    options = {"diameter_mm": 8, "border_mm": (1, 40)}
    for sphere in place_lesions(with_vessel, 20, (1,), separate=False, **options):
        assert with_vessel.vessels[sphere.mask(SHAPE, ONE_MM)].mean() <= 0.03
    options["diameter_mm"] = 16  # too large to lie beside it everywhere
    careless = place_lesions(with_vessel, 20, (1,), separate=False, vessel_share=1.0, **options)
    assert any(with_vessel.vessels[s.mask(SHAPE, ONE_MM)].mean() > 0.03 for s in careless)


@pytest.mark.parametrize("separate", [False, True])
def test_placements_depend_on_their_address_only(separate):
    many = place_lesions(scene(), 5, (3, "case"), separate)
    torch.rand(100)
    assert place_lesions(scene(), 2, (3, "case"), separate) == many[:2]
    assert place_lesions(scene(), 2, (4, "case"), separate) != many[:2]
    assert place_lesions(scene(), 2, (3, "other"), separate) != many[:2]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"diameter_mm": 40}, "sphere of 40.0 mm .*larger than the volume of 32 x 64 x 64 mm"),
        ({"diameter_mm": 6, "border_mm": 70}, "no centre 72.0 to 74.0 mm from the border of the lung"),
        ({"diameter_mm": 20, "border_mm": -9}, "less than 90% of it is lung"),
        ({"diameter_mm": 0}, "must be above 0"),
        ({"diameter_mm": (9, 3)}, r"diameter_mm \(9, 3\)"),
        ({"border_mm": float("nan")}, "border_mm nan"),
    ],
)
def test_no_place_is_an_error_of_one_line_with_the_reason(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        place_in_lung(scene(), seeded(), **options)
    assert "\n" not in str(caught.value)


def test_a_full_lung_has_no_place():
    with pytest.raises(ValueError, match="closer than 2 mm to a lesion"):
        place_in_lung(scene(np.ones(SHAPE, bool)), seeded(), 6, (0, 40))
    with pytest.raises(ValueError, match="drawn before"):
        place_lesions(scene(), 30, (0,), diameter_mm=24, border_mm=(0, 40))


def test_a_lung_mask_must_fit_and_hold_something():
    hu = np.full(SHAPE, -850.0)
    with pytest.raises(ValueError, match="no lung found: the lung mask is empty"):
        LungScene(hu, ONE_MM, lung=np.zeros(SHAPE, bool))
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\)"):
        LungScene(hu, ONE_MM, lung=np.ones((2, 3, 4), bool))


def test_a_given_sphere_must_lie_in_the_volume():
    place = scene()
    placed = place.place((16, 30, 15), 8)
    assert placed.distance_to_border_mm == pytest.approx(1.5) and placed.inside_share == 1
    with pytest.raises(ValueError, match=r"8 mm at voxel \(2, 30, 30\) lies outside the volume by 1.5 mm"):
        place.place((2, 30, 30), 8)
    with pytest.raises(ValueError, match="not larger than the volume of 32 x 64 x 64 mm"):
        require_fit((16, 30, 30), 33, SHAPE, ONE_MM)


def test_diameters_for_which_there_is_no_room_are_not_drawn():
    generator = seeded()
    drawn = [draw_diameter(generator, "regions", 20) for _ in range(500)]
    assert max(drawn) <= 20 and np.mean(np.array(drawn) > 19) < 0.1  # not heaped at the largest
    assert draw_diameter(generator, "regions", 5) == 5  # all real ones are larger


def test_drawn_sizes_and_distances_are_those_of_real_lesions():
    statistics = load_statistics("lidc")
    generator = seeded()
    for given, count, low, high in (((), 77, 14, 16), (("lidc",), 2288, 8, 9)):
        measured = statistics[DIAMETERS[given[0] if given else "regions"]]
        diameters = [draw_diameter(generator, *given) for _ in range(2000)]
        found = np.quantile(diameters, (0.25, 0.5, 0.75))
        assert found == pytest.approx(np.quantile(measured["quantiles"], (0.25, 0.5, 0.75)), rel=0.08)
        assert measured["count"] == count and low < found[1] < high
    lows = np.array([draw_border(generator, 5.0) for _ in range(2000)])
    at_border = lows.mean(axis=1) < -1e-9
    assert at_border.mean() == pytest.approx(statistics["border"]["share_at_border"], abs=0.04)
    assert lows[at_border].min() >= -6  # not farther out than the centre
    deep = (1 - statistics["border"]["share_at_border"]) * (1 - statistics["border"]["share_known"])
    assert np.isinf(lows[:, 1]).mean() == pytest.approx(deep, abs=0.03)


def test_the_sphere_of_a_mask():
    mask = np.zeros((10, 20, 20), bool)
    mask[4, 5:16, 8] = True
    placed = sphere_around(mask, (2.0, 1.5, 1.5))
    assert placed.centre_dhw == (4, 10, 8) and placed.diameter_mm == pytest.approx(15)
    with pytest.raises(ValueError, match="empty"):
        sphere_around(mask & False, ONE_MM)


def test_normal_regions_take_lesions():
    folder = DATA / "LIDC" / "Normal" / "Image"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set LEFUSION_SHARED_DATA to the data's folder")
    for path in sorted(folder.rglob("*.nii.gz"))[:2]:
        place = LungScene(read_volume(path).values, ONE_MM)
        for sphere in place_lesions(place, 2, (0, path.name)):
            ball = sphere.mask(place.lung.shape, ONE_MM)
            assert place.lung[ball].mean() >= 0.9 and place.vessels[ball].mean() <= 0.03
