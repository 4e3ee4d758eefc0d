"""Lungs are found on a whole CT and on a region cut out of one, and nothing else that is dark."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from DiffMask.placement import lungs
from DiffMask.placement.lungs import depth_mm, lung_mask, padding_mask, vessel_mask
from LeFusion.dataset.scans import read_volume

REPOSITORY = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("LEFUSION_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
AIR, TISSUE, LUNG = -1000, 40, -850
ONE_MM = (1.0, 1.0, 1.0)


def noisy(hu, sd=25):
    return hu + np.random.default_rng(0).normal(0, sd, hu.shape)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def whole_ct():
    """A chest of 4 mm voxels on a hollow table, with trachea and gas in the bowel -> HU, lung, spacing."""
    z, y, x = np.mgrid[:36, :60, :80] * 4.0
    hu = np.full(z.shape, AIR)
    hu[((y - 110) / 85) ** 2 + ((x - 160) / 135) ** 2 < 1] = TISSUE
    lung = (abs(z - 80) < 62) & (((y - 110) / 60) ** 2 + ((abs(x - 160) - 65) / 45) ** 2 < 1)
    hu[lung] = LUNG
    hu[(np.hypot(y - 110, x - 160) < 10) & (z > 30)] = AIR  # trachea
    hu[((y - 90) ** 2 + (x - 120) ** 2 + (z - 5) ** 2) < 14**2] = AIR  # bowel
    hu[(abs(y - 216) < 17) & (abs(x - 160) < 130)] = TISSUE  # table
    hu[(abs(y - 216) < 12) & (abs(x - 160) < 125)] = -900
    return noisy(hu), lung, (4.0, 4.0, 4.0)


def region(gas=False):
    """Lung at w > 20, a chest wall before it with a dent, vessels of two sizes; or gas before the wall."""
    d, h, w = np.mgrid[:32, :64, :64]
    hu = np.where(w > 20, LUNG, TISSUE)
    dent = np.hypot(h - 16, w - 21) < 4
    vessel, small = np.hypot(d - 16, h - 40) < 4, np.hypot(d - 8, h - 20) < 1.2
    hu[dent | ((vessel | small) & (w > 20))] = TISSUE
    if gas:
        hu[w < 10] = AIR
    return noisy(hu), w > 20, vessel & (w > 20), small & (w > 24) & ~dent


def test_only_the_lungs_of_a_whole_ct_are_found():
    hu, truth, spacing = whole_ct()
    found = lung_mask(hu, spacing)
    assert dice(found, truth) > 0.96
    assert not found[:, :3].any() and not found[:, 48:].any()  # the air around the body, and the table
    assert not found[10:30, 26:29, 39:42].any() and not found[:3].any()  # trachea, bowel


def circle_of(shape, spacing_mm, radius_mm):
    """Where a round field of view in the middle of the slices is."""
    _, y, x = (s * (np.arange(n) - n / 2) for n, s in zip(shape, spacing_mm, strict=True))
    return np.broadcast_to(np.hypot(y[:, None], x) <= radius_mm, shape)


def emptied(hu, truth):
    """A CT without lungs: tissue in their place, and in what blurs into them."""
    return np.where(ndimage.binary_dilation(truth, iterations=3), noisy(np.full(hu.shape, TISSUE)), hu)


@pytest.mark.parametrize("value", [-3024, -2000, -1024, AIR])
@pytest.mark.parametrize("radius_mm", [150, 110, 95])
def test_a_round_field_of_view_may_cut_the_lung(value, radius_mm):
    """From one outside of the body to one that cuts both lungs."""
    hu, truth, spacing = whole_ct()
    view = circle_of(hu.shape, spacing, radius_mm)
    found = lung_mask(np.where(view, hu, value), spacing)
    assert not found[~view].any() and dice(found, truth & view) > 0.95
    assert not found[:, 45:].any()  # the air around the body, and the table


@pytest.mark.parametrize("radius_mm", [400, 150, 110, 95])
def test_gas_of_stomach_trachea_and_table_alone_is_no_lung(radius_mm):
    hu, truth, spacing = whole_ct()
    z, y, x = np.mgrid[:36, :60, :80] * 4.0
    hu = emptied(hu, truth)
    hu[((y - 90) ** 2 + (x - 200) ** 2 + (z - 40) ** 2) < 30**2] = AIR  # 110 ml
    with pytest.raises(ValueError, match="^no lung found"):
        lung_mask(np.where(circle_of(hu.shape, spacing, radius_mm), hu, -3024), spacing)


def test_clipped_air_is_no_padding_and_cold_voxels_of_noise_stay_lung():
    clipped = noisy(np.full((8, 40, 40), float(AIR)), 30).clip(AIR).round()
    assert not padding_mask(clipped).any()
    hu = noisy(np.full((16, 32, 32), float(LUNG)), 150)
    assert (hu < -1100).any() and not padding_mask(hu).any() and lung_mask(hu, ONE_MM).all()


@pytest.mark.parametrize("gas", [False, True])
def test_a_region_ends_at_its_border_and_holds_vessels_and_dents(gas):
    hu, truth, vessel, _ = region(gas)
    found = lung_mask(hu, ONE_MM)
    assert dice(found, truth) > 0.98
    assert found[vessel & (np.arange(64) > 24)].mean() > 0.99
    assert found[16, 16, 24]  # in the dent
    assert found[0, 60, 63] and found[31, 0, 63]  # cut there
    assert not found[:, :, :18].any()


def test_a_wall_thinner_than_the_closing_is_no_lung():
    hu = np.full((32, 64, 64), float(LUNG))
    hu[:, :, :4] = TISSUE
    assert not lung_mask(noisy(hu), ONE_MM)[:, :, :3].any()


def test_a_region_may_be_all_lung():
    found = lung_mask(noisy(np.full((16, 32, 32), LUNG)), ONE_MM)
    assert found.all() and np.isinf(depth_mm(found, ONE_MM)).all()


def test_known_lesions_are_lung():
    hu, _, _, _ = region()
    d, h, w = np.mgrid[:32, :64, :64]
    lesion = (d - 16) ** 2 + (h - 40) ** 2 + (w - 18) ** 2 < 12**2  # grows out of the chest wall
    hu[lesion] = TISSUE
    assert not lung_mask(hu, ONE_MM)[lesion].all()
    assert lung_mask(hu, ONE_MM, lesion)[lesion].all()


@pytest.mark.parametrize("value", [TISSUE, AIR, 0.3])
def test_no_lung_is_an_error_of_one_line(value):
    with pytest.raises(ValueError, match=r"^no lung found: \d+% of the volume[^\n]*$"):
        lung_mask(noisy(np.full((16, 32, 32), float(value)), sd=abs(value) * 0.01), ONE_MM)


def test_large_volumes_are_worked_on_coarsely(monkeypatch):
    hu, truth, spacing = whole_ct()
    hu, truth = hu[:35, :59, :], truth[:35, :59, :]
    fine = lung_mask(hu, spacing)
    monkeypatch.setattr(lungs, "MANY_VOXELS", 1000)
    monkeypatch.setattr(lungs, "COARSE_MM", 8.0)
    coarse = lung_mask(hu, spacing)
    assert coarse.shape == hu.shape and 0.9 < dice(coarse, truth) and not np.array_equal(coarse, fine)


def test_vessels_are_thick_and_in_the_lung():
    hu, lung, vessel, small = region()
    found = vessel_mask(hu, lung, ONE_MM)
    assert found[vessel].mean() > 0.9 and not found[small].any() and not found[~lung].any()
    assert found.sum() < 1.2 * vessel.sum() + 1500  # and the dent, not the lung


def test_large_airways_are_found_too():
    hu = np.full((32, 64, 64), float(LUNG))
    d, h, _ = np.mgrid[:32, :64, :64]
    airway = np.hypot(d - 16, h - 32) < 4
    hu[airway] = AIR
    found = vessel_mask(noisy(hu, 10), np.ones(hu.shape, bool), ONE_MM)
    assert found[airway].mean() > 0.7 and not found[~airway].any()


def test_depth_counts_from_the_border_between_voxels():
    mask = np.zeros((4, 6, 10), bool)
    mask[:, :, 3:] = True
    depth = depth_mm(mask, (3.0, 2.0, 1.0))
    assert depth[2, 3].tolist() == [0, 0, 0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
    assert not depth_mm(np.zeros((2, 3, 4), bool), ONE_MM).any()


def test_the_lung_of_a_real_ct():
    image, mask = DATA / "CT" / "chest_ct.nii.gz", DATA / "CT" / "chest_ct_lung_mask.nii.gz"
    if not image.is_file():
        pytest.skip(f"no {image}; set LEFUSION_SHARED_DATA to the data's folder")
    spacing = (3.0, 3.0, 3.0)
    hu, truth = (np.moveaxis(read_volume(path).values, 2, 0)[::2, ::2, ::2] for path in (image, mask))
    truth = truth > 0
    assert dice(lung_mask(hu, spacing), truth) > 0.97
    for radius_mm, value in ((145, -3024), (140, -3024), (135, -1000), (120, -1000), (60, -3024)):
        view = circle_of(hu.shape, spacing, radius_mm)
        found = lung_mask(np.where(view, hu, value), spacing)
        assert dice(found, truth & view) > 0.95 and not found[~view].any()
        assert dice(found, truth) > 0.95 or radius_mm < 120
        with pytest.raises(ValueError, match="^no lung found"):
            lung_mask(np.where(view, emptied(hu, truth), value), spacing)
