"""Lesions keep their address in the wall (height, angle from the septum, depth) when they change hearts."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from LeFusion.dataset.scans import read_volume
from LeFusion.hearts.transfer import Anatomy, septal_angle, transfer_lesions

ANATOMY = Anatomy(cavity=1, myocardium=2)
LESIONS = (3, 4)
SIDE = 80

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("LEFUSION_SHARED_DATA", REPOSITORY.parent / "shared" / "data")) / "EMIDEC"

# The middle of the septum in degrees, judged by eye on pictures without the estimate
JUDGED_BY_EYE = {
    "Normal/N012": -140,
    "Normal/N024": -128,
    "Normal/N034": -95,
    "Normal/N068": -50,
    "Pathological/P001": -145,
    "Pathological/P008": -75,
    "Pathological/P019": -82,
    "Pathological/P063": -72,
    "Pathological/P077": -145,
    "Pathological/P100": -60,
}


def polar(centre):
    """Radius and angle of each voxel of a slice."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    return np.hypot(y - centre[0], x - centre[1]), np.arctan2(y - centre[0], x - centre[1])


def apart(a, b):
    """The difference a - b of two angles, in (-pi, pi]."""
    return np.angle(np.exp(1j * (np.asarray(a) - b)))


def heart(slices=6, inner=12.0, outer=20.0, centre=(40.0, 40.0)):
    """Labels of a heart that narrows towards the apex, which is its first slice."""
    labels = np.zeros((slices, SIDE, SIDE), np.uint8)
    radius, _ = polar(centre)
    for index in range(slices):
        size = 0.5 + 0.5 * (index + 0.5) / slices
        labels[index][radius < outer * size] = 2
        labels[index][radius < inner * size] = 1
    return labels


def with_lesion(labels, angle, slices, centre=(40.0, 40.0), half_width=0.6):
    """Infarct along an arc about `angle` in some slices."""
    result = labels.copy()
    _, angles = polar(centre)
    for z in slices:
        result[z][(labels[z] == 2) & (abs(apart(angles, angle)) < half_width)] = 3
    return result


def with_image(labels, angle, centre=(40.0, 40.0)):
    """Dark lung, the right ventricle at `angle`, fat elsewhere, a liver like blood on the other side."""
    radius, angles = polar(centre)
    image = np.full(labels.shape, 20.0)
    off_septum = abs(apart(angles, angle))
    for z, labels_hw in enumerate(labels):
        epicardium = radius[labels_hw > 0].max()
        image[z][(off_septum > 1.4) & (radius < epicardium + 20)] = 150
        image[z][(off_septum > 0.7) & (radius < epicardium + 2.5)] = 250
        image[z][(off_septum < 0.7) & (radius < epicardium + 15)] = 150
        image[z][labels_hw >= 2] = 50
        image[z][labels_hw == 1] = 150
    return image + np.random.default_rng(0).normal(0, 5, labels.shape)


def lesion(labels):
    return np.isin(labels, LESIONS)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def islands(labels):
    """Parts of the lesion in a slice that has one, mean."""
    return np.mean([ndimage.label(lesion(labels_hw))[1] for labels_hw in labels if lesion(labels_hw).any()])


def share(labels):
    """The lesion's part of the wall."""
    return lesion(labels).sum() / (labels >= 2).sum()


def move(source, target, turn=0.0):
    return transfer_lesions(source, target, ANATOMY, LESIONS, turn)


def angle_of(image, labels):
    return septal_angle(image, labels, ANATOMY, LESIONS)


def lesion_angle(labels, centre=(40.0, 40.0)):
    _, angles = polar(centre)
    return np.angle(np.exp(1j * np.broadcast_to(angles, labels.shape)[lesion(labels)]).sum())


@pytest.mark.parametrize("degrees", [-170, -90, -20, 45, 130, 180])
def test_septal_angle_finds_the_right_ventricle_not_fat_or_liver(degrees):
    angle = np.radians(degrees)
    assert abs(apart(angle_of(with_image(heart(), angle), heart()), angle)) < np.radians(6)


def test_septal_angle_turns_with_the_volume_and_ignores_units_and_slice_order():
    labels = with_lesion(heart(), 1.0, [3, 4])
    image = with_image(labels, np.radians(-60))
    angle = angle_of(image, labels)
    assert angle_of(3 * image - 700, labels) == pytest.approx(angle)
    assert angle_of(image[::-1], labels[::-1]) == pytest.approx(angle)
    turned = angle_of(np.rot90(image, axes=(1, 2)), np.rot90(labels, axes=(1, 2)))  # from w towards -h
    assert apart(turned, angle) == pytest.approx(-np.pi / 2, abs=np.radians(2))


def test_septal_angle_does_without_the_apex():
    """At the apex the wall may border anything. Two of eight slices show it wrong, only one right."""
    labels = heart(8)
    image = np.full(labels.shape, 20.0)
    image[:2] = with_image(labels, np.radians(120))[:2]
    image[2] = with_image(labels, np.radians(-60))[2]
    image[3:][labels[3:] == 1] = 150
    assert abs(apart(angle_of(image, labels), np.radians(-60))) < np.radians(6)


def test_an_image_that_does_not_show_the_septum_is_refused():
    damaged = with_image(heart(), 0.0)
    damaged[0, 0, 0] = np.nan
    evenly_dark = np.where(heart() == 1, 150.0, 20.0)
    for image in (np.full(heart().shape, 100.0), evenly_dark, damaged):
        with (
            np.errstate(all="raise", under="ignore"),
            pytest.raises(ValueError, match="septal angle must be given"),
        ):
            angle_of(image, heart())


def test_a_lesion_moved_onto_its_own_heart_is_itself():
    source = with_lesion(heart(), 0.7, [2, 3])
    source[3, 50:52, 47:49] = 4
    assert lesion(source).sum() > 100 and np.array_equal(move(source, source), source)


@pytest.mark.parametrize("turn", [-2.5, -0.5, 0.3, 1.5, 3.1])
def test_a_lesion_turns_by_the_difference_of_the_septal_angles(turn):
    moved = move(with_lesion(heart(), 0.7, [2, 3]), heart(), turn)
    expected = with_lesion(heart(), 0.7 + turn, [2, 3])
    assert dice(lesion(moved), lesion(expected)) > 0.95


def test_septal_angles_of_two_images_carry_a_lesion_to_the_same_side_of_the_septum():
    source = with_lesion(heart(), -1.0, [2, 3])
    first, second = with_image(source, -1.5), with_image(heart(), 2.0)
    moved = move(source, heart(), angle_of(second, heart()) - angle_of(first, source))
    assert abs(apart(lesion_angle(moved), 2.0 + 0.5)) < np.radians(8)


def test_position_radius_and_thickness_of_the_wall_may_differ():
    """An inner-half lesion stays in the inner half, at its angle, and keeps its part of the wall."""
    source, centre = heart(inner=16, outer=22), (36.0, 45.0)
    radius, angles = polar((40.0, 40.0))
    for z, labels in enumerate(source):
        size = 0.5 + 0.5 * (z + 0.5) / 6
        labels[(labels == 2) & (abs(apart(angles, 0.7)) < 0.9) & (radius < 19 * size)] = 3
    target = heart(inner=8, outer=20, centre=centre)
    moved = move(source, target)
    assert abs(apart(lesion_angle(moved, centre), 0.7)) < np.radians(3)
    radius, _ = polar(centre)
    for z, labels in enumerate(moved):
        size = 0.5 + 0.5 * (z + 0.5) / 6
        assert radius[labels == 3].max() < (14 + 1.5) * size + 0.5 and radius[labels == 3].min() < 9 * size
    expected = (14**2 - 8**2) / (20**2 - 8**2) / ((19**2 - 16**2) / (22**2 - 16**2))  # areas of rings
    assert share(moved) / share(source) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("slices", [3, 6, 12])
def test_a_lesion_keeps_its_height(slices):
    """The apical third of six slices is the apical third of any other number."""
    moved = move(with_lesion(heart(6), 0.7, [0, 1]), heart(slices))
    assert lesion(moved).any(axis=(1, 2)).tolist() == [3 * z < slices for z in range(slices)]
    assert share(moved) == pytest.approx(share(with_lesion(heart(6), 0.7, [0, 1])), rel=0.2)


def test_slices_beyond_the_wall_do_not_count():
    source = with_lesion(heart(6), 0.7, [0, 1])
    padded = np.pad(heart(6), ((2, 3), (0, 0), (0, 0)))
    assert np.array_equal(move(source, padded)[2:8], move(source, heart(6)))


def test_the_apex_may_come_first_or_last():
    source = with_lesion(heart(), 0.7, [0, 1])
    assert np.array_equal(move(source, heart()[::-1])[::-1], move(source, heart()))
    assert np.array_equal(move(source[::-1], heart()), move(source, heart()))


def test_only_the_wall_changes_and_the_targets_own_lesion_goes():
    source, target = with_lesion(heart(), 0.7, [2, 3]), with_lesion(heart(inner=10), -2.0, [1, 2])
    target[:, 40, 40] = 7
    before = source.copy(), target.copy()
    moved = move(source, target)
    assert np.array_equal(source, before[0]) and np.array_equal(target, before[1])
    wall = (target == 2) | (target == 3)
    assert moved.dtype == target.dtype and np.array_equal(moved[~wall], target[~wall])
    assert np.isin(moved[wall], (2, 3)).all() and abs(apart(lesion_angle(moved), 0.7)) < 0.1


def test_no_reflow_stays_inside_the_infarct():
    source = with_lesion(heart(inner=10, outer=22), 0.7, [3, 4])
    core = with_lesion(heart(inner=10, outer=22), 0.7, [3, 4], half_width=0.3) == 3
    radius, _ = polar((40.0, 40.0))
    source[core & (radius > 11) & (radius < 14)] = 4
    moved = move(source, heart(8, inner=14, outer=30), 1.0)
    assert (moved == 4).any()
    for shift, axis in ((1, 1), (-1, 1), (1, 2), (-1, 2)):
        assert np.isin(np.roll(moved, shift, axis)[moved == 4], LESIONS).all()


def open_ring(labels, angle, half_width=0.6):
    _, angles = polar((40.0, 40.0))
    return np.where((labels == 2) & (abs(apart(angles, angle)) < half_width), 0, labels)


def test_open_rings():
    """Where the source has no wall nothing is painted, beside it all; the target's gap stays empty."""
    source = open_ring(heart(), 1.0)
    source[1:][source[1:] == 2] = 3  # all of the wall but the first slice
    moved = move(source, heart())
    _, angles = polar((40.0, 40.0))
    in_gap, off_gap = abs(apart(angles, 1.0)) < 0.5, abs(apart(angles, 1.0)) > 0.7
    assert not lesion(moved)[:, in_gap].any()
    assert lesion(moved)[1:, off_gap].sum() == (heart()[1:, off_gap] == 2).sum()

    target = open_ring(heart(), 0.3)
    moved = move(with_lesion(heart(), 0.7, [2, 3]), target)
    assert np.array_equal(moved == 0, target == 0) and lesion(moved).any()


def test_an_apex_without_cavity_has_its_centre_in_the_wall():
    closed = heart()
    closed[0][closed[0] == 1] = 2
    source = with_lesion(closed, 0.7, [0])
    assert np.array_equal(move(source, source), source)
    moved = move(source, heart())
    assert lesion(moved).any(axis=(1, 2)).tolist() == [True] + [False] * 5
    assert abs(apart(lesion_angle(moved), 0.7)) < 0.1


@pytest.mark.parametrize("label, name", [(1, "cavity"), (2, "myocardium")])
def test_an_incomplete_heart_is_refused(label, name):
    whole = with_lesion(heart(), 0.7, [2])
    lacking = np.where(whole == label, 0, whole)
    with pytest.raises(ValueError, match=rf"^the source's labels hold no {name} \(label {label}\)$"):
        move(lacking, whole)
    with pytest.raises(ValueError, match=rf"^the target's labels hold no {name} \(label {label}\)$"):
        move(whole, lacking)
    with pytest.raises(ValueError, match=rf"^the heart's labels hold no {name} \(label {label}\)$"):
        angle_of(with_image(whole, 0.0), lacking)


def test_a_source_without_lesion_and_an_empty_result_are_refused():
    with pytest.raises(ValueError, match=r"^the source's labels hold no lesion \(labels 3, 4\)$"):
        move(heart(), heart())
    with pytest.raises(ValueError, match=r"^no voxel of the source's lesion .*6 slices onto 6"):
        move(with_lesion(heart(), 0.7, [2], half_width=0.3), open_ring(heart(), 0.7))


@pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no data in {DATA.parent}; set LEFUSION_SHARED_DATA to its folder"
)
def test_real_hearts():
    """Septal angles agree with the eye; lesions return to themselves and are not torn."""
    hearts, angles = {}, {}
    for name, degrees in JUDGED_BY_EYE.items():
        folder, case = name.split("/")
        image, labels = (
            np.moveaxis(read_volume(DATA / folder / kind / f"Case_{case}.nii.gz").raw, 2, 0)
            for kind in ("images", "labels")
        )
        hearts[name], angles[name] = labels, angle_of(image, labels)
        assert abs(apart(angles[name], np.radians(degrees))) < np.radians(30), (
            name,
            np.degrees(angles[name]),
        )
        assert (labels[0] == 1).sum() < (labels[-1] == 1).sum(), f"{name}: the apex is not first"
    normal, pathological = (
        [name for name in hearts if name.startswith(kind)] for kind in ("Normal", "Pathological")
    )
    torn = []
    for source in pathological:
        assert dice(lesion(move(hearts[source], hearts[source])), lesion(hearts[source])) > 0.99
        for target in normal[:2]:
            moved = move(hearts[source], hearts[target], angles[target] - angles[source])
            assert np.array_equal(moved[hearts[target] != 2], hearts[target][hearts[target] != 2])
            assert 0.5 < share(moved) / share(hearts[source]) < 1.7, (source, target)
            torn.append(islands(moved) / islands(hearts[source]))
    assert np.mean(torn) < 1.2
