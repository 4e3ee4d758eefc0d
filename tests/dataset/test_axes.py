import itertools
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.orientations import axcodes2ornt, ornt_transform

from LeFusion.dataset.axes import Axes, refuse_turned
from LeFusion.dataset.boxes import Box
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import Volume, check_same_grid, on_grid_of
from LeFusion.errors import UserError

ORIENTED = Layout(depth_axis=None, orientation="SPL")
# Nearly right, anterior, superior, turned and sheared a little
AFFINE = np.array([[0.7, 0.2, 0.1, -12.5], [-0.2, 0.7, 0.05, 31.0], [0.0, -0.1, 2.5, 7.25], [0, 0, 0, 1]])
ORDERS = ("RAS", "LPS", "ASL", "PIR")


@pytest.fixture
def stored_as(save_as):
    """-> stored_as(codes, array, path, affine): the volume of an array in the order R, A, S, in another."""

    def save(codes, ras, path, affine=AFFINE):
        save_as(codes, path, ras, affine)
        return read_volume(path)

    return save


@pytest.fixture
def ras() -> np.ndarray:
    return np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_without_an_orientation_the_depth_axis_comes_first(tmp_path, stored_as, ras, axis):
    volume = stored_as("RAS", ras, tmp_path / "scan.nii")
    axes = Axes.of(volume, Layout(depth_axis=axis))
    assert np.array_equal(axes.to_dhw(volume.raw), np.moveaxis(ras, axis, 0))
    assert np.array_equal(axes.to_stored(axes.to_dhw(volume.raw)), ras)
    spacing = np.linalg.norm(AFFINE[:3, :3], axis=0)
    assert axes.spacing_mm(volume) == pytest.approx((spacing[axis], *np.delete(spacing, axis)))


@pytest.mark.parametrize("codes", ORDERS)
def test_an_orientation_does_not_depend_on_the_order_in_which_a_volume_is_stored(
    tmp_path, stored_as, ras, codes
):
    volume = stored_as(codes, ras, tmp_path / "scan.nii")
    axes = Axes.of(volume, ORIENTED)
    dhw = axes.to_dhw(volume.raw)
    assert np.array_equal(dhw, ras[::-1, ::-1].transpose(2, 1, 0))  # to superior, posterior, left
    assert np.array_equal(axes.to_stored(dhw), volume.raw)
    assert axes.spacing_mm(volume) == pytest.approx(np.linalg.norm(AFFINE[:3, :3], axis=0)[[2, 1, 0]])


HEART = Layout(lesion_labels=(3,), other_labels=(1, 2), cavity_label=1, myocardium_label=2, depth_axis=2)
ALL_ORDERS = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*axes)
]


def volume_of(array, affine):
    image = nibabel.Nifti1Image(array, affine)
    return Volume(Path("heart.nii"), array, 1.0, 0.0, image.affine, image.header)


def short_axis(turn_deg, slice_mm=8.0):
    """The affine of short-axis slices, apex first, turned in their plane by so many degrees."""
    normal = np.array([0.55, -0.45, 0.7]) / np.linalg.norm([0.55, -0.45, 0.7])
    row = np.cross(normal, [0, 0, 1]) / np.linalg.norm(np.cross(normal, [0, 0, 1]))
    column, turn = np.cross(normal, row), np.radians(turn_deg)
    rows = np.cos(turn) * row + np.sin(turn) * column, np.cos(turn) * column - np.sin(turn) * row
    return from_matvec(np.stack([1.4 * rows[0], 1.4 * rows[1], slice_mm * normal], axis=1), [5, -30, 12])


@pytest.mark.parametrize("turn_deg", [0, 40, 100, 200, 310])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_heart_is_seen_from_one_side_however_it_is_stored(turn_deg, mirrored):
    """All 48 ways to store one heart give one array, its apex first, never mirrored."""
    affine = short_axis(turn_deg) @ np.diag([-1 if mirrored else 1, 1, 1, 1])
    scan, seen = nibabel.Nifti1Image(np.arange(9 * 8 * 6, dtype=np.int16).reshape(9, 8, 6), affine), []
    for codes in ALL_ORDERS:
        turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
        stored = scan.as_reoriented(turn)
        volume = volume_of(np.asarray(stored.dataobj), stored.affine)
        axes = Axes.of(volume, HEART)
        signs = np.where(axes.flips, -1, 1)
        directions = volume.affine[:3, axes.order] * signs
        assert np.linalg.det(directions) > 0 and directions[:, 0] @ short_axis(turn_deg)[:3, 2] > 0
        seen.append(axes.to_dhw(volume.raw))
    assert seen[0].shape[0] == 6 and all(np.array_equal(dhw, seen[0]) for dhw in seen)


def test_the_released_hearts_are_read_as_stored_and_cubes_by_the_layout(ras):
    released = Axes.of(volume_of(ras, np.diag([-1.46, -1.46, 10, 1])), HEART)
    assert released == Axes((2, 0, 1), (False, False, False))
    for axis in range(3):
        cubes = Axes.of(volume_of(ras, np.diag([-2, -2, 2, 1])), replace(HEART, depth_axis=axis))
        assert cubes.order[0] == axis


@pytest.mark.parametrize("codes", ORDERS)
def test_boxes_and_voxels_are_found_again_in_the_stored_array(tmp_path, stored_as, ras, codes):
    volume = stored_as(codes, ras, tmp_path / "scan.nii")
    axes = Axes.of(volume, ORIENTED)
    dhw, box = axes.to_dhw(volume.raw), Box((1, 0, 2), (4, 3, 1))
    part = volume.raw[axes.slices(box, dhw.shape)]
    assert np.array_equal(axes.to_dhw(part), dhw[box.slices])
    voxel = (5, 1, 3)
    stored = axes.stored_index(voxel, dhw.shape)
    assert volume.raw[stored] == dhw[voxel] and axes.dhw_index(stored, dhw.shape) == voxel


def test_a_mask_in_another_order_is_brought_to_the_grid_of_its_image(tmp_path, stored_as, ras):
    image, mask = (stored_as(codes, ras, tmp_path / f"{codes}.nii") for codes in ("ASL", "PIR"))
    found = on_grid_of(mask, image)
    assert np.array_equal(found.raw, image.raw)
    check_same_grid(found, image)
    assert on_grid_of(image, image) is image


def test_a_mask_that_lies_elsewhere_is_refused(tmp_path, stored_as, ras):
    image = stored_as("RAS", ras, tmp_path / "image.nii")
    mask = stored_as("RAS", ras, tmp_path / "mask.nii", np.eye(4))
    with pytest.raises(UserError, match="mask.nii: its affine differs from that of .*image.nii"):
        on_grid_of(mask, image)
    other = stored_as("RAS", ras[1:], tmp_path / "smaller.nii")
    with pytest.raises(UserError, match=r"smaller.nii: has shape \(3, 5, 6\) but .*image.nii has"):
        on_grid_of(other, image)


@pytest.mark.parametrize("voxels, fits", [(0.05, True), (0.2, False)])
def test_a_mask_that_lies_a_part_of_a_voxel_away(tmp_path, stored_as, ras, voxels, fits):
    image = stored_as("RAS", ras, tmp_path / "image.nii")
    moved = AFFINE.copy()
    moved[:3, 3] += voxels * AFFINE[:3, 2]
    mask = stored_as("LPS", ras, tmp_path / "mask.nii", moved)
    if fits:
        assert np.array_equal(on_grid_of(mask, image).raw, ras)
    else:
        with pytest.raises(UserError, match="mask.nii: its affine differs"):
            on_grid_of(mask, image)


@pytest.mark.parametrize(
    "axes",
    [
        np.zeros((3, 3)),
        np.full((3, 3), np.nan),
        np.diag([1.0, 1, 0]),
        np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]]),
    ],
)
def test_an_affine_that_says_nothing_is_refused(tmp_path, ras, axes):
    header = nibabel.Nifti1Header()
    affine = np.eye(4)
    affine[:3, :3] = axes
    image = nibabel.Nifti1Image(ras, None, header)
    image.header.set_sform(affine, 1)
    nibabel.save(image, tmp_path / "scan.nii")
    with open(tmp_path / "scan.nii", "r+b") as file:  # nibabel writes what it finds better
        raw = nibabel.Nifti1Header.from_fileobj(file)
        raw["srow_x"], raw["srow_y"], raw["srow_z"] = affine[:3]
        raw["sform_code"] = 1
        file.seek(0)
        file.write(raw.binaryblock)
    with pytest.raises(UserError, match="scan.nii: its affine .* does not say where voxels lie"):
        read_volume(tmp_path / "scan.nii")


def test_a_whole_ct_needs_an_orientation(tmp_path, stored_as):
    volume = stored_as("RAS", np.zeros((100, 20, 30), np.int16), tmp_path / "ct.nii")
    with pytest.raises(UserError, match="ct.nii: .* lie along axis 2, not 0 .* data_type=chest_ct"):
        refuse_turned(volume, Layout(), 32, "lidc")
    refuse_turned(volume, Layout(), 64, "lidc")  # a region of a network with larger ones
    refuse_turned(volume, Layout(depth_axis=2), 32, "lidc")
    refuse_turned(volume, ORIENTED, 32, "chest_ct")


@pytest.mark.parametrize(
    "keys", [{"orientation": "SPL"}, {"orientation": "SPX", "depth_axis": None}, {"depth_axis": None}]
)
def test_layouts_without_one_way_to_turn_volumes_are_refused(keys):
    with pytest.raises(UserError, match="depth_axis|orientation"):
        Layout(**keys)
