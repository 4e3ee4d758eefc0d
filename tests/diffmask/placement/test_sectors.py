"""Infarcts have the angle, depth and height asked for; draws are addressed."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from DiffMask.placement.measure import measure_infarct
from DiffMask.placement.sectors import Sector, draw_sector, no_reflow_mask, sector_mask
from DiffMask.placement.spheres import load_statistics
from LeFusion.dataset.scans import read_volume
from LeFusion.hearts.transfer import Anatomy, wall_coordinates

REPOSITORY = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("LEFUSION_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
ANATOMY = Anatomy(cavity=1, myocardium=2)
HEART_MM = (8.0, 1.5, 1.5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


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
    assert 0.55 < abs(off[mask]).max() < 0.75  # thin at its edge: less than a voxel there
    assert np.mean(off[mask]) == pytest.approx(0, abs=0.03)
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


def test_no_reflow_lies_at_the_depth_asked_for_and_never_at_the_outer_wall():
    labels = heart()
    infarct = sector_mask(labels, ANATOMY, of(half_angle=1.2, transmurality=2.0), seeded())
    depth = wall_coordinates(labels, ANATOMY, ()).depth
    cores = [no_reflow_mask(infarct, labels, ANATOMY, 0.15, HEART_MM, seeded(), d) for d in (0.15, 0.4)]
    means = [depth[core].mean() for core in cores]
    assert means[0] < 0.25 and means[0] + 0.08 < means[1] < 0.5
    assert all(infarct[core].all() and np.quantile(depth[core], 0.9) < 0.85 for core in cores)


def test_measured_infarcts_come_out_as_they_were_measured():
    """What measure.py reads off a smooth sector is what the sector was made from."""
    labels = heart(inner=14.0, outer=26.0)
    for transmurality in (0.5, 0.9, 1.5):
        sector = of(0.5, 1.0, transmurality, (0.0, 1.0))
        made = labels.copy()
        made[sector_mask(labels, ANATOMY, sector, seeded(), roughness=0)] = 3
        row = measure_infarct(made, 0.0)
        assert row["angle_deg"] == pytest.approx(np.degrees(0.5), abs=4)
        assert row["half_angle_deg"] == pytest.approx(np.degrees(1.0), abs=9)
        assert row["transmurality"] == pytest.approx(transmurality, rel=0.25)
        assert row["no_reflow_share"] == 0 and row["no_reflow_depth"] is None


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
