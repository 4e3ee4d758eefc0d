"""Boxes of a scan on the network's grid and back; what is added, and what stays."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from LeFusion.dataset.boxes import Box
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import Volume
from LeFusion.insertion.canvas import Canvas, Patch

SPL = Layout(depth_axis=None, orientation="SPL")
WINDOW, ONE_MM, SIZE = (-1000, 400), (1, 1, 1), (8, 16, 16)


def canvas_of(path, size=SIZE):
    return Canvas(read_volume(path), SPL, WINDOW, ONE_MM, size)


def test_a_scan_has_one_address_in_whatever_order_and_type_it_is_stored(chest):
    first = canvas_of(chest("LPS"))
    assert first.shape == (20, 48, 52) and first.spacing_mm == (2, 1, 1)
    for number, codes in enumerate(("RAS", "SPL", "IAR", "PSR")):
        same = canvas_of(chest(codes, f"{number}.nii.gz", dtype=np.float32))
        assert same.address == first.address
        assert np.array_equal(same.values(Box((3, 4, 5), (2, 3, 4))), first.values(Box((3, 4, 5), (2, 3, 4))))
    assert canvas_of(chest("LPS", "other.nii", seed=1)).address != first.address


def test_the_address_is_of_what_the_network_sees(chest):
    volume = read_volume(chest())
    darker = replace(volume, raw=np.where(volume.raw < -900, volume.raw - 2000, volume.raw))
    padded = replace(volume, raw=np.where(volume.raw < -1000, -3024, volume.raw).astype(np.int16))
    addresses = [Canvas(v, SPL, WINDOW, ONE_MM, SIZE).address for v in (volume, padded, darker)]
    assert addresses[0] == addresses[1] != addresses[2]


def test_a_patch_lies_in_the_scan_and_has_room_for_the_networks_box(chest):
    canvas = canvas_of(chest())
    for centre in ((0, 0, 0), (10, 24, 26), (19, 47, 51)):
        patch = canvas.patch(centre, centre)
        assert all(start >= 0 for start in patch.box.start)
        assert all(end <= n for end, n in zip(patch.box.end, canvas.shape, strict=True))
        assert all(n >= wanted for n, wanted in zip(patch.shape, SIZE, strict=True))
        assert patch.spacing_mm == pytest.approx(ONE_MM, rel=0.02)
        inside = patch.to_network(centre)
        assert all(-0.5 <= c < n for c, n in zip(inside, patch.shape, strict=True))


def test_thick_slices_get_the_mean_over_each_voxel():
    patch = Patch(Box((0, 0, 0), (4, 10, 10)), (12, 10, 10), (3.0, 1.0, 1.0))
    change = np.random.default_rng(0).normal(0, 100, (12, 10, 10))
    carried = patch.carried(change)
    assert carried == pytest.approx(change.reshape(4, 3, 10, 10).mean(axis=1))
    thin = np.zeros((12, 10, 10), bool)
    thin[4, 3:6, 3:6] = True  # a third of a slice
    label = patch.label_of(thin)
    assert np.argwhere(label).tolist() == [[1, r, c] for r in range(3, 6) for c in range(3, 6)]


def test_a_mask_comes_back_as_it_was_drawn():
    patch = Patch(Box((5, 5, 5), (4, 12, 12)), (12, 12, 12), (3.0, 1.0, 1.0))
    label = np.zeros((4, 12, 12), bool)
    label[1:3, 4:9, 3:8] = True
    assert np.array_equal(patch.label_of(patch.mask_of(label)), label)


def test_only_voxels_of_the_edit_mask_change_and_other_lesions_stay(chest):
    canvas = canvas_of(chest())
    patch = canvas.patch((10, 24, 26), (10, 24, 26))
    middle = tuple(n // 2 for n in patch.shape)
    mask = np.zeros(patch.shape, bool)
    mask[tuple(slice(m - 3, m + 3) for m in middle)] = True
    label = patch.label_of(mask)
    touched = canvas.add(patch, 1, label, np.full(patch.shape, 500.0), mask)
    changed = canvas.image().raw != canvas.source.raw
    dhw = canvas.axes.to_dhw(changed)
    assert dhw.sum() == touched.sum() > 0 and np.array_equal(dhw[patch.box.slices], touched)
    assert (touched & label).sum() == label.sum()
    before = canvas.values(patch.box)
    bare = canvas.values(patch.box, painted=False)
    assert np.array_equal(bare != before, touched)  # the scan itself stays as it was

    wider = np.zeros(patch.shape, bool)
    wider[tuple(slice(m - 4, m + 5) for m in middle)] = True
    again = canvas.add(patch, 2, patch.label_of(wider) & ~label, np.full(patch.shape, 100.0), wider)
    assert not (again & label).any()
    assert np.array_equal(canvas.values(patch.box)[label], before[label])
    assert canvas.stored_labels().dtype == np.uint8 and set(np.unique(canvas.stored_labels())) == {0, 1, 2}


def test_bone_beyond_the_window_keeps_its_hu_in_the_rim_and_a_vessel_goes_from_the_lesion():
    raw = np.full((20, 24, 24), -800, np.int16)
    raw[8:12, 10:14, 10:14] = 1200
    affine = np.array([[0, 0, -1.0, 0], [0, -1.0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    volume = Volume(Path("scan"), raw, 1.0, 0.0, affine, None)
    for labelled, value in ((False, 1197), (True, 397)):
        canvas = Canvas(volume, SPL, WINDOW, ONE_MM, (4, 8, 8))
        patch = canvas.patch((10, 12, 12), (10, 12, 12))
        assert canvas.on_network(patch).max() == pytest.approx(400)
        edit = np.zeros(patch.shape, bool)
        edit[tuple(n // 2 for n in patch.shape)] = True
        canvas.add(patch, 1, edit & labelled, np.full(patch.shape, -3.0), edit)
        found = canvas.image().raw
        assert found.max() == 1200 and (found == value).sum() == 1 and (found != raw).sum() == 1
