"""Lesions in a small chest, with tiny networks: value in, value out."""

from dataclasses import replace

import numpy as np
import pytest

from LeFusion.dataset.axes import Axes
from LeFusion.dataset.scans import read_volume, write_label_like
from LeFusion.errors import UserError
from LeFusion.insertion.lesions import insert_lesions
from LeFusion.insertion.sites import Site
from LeFusion.insertion.tools import Tools


def dhw(volume, array, tools):
    return Axes.of(volume, tools.settings.layout).to_dhw(array)


def site(i, j, k, **given):
    return Site(f"site at {i}, {j}, {k}", voxel=(i, j, k), **({"diameter_mm": 6.0} | given))


MIDDLE = (26, 24, 10)  # of the chest stored as LPS: column, row, slice


def test_by_default_any_real_lesion_of_like_size_is_drawn(tools):
    named = {"A": None, "B": "realistic", "C": "solid", "D": 2, "E": "mixture"}
    conditions = tools.conditions(named, dict.fromkeys(named, ""))
    assert conditions.by_size and tools.settings.default_texture == "realistic"
    assert [conditions.choose(name, 1) for name in "ABCD"] == [None, None, 2, 1]
    assert conditions.choose("E", 1) in (0, 1, 2)  # drawn before its size is known


def test_textures_of_ones_own_are_mixed(settings):
    own = [[0] * n + [1] + [0] * (15 - n) for n in (2, 12)]
    tools = Tools.of(settings(textures=own))
    names = [f"lesion {number}" for number in range(20)]
    conditions = tools.conditions(dict.fromkeys(names), dict.fromkeys(names, ""))
    assert {conditions.name(name, 1) for name in names} == {"type 1", "type 2"}
    with pytest.raises(UserError, match="^here: texture=realistic must be mixture, or one of the textures"):
        tools.conditions({"A": "realistic"}, {"A": "here"})


def test_all_lesions_are_in_the_scan_and_nothing_else_changes(chest, tools):
    volume = read_volume(chest())
    stored = volume.raw.copy()
    found = insert_lesions(volume, tools, 3, diameter_mm=5)
    assert np.array_equal(volume.raw, stored)  # the source is left alone
    assert sorted(np.unique(found.labels)) == [0, 1, 2, 3]
    changed = found.image.raw != volume.raw
    assert changed.any() and not (changed & ~found.edit).any()
    assert found.image.raw.dtype == volume.raw.dtype and np.array_equal(found.image.affine, volume.affine)
    for lesion in found.lesions:
        label = found.labels == lesion.instance
        assert lesion.volume_ml == pytest.approx(label.sum() * 2 / 1000)
        assert lesion.mean == pytest.approx(float(found.image.raw[label].mean()), abs=0.01)
        centre = volume.affine @ [*np.argwhere(label).mean(axis=0), 1]
        assert lesion.world == pytest.approx(centre[:3], abs=0.01)
        assert lesion.texture in ("ground-glass", "part-solid", "solid")  # which one realistic has drawn
        assert lesion.obtained_difference == pytest.approx(
            float(found.image.raw[label].mean() - volume.raw[label].mean()), abs=0.01
        )


@pytest.mark.parametrize("codes", ["RAS", "SPL", "AIR"])
def test_the_order_of_axes_does_not_matter(chest, tools, codes):
    volume, turned = read_volume(chest("LPS")), read_volume(chest(codes, "B.nii.gz"))
    first, second = (insert_lesions(v, tools, 2, seed=4) for v in (volume, turned))
    for name in ("image", "labels"):
        one, other = getattr(first, name), getattr(second, name)
        arrays = (one.raw, other.raw) if name == "image" else (one, other)
        assert np.array_equal(dhw(volume, arrays[0], tools), dhw(turned, arrays[1], tools))
    assert np.allclose([a.world for a in first.lesions], [b.world for b in second.lesions])


def test_seeds_and_versions_differ_and_come_again(chest, tools):
    volume = read_volume(chest())
    made = [
        insert_lesions(volume, tools, 1, seed=s, version=v).image.raw for s, v in ((0, 1), (0, 2), (1, 1))
    ]
    assert not np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])
    assert np.array_equal(insert_lesions(volume, tools, 1, seed=0).image.raw, made[0])
    few = insert_lesions(volume, tools, 2, seed=0)
    assert few.lesions[0].world == insert_lesions(volume, tools, 1, seed=0).lesions[0].world


def test_how_many_may_be_drawn(chest, tools):
    volume = read_volume(chest())
    counts = {len(insert_lesions(volume, tools, (1, 3), s, diameter_mm=4).lesions) for s in range(6)}
    assert counts > {1} and counts <= {1, 2, 3}


def test_a_lesion_sees_the_one_before_it(chest, tools):
    volume = read_volume(chest())
    i, j, k = MIDDLE
    near, far = site(i, j + 7, k), site(i, j - 15, k)
    alone = insert_lesions(volume, tools, [far, near])
    both = insert_lesions(volume, tools, [site(*MIDDLE), near])
    assert alone.lesions[1].texture == both.lesions[1].texture
    box = both.lesions[1].box.slices
    first = dhw(volume, both.labels, tools)[box] == 1
    assert first.any() and np.array_equal(both.lesions[1].after[first], both.lesions[1].before[first])
    assert not np.array_equal(alone.lesions[1].after, both.lesions[1].after)


def test_given_masks_are_the_labels(chest, tools, tmp_path):
    volume = read_volume(chest("LPS"))
    labels = np.zeros(volume.raw.shape, np.uint8)
    labels[22:28, 20:25, 8:12] = 4
    labels[28:33, 20:25, 8:12] = 9
    write_label_like(volume, labels, tmp_path / "masks.nii.gz")
    sites = [Site(f"lesion {n}", mask=tmp_path / "masks.nii.gz", label=n) for n in (4, 9)]
    found = insert_lesions(volume, tools, sites)
    assert np.array_equal(found.labels, np.where(labels == 4, 1, np.where(labels == 9, 2, 0)))
    changed = found.image.raw != volume.raw
    assert changed[labels == 4].mean() > 0.9 and changed[labels == 9].mean() > 0.9


@pytest.mark.parametrize(
    "lesions, line",
    [
        ([site(2, 24, 10)], "site at 2, 24, 10: the site lies outside the lung"),
        ([site(99, 24, 10)], "site at 99, 24, 10 lies outside the scan"),
        (
            [site(*MIDDLE, texture="fluffy")],
            "site at 26, 24, 10: texture=fluffy must be realistic, mixture, or one",
        ),
        ([site(*MIDDLE, diameter_mm=70.0)], "site at 26, 24, 10"),
        (40, "lesion [0-9]+ of 40: no place found for a sphere .*; ask for fewer or smaller lesions"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_the_lesion(chest, tools, lesions, line):
    with pytest.raises(UserError, match=line) as refused:
        insert_lesions(read_volume(chest()), tools, lesions, diameter_mm=9)
    assert "\n" not in str(refused.value)


def test_a_lesion_that_another_hides_is_refused(chest, tools, tmp_path):
    volume = read_volume(chest())
    labels = np.zeros(volume.raw.shape, np.uint8)
    labels[22:28, 20:25, 8:12] = 1
    write_label_like(volume, labels, tmp_path / "mask.nii.gz")
    twice = [Site(f"lesion {number}", mask=tmp_path / "mask.nii.gz") for number in (1, 2)]
    with pytest.raises(UserError, match="lesion 2: lies wholly in a lesion before it"):
        insert_lesions(volume, tools, twice)


def test_a_mask_without_the_lesion_is_refused(chest, tools, tmp_path):
    volume = read_volume(chest())
    write_label_like(volume, np.zeros(volume.raw.shape, np.uint8), tmp_path / "none.nii.gz")
    with pytest.raises(UserError, match="none.nii.gz has no voxel of the lesion"):
        insert_lesions(volume, tools, [Site("lesion", mask=tmp_path / "none.nii.gz")])


def test_a_scan_that_is_not_in_hu_is_refused(chest, tools):
    volume = read_volume(chest())
    with pytest.raises(UserError, match="are not in HU"):
        insert_lesions(replace(volume, raw=(volume.raw.astype(np.int32) + 3000)), tools, 1)


def test_a_site_without_a_diameter_has_that_of_the_run(chest, tools):
    sites = [site(*MIDDLE, diameter_mm=None), site(26, 36, 10, diameter_mm=5.0)]
    found = insert_lesions(read_volume(chest()), tools, sites, diameter_mm=6.0)
    assert [lesion.asked_mm for lesion in found.lesions] == [6, 5]
    found = insert_lesions(read_volume(chest()), tools, sites[:1])
    assert found.lesions[0].asked_mm is None  # drawn


def test_what_was_not_met_is_noted(chest, tools):
    found = insert_lesions(read_volume(chest()), tools, [site(*MIDDLE, diameter_mm=6.0, texture="solid")])
    (lesion,) = found.lesions
    assert lesion.texture == "solid" and lesion.asked_mm == 6
    missed = abs(lesion.diameter_mm / 6 - 1) > 0.1
    assert (f"diameter {lesion.diameter_mm:.1f} mm instead of 6.0 mm" in lesion.note) == missed
    far = abs(lesion.asked_difference - lesion.obtained_difference) > 60
    assert ("HU on the voxels of the scan" in lesion.note) == far
    assert ("hardly to be seen" in lesion.note) == (not far and abs(lesion.obtained_difference) < 50)


def test_a_mask_outside_the_lung_gets_a_note(chest, tools, tmp_path):
    volume = read_volume(chest())
    inside, outside = (np.zeros(volume.raw.shape, np.uint8) for _ in range(2))
    labels = np.zeros(volume.raw.shape, np.uint8)
    axes = Axes.of(volume, tools.settings.layout)
    for number, column in ((1, 26), (2, 0)):  # in the lung, in the chest wall
        axes.to_dhw(labels)[8:12, 20:25, column : column + 2] = number
    write_label_like(volume, labels, tmp_path / "masks.nii.gz")
    sites = [Site(f"lesion {number}", mask=tmp_path / "masks.nii.gz", label=number) for number in (1, 2)]
    first, second = insert_lesions(volume, tools, sites).lesions
    assert "outside the lung" not in first.note and "lies outside the lung: " in second.note
