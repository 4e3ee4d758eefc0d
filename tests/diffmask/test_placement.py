"""Spheres lie where they may; infarcts have the angle, depth and height asked for; draws are addressed."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from DiffMask.placement import (
    LungScene,
    Sector,
    draw_border,
    draw_diameter,
    draw_sector,
    heights_of_slices,
    load_statistics,
    no_reflow_mask,
    place_in_lung,
    place_in_wall,
    place_lesions,
    require_fit,
    sector_mask,
    sphere_around,
)
from LeFusion.dataset.nifti import read_volume
from LeFusion.dataset.transfer import Anatomy, wall_coordinates

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("LEFUSION_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
ONE_MM = (1.0, 1.0, 1.0)
SHAPE = (32, 64, 64)
ANATOMY = Anatomy(cavity=1, myocardium=2)
HEART_MM = (8.0, 1.5, 1.5)


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


def heart(slices=6, inner=12.0, outer=20.0):
    """Concentric rings, the apex first and smaller."""
    y, x = np.mgrid[:64, :64] - 32.0
    labels = np.zeros((slices, 64, 64), np.uint8)
    for z in range(slices):
        size = 0.6 + 0.4 * (z + 0.5) / slices
        labels[z][np.hypot(y, x) < outer * size] = 2
        labels[z][np.hypot(y, x) < inner * size] = 1
    return labels


def of(angle=0.5, half_angle=0.8, transmurality=0.6, heights=(0.0, 1.0), share=0.0):
    return Sector(angle, half_angle, transmurality, heights, share)


# --- lungs ----------------------------------------------------------------------


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


def test_drawn_sizes_and_distances_are_those_of_real_lesions():
    statistics = load_statistics("lidc")
    generator = seeded()
    diameters = [draw_diameter(generator) for _ in range(2000)]
    quantiles = statistics["sphere_diameter_mm"]["quantiles"]
    assert np.median(diameters) == pytest.approx(np.median(quantiles), rel=0.06)
    assert statistics["sphere_diameter_mm"]["count"] > 2000 and 7 < np.median(quantiles) < 11
    lows = np.array([draw_border(generator, 5.0) for _ in range(2000)])
    at_border = lows.mean(axis=1) < -1e-9
    assert at_border.mean() == pytest.approx(statistics["border"]["share_at_border"], abs=0.04)
    assert lows[at_border].min() >= -6  # not farther out than the centre
    deep = (1 - statistics["border"]["share_at_border"]) * (1 - statistics["border"]["share_known"])
    assert np.isinf(lows[:, 1]).mean() == pytest.approx(deep, abs=0.03)


# --- hearts ---------------------------------------------------------------------


def test_wall_coordinates_of_rings():
    labels = heart()
    wall = wall_coordinates(labels, ANATOMY, ())
    assert np.array_equal(np.isfinite(wall.depth), labels == 2)
    y, x = np.mgrid[:64, :64] - 32.0
    size = 0.6 + 0.4 * 5.5 / 6
    known = labels[5] == 2
    expected = (np.hypot(y, x)[known] / size - 12) / 8
    assert abs(wall.depth[5][known] - expected).max() < 0.2
    turned = np.angle(np.exp(1j * (wall.angle[5][known] - np.arctan2(y, x)[known])))
    assert abs(turned).max() < 0.05
    assert np.nanmax(wall.height[0]) == pytest.approx(1 / 12) and np.nanmin(wall.height[5]) == pytest.approx(
        11 / 12
    )
    upside_down = wall_coordinates(labels[::-1], ANATOMY, ())
    assert np.nanmax(upside_down.height[5]) == pytest.approx(1 / 12)


@pytest.mark.parametrize("transmurality", [0.4, 0.8])
def test_a_smooth_sector_has_the_numbers_asked_for(transmurality):
    labels = heart()
    sector = of(3.0, 0.7, transmurality, (0.3, 0.9))  # across the seam of the angle
    mask = sector_mask(labels, ANATOMY, sector, seeded(), roughness=0)
    wall = wall_coordinates(labels, ANATOMY, ())
    assert (labels[mask] == 2).all() and ndimage.label(mask, np.ones((3, 3, 3)))[1] == 1
    off = np.angle(np.exp(1j * (wall.angle - 3.0)))
    middle = abs(off) < 0.2
    assert wall.depth[3][mask[3] & middle[3]].max() == pytest.approx(transmurality, abs=0.1)
    assert wall.depth[mask].min() < 0.1  # from the endocardium
    assert abs(off[mask]).max() == pytest.approx(0.7, abs=0.1) and np.mean(off[mask]) == pytest.approx(
        0, abs=0.03
    )
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [2, 3, 4]


def test_a_rough_border_is_irregular_and_addressed():
    labels = heart()
    masks = [sector_mask(labels, ANATOMY, of(), seeded(seed)) for seed in (0, 0, 1)]
    smooth = sector_mask(labels, ANATOMY, of(), seeded(), roughness=0)
    assert np.array_equal(masks[0], masks[1]) and not np.array_equal(masks[0], masks[2])
    assert not np.array_equal(masks[0], smooth)
    for mask in masks:
        assert ndimage.label(mask, np.ones((3, 3, 3)))[1] == 1 and (labels[mask] == 2).all()
        assert 0.5 < mask.sum() / smooth.sum() < 1.7


def test_no_reflow_is_a_core_by_the_endocardium():
    labels = heart()
    infarct = sector_mask(labels, ANATOMY, of(half_angle=1.2, transmurality=0.9), seeded())
    core = no_reflow_mask(infarct, labels, ANATOMY, 0.2, HEART_MM, seeded())
    depth = wall_coordinates(labels, ANATOMY, ()).depth
    assert infarct[core].all() and 0.12 < core.sum() / infarct.sum() < 0.202
    assert ndimage.label(core, np.ones((3, 3, 3)))[1] == 1
    assert depth[core].mean() < depth[infarct].mean() - 0.1
    healthy = ndimage.binary_dilation(core, np.ones((1, 3, 3))) & ~infarct
    assert (labels[healthy] == 1).all()  # it touches no healthy wall
    assert not no_reflow_mask(infarct, labels, ANATOMY, 0.0, HEART_MM, seeded()).any()
    with pytest.raises(ValueError, match="no_reflow_share 1.5"):
        no_reflow_mask(infarct, labels, ANATOMY, 1.5, HEART_MM, seeded())


def test_drawn_sectors_are_like_the_measured_ones():
    rows = load_statistics("emidec")["infarcts"]
    assert len(rows) == 44
    drawn = [draw_sector(seeded(seed), 0.0) for seed in range(400)]
    for name, real in (
        ("transmurality", [row["transmurality"] for row in rows]),
        ("half_angle", np.radians([row["half_angle_deg"] for row in rows])),
        ("no_reflow_share", [row["no_reflow_share"] for row in rows]),
    ):
        values = [getattr(sector, name) for sector in drawn]
        assert np.quantile(values, (0.25, 0.5, 0.75)) == pytest.approx(
            np.quantile(real, (0.25, 0.5, 0.75)), rel=0.2, abs=0.02
        ), name


def test_what_is_given_is_not_drawn_and_the_rest_stays():
    free = draw_sector(seeded(5), 1.0)
    given = draw_sector(seeded(5), 1.0, angle=0.5, transmurality=(0.3, 0.4), heights=(0.2, 0.6))
    assert (
        given.angle == pytest.approx(1.5)
        and 0.3 <= given.transmurality <= 0.4
        and given.heights == (0.2, 0.6)
    )
    assert (given.half_angle, given.no_reflow_share) == (free.half_angle, free.no_reflow_share)
    turned = draw_sector(seeded(5), 1.4)
    assert np.angle(np.exp(1j * (turned.angle - free.angle))) == pytest.approx(0.4)
    anywhere = [draw_sector(seeded(seed), None).angle for seed in range(300)]
    assert abs(np.exp(1j * np.array(anywhere)).mean()) < 0.15  # no direction preferred


def test_heights_of_slices():
    labels = heart()
    heights = heights_of_slices(labels, ANATOMY, [2, 3])
    assert heights == pytest.approx((2 / 6, 4 / 6))
    mask = sector_mask(labels, ANATOMY, of(heights=heights), seeded(), roughness=0)
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [2, 3]
    with pytest.raises(ValueError, match=r"slices \[5, 6\]"):
        heights_of_slices(labels, ANATOMY, [5, 6])


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_sphere_in_the_wall_has_its_centre_there(share):
    labels = heart()
    sector = of(2.0, 0.6, share, (0.2, 0.8))
    placed = place_in_wall(labels, ANATOMY, sector, HEART_MM)
    voxel = tuple(int(c) for c in placed.centre_dhw)
    wall = wall_coordinates(labels, ANATOMY, ())
    assert labels[voxel] == 2 and voxel[0] in (2, 3)
    assert wall.angle[voxel] == pytest.approx(2.0, abs=0.15)
    assert wall.depth[voxel] == pytest.approx(share / 2, abs=0.15)
    assert placed.mask(labels.shape, HEART_MM)[sector_mask(labels, ANATOMY, sector, seeded(), 0)].all()
    assert place_in_wall(labels, ANATOMY, sector, HEART_MM, 10).diameter_mm == 10
    with pytest.raises(ValueError, match="sphere of 200 mm .*96 x 96 mm"):
        place_in_wall(labels, ANATOMY, sector, HEART_MM, 200)


def test_errors_of_hearts():
    with pytest.raises(ValueError, match="no myocardium"):
        sector_mask(np.where(heart() == 1, 1, 0), ANATOMY, of(), seeded())
    open_ring = heart()
    open_ring[:, :, 32:][open_ring[:, :, 32:] == 2] = 0  # no wall on the right
    with pytest.raises(ValueError, match="no wall where the infarct should be: angle 0 \\+- 29 degrees"):
        sector_mask(open_ring, ANATOMY, of(0.0, 0.5), seeded())
    for wrong in ({"half_angle": 4.0}, {"transmurality": 0}, {"heights": (0.5, 0.5)}, {"share": 1}):
        with pytest.raises(ValueError, match="out of range"):
            of(**wrong)


def test_the_sphere_of_a_mask():
    mask = np.zeros((10, 20, 20), bool)
    mask[4, 5:16, 8] = True
    placed = sphere_around(mask, (2.0, 1.5, 1.5))
    assert placed.centre_dhw == (4, 10, 8) and placed.diameter_mm == pytest.approx(15)
    organ = np.zeros(mask.shape, bool)
    organ[:, :, 4:] = True
    inside = sphere_around(mask, (2.0, 1.5, 1.5), organ)
    assert inside.distance_to_border_mm < 0 < inside.inside_share < 1
    with pytest.raises(ValueError, match="empty"):
        sphere_around(mask & False, ONE_MM)


# --- real data ------------------------------------------------------------------


def test_normal_regions_take_lesions():
    folder = DATA / "LIDC" / "Normal" / "Image"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set LEFUSION_SHARED_DATA to the data's folder")
    for path in sorted(folder.rglob("*.nii.gz"))[:2]:
        place = LungScene(read_volume(path).values, ONE_MM)
        for sphere in place_lesions(place, 2, (0, path.name)):
            ball = sphere.mask(place.lung.shape, ONE_MM)
            assert place.lung[ball].mean() >= 0.9 and place.vessels[ball].mean() <= 0.03


def test_normal_hearts_take_infarcts():
    folder = DATA / "EMIDEC" / "Normal" / "labels"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set LEFUSION_SHARED_DATA to the data's folder")
    for path in sorted(folder.rglob("*.nii.gz"))[:2]:
        labels = np.moveaxis(read_volume(path).raw, 2, 0)
        sector = draw_sector(seeded(), None)
        infarct = sector_mask(labels, ANATOMY, sector, seeded())
        core = no_reflow_mask(infarct, labels, ANATOMY, 0.15, (10.0, 1.458, 1.458), seeded())
        assert (labels[infarct] == 2).all() and infarct[core].all() and core.any()
