"""Mask files -> items: what is found, what is refused, and what chance may change."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from DiffMask.dataset import (
    LesionMask,
    MaskDataset,
    find_masks,
    hold_out,
    place,
    read_lesion,
)
from DiffMask.sphere import bounding_sphere, draw_ellipsoid, draw_sphere, fitting_ellipsoid
from LeFusion.dataset.cases import Layout, patient_of
from LeFusion.dataset.dataset import collate
from LeFusion.errors import UserError

LAYOUT = Layout()
HEART = Layout(mask_names=(), lesion_labels=(3, 4), other_labels=(1, 2), depth_axis=2)
SIZE = (8, 12, 12)
CUBES, FLAT = (1.0, 1.0, 1.0), (3.0, 1.0, 1.0)


def hook() -> np.ndarray:
    """(2, 3, 5) without any symmetry."""
    lesion = np.zeros((2, 3, 5), np.uint8)
    lesion[0, 0] = lesion[0, :, 0] = lesion[1, 1, 0] = 1
    return lesion


def save(path, array, spacing=CUBES):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1])), path)
    return path


def volume(lesion, start=(6, 7, 1), shape=(16, 20, 18)):
    array = np.zeros(shape, lesion.dtype)
    array[tuple(slice(s, s + n) for s, n in zip(start, lesion.shape, strict=True))] = lesion
    return array


@pytest.fixture
def folder(tmp_path):
    """Mask/A/A_Mask_1, Mask/B/B_Mask_1, Mask/B_Mask_2; B is of the test part."""
    for number, name in enumerate(("A/A_Mask_1", "B/B_Mask_1", "B_Mask_2")):
        save(tmp_path / "Mask" / f"{name}.nii.gz", volume(hook(), (number, 4, 5)))
    (tmp_path / "test.txt").write_text("B_Vol_1\nB_Mask_2.nii.gz\n\n")
    return tmp_path


def dataset_of(tmp_path, lesion, layout=LAYOUT, spacing=CUBES, **options) -> MaskDataset:
    path = save(tmp_path / "X.nii.gz", volume(lesion), spacing)
    return MaskDataset({"X": path}, layout, options.pop("size", SIZE), **options)


def test_masks_are_found_in_every_kind_of_folder(folder):
    expected = ["A_Mask_1", "B_Mask_1", "B_Mask_2"]
    (folder / "Image").mkdir()
    for root in (folder, folder / "Mask", folder / "Image"):
        assert list(find_masks(root, LAYOUT)) == expected
    (folder / "Mask").rename(folder / "nodules")
    assert list(find_masks(folder / "nodules", LAYOUT)) == expected


def test_the_split_goes_by_image_names_or_mask_names(folder):
    given = (folder, LAYOUT, folder / "test.txt")
    assert list(find_masks(*given, "train")) == ["A_Mask_1"]
    assert list(find_masks(*given, "test")) == ["B_Mask_1", "B_Mask_2"]
    assert len(find_masks(*given, "all")) == 3


def test_bad_folders_and_splits_are_refused(folder):
    with pytest.raises(ValueError, match="'every'"):
        find_masks(folder, LAYOUT, split="every")
    with pytest.raises(ValueError, match="test.txt"):
        find_masks(folder, LAYOUT, split="train")
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        find_masks(folder, LAYOUT, folder / "nowhere.txt", "train")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_masks(folder / "nowhere", LAYOUT)
    with open(folder / "test.txt", "a") as file:
        file.write("C_Vol_1\n")
    with pytest.raises(FileNotFoundError, match="C_Mask_1"):
        find_masks(folder, LAYOUT, folder / "test.txt", "test")
    (folder / "test.txt").write_text("A_Vol_1\nB_Vol_1\nB_Vol_2\n")
    with pytest.raises(FileNotFoundError, match=r"no mask found \(split train, 3 masks"):
        find_masks(folder, LAYOUT, folder / "test.txt", "train")


def test_an_item_is_the_centred_lesion_and_its_sphere(tmp_path):
    item = dataset_of(tmp_path, hook())[0]
    expected = np.zeros(SIZE)
    expected[3:5, 4:7, 3:8] = hook()
    assert torch.equal(item["mask"], torch.from_numpy(expected * 2 - 1).float()[None])
    inside = draw_sphere(bounding_sphere(expected), SIZE)
    assert torch.equal(item["sphere"], torch.where(inside, 1.0, -1.0)[None])
    assert item["name"] == "X"
    assert item["diameter_mm"] == pytest.approx((6 / np.pi * hook().sum()) ** (1 / 3))
    released = dataset_of(tmp_path, hook(), sphere="released")[0]["sphere"]
    assert set(released.unique().tolist()) == {1, 255} and torch.equal(released == 1, inside[None])


def test_labels_depth_and_spacing_follow_the_layout(tmp_path):
    lesion = hook()
    lesion[0, 0, 1:3] = 2
    labels = np.where(lesion == 2, 4, lesion * 3).astype(np.uint8)
    array = np.moveaxis(volume(labels), 0, 2)
    array[0, 0, 0] = 1  # another label
    found = read_lesion("h", save(tmp_path / "h.nii.gz", array, (1.5, 2.0, 8.0)), HEART)
    assert np.array_equal(found.lesion, hook() > 0) and found.spacing_mm == (8.0, 1.5, 2.0)
    assert found.diameter_mm == pytest.approx((6 / np.pi * hook().sum() * 24) ** (1 / 3))
    one = Layout(mask_names=(), lesion_labels=(4,), other_labels=(1, 2, 3), depth_axis=2)
    assert read_lesion("h", tmp_path / "h.nii.gz", one).lesion.shape == (1, 1, 2)


def test_patients_are_held_out_whole_by_seed_and_name_only():
    names = [f"P{patient}_Mask_{n}" for patient in range(20) for n in range(1 + patient % 3)]
    masks = {name: Path(name) for name in names}
    train, held_out = hold_out(masks, Layout(), 0.2, seed=0)
    assert train | held_out == masks and not train.keys() & held_out.keys()
    patients = [{patient_of(name) for name in part} for part in (train, held_out)]
    assert not patients[0] & patients[1] and len(patients[1]) == 4
    reverse = dict(reversed(masks.items()))
    assert hold_out(reverse, Layout(), 0.2, seed=0) == (train, held_out)
    assert hold_out(masks, Layout(), 0.2, seed=1) != (train, held_out)
    assert len(hold_out(masks, Layout(), 1e-3, seed=0)[1]) >= 1
    larger = hold_out(masks, Layout(), 0.5, seed=0)[1]
    assert held_out.keys() <= larger.keys()
    for share in (0, 1, -0.5, "half", 0.99):
        with pytest.raises(UserError, match="validation_share"):
            hold_out(masks, Layout(), share, seed=0)


def nan(array):
    array = array.astype(np.float32)
    array[0, 0, 0] = np.nan
    return array


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda a: a * 0, "no lesion voxel"),
        (lambda a: a * 5, "unknown values 5"),
        (lambda a: a * 0.5, "unknown values 0.5"),
        (nan, "NaN"),
        (lambda a: a[0], "shape"),
        (lambda a: a[..., None].repeat(2, 3), "shape"),
    ],
)
def test_a_bad_mask_is_refused_in_one_line_with_its_file(tmp_path, change, text):
    path = save(tmp_path / "bad.nii.gz", change(volume(hook())))
    with pytest.raises(ValueError, match=text) as refused:
        MaskDataset({"bad": path}, LAYOUT, SIZE)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_empty_masks_are_skipped_on_request_and_large_ones_always(tmp_path):
    masks = {
        "empty": save(tmp_path / "e.nii.gz", volume(hook()) * 0),
        "large": save(tmp_path / "l.nii.gz", volume(np.ones((9, 3, 3), np.uint8), (0, 0, 0))),
        "fits": save(tmp_path / "f.nii.gz", volume(np.ones((8, 3, 3), np.uint8), (0, 0, 0))),
    }
    dataset = MaskDataset(masks, LAYOUT, SIZE, skip_empty=True)
    assert ([lesion.name for lesion in dataset.lesions], dataset.too_large, dataset.empty) == (
        ["fits"],
        ["large"],
        ["empty"],
    )
    with pytest.raises(ValueError, match=r"no lesion fits.*of 1 masks 1 are larger"):
        MaskDataset({"large": masks["large"]}, LAYOUT, SIZE)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"turns": "some"}, "turns='some'"),
        ({"max_shift": -1}, "max_shift=-1"),
        ({"sphere": "round"}, "sphere='round'"),
        ({"size": (8, 8)}, r"\(8, 8\)"),
    ],
)
def test_bad_options_are_named(tmp_path, options, text):
    with pytest.raises(ValueError, match=text):
        dataset_of(tmp_path, hook(), **options)


def variants(dataset, draws=200):
    """The distinct shapes among so many draws, as seen in their bounding boxes."""
    seen = {}
    for draw in range(draws):
        mask = dataset[(0, draw)]["mask"][0].numpy() > 0
        box = mask[ndimage.find_objects(mask.astype(int))[0]]
        assert box.sum() == hook().sum()
        seen[(box.shape, box.tobytes())] = box
    return list(seen.values())


def test_flips_and_turns_are_all_that_chance_may_do(tmp_path):
    assert len(variants(dataset_of(tmp_path, hook()))) == 1  # not asked for
    assert len(variants(dataset_of(tmp_path, hook(), augment=True, turns="none"))) == 8
    plane = variants(dataset_of(tmp_path, hook(), augment=True))
    assert len(plane) == 16 and {box.shape for box in plane} == {(2, 3, 5), (2, 5, 3)}
    assert len(variants(dataset_of(tmp_path, hook(), augment=True, turns="all"), 600)) == 48


def test_a_turn_that_does_not_fit_is_not_drawn(tmp_path):
    flat = dataset_of(tmp_path, hook(), augment=True, turns="all", size=(2, 4, 8))
    assert {box.shape for box in variants(flat)} == {(2, 3, 5)}


def test_only_cubes_are_turned_out_of_the_plane(tmp_path):
    with pytest.raises(ValueError, match="X.nii.gz.*no cubes; turns=plane"):
        dataset_of(tmp_path, hook(), spacing=FLAT, augment=True, turns="all")
    assert len(dataset_of(tmp_path, hook(), spacing=FLAT, turns="all")) == 1  # never turned


def test_shifts_stay_within_their_bound_and_the_volume(tmp_path):
    def places(**options):
        dataset = dataset_of(tmp_path, hook(), augment=True, turns="none", **options)
        masks = [dataset[(0, draw)]["mask"][0].numpy() > 0 for draw in range(300)]
        return np.array([[part.start for part in ndimage.find_objects(m.astype(int))[0]] for m in masks])

    found = places(max_shift=2)
    assert (found.min(axis=0) == (1, 2, 1)).all() and (found.max(axis=0) == (5, 6, 5)).all()
    assert set(map(tuple, places(max_shift=0))) == {(3, 4, 3)}
    far = places(max_shift=50)
    assert (far.min(axis=0) == 0).all() and (far.max(axis=0) == np.subtract(SIZE, hook().shape)).all()


def test_draws_depend_on_seed_name_and_number_only(folder):
    masks = find_masks(folder, LAYOUT)
    one, two = (MaskDataset(masks, LAYOUT, SIZE, augment=True, seed=seed) for seed in (0, 1))
    reverse = MaskDataset(dict(reversed(masks.items())), LAYOUT, SIZE, augment=True)
    for draw in range(5):
        np.random.seed(draw)
        assert torch.equal(one[(0, draw)]["mask"], reverse[(2, draw)]["mask"])

    def item(dataset, index):
        return torch.stack([dataset[(index, draw)]["mask"] for draw in range(10)])

    assert not torch.equal(item(one, 0), item(two, 0)) and not torch.equal(item(one, 0), item(one, 1))
    assert not torch.equal(one[(0, 1)]["mask"], one[(0, 2)]["mask"])


def test_the_sphere_is_that_of_the_mask_as_it_is_shown(tmp_path):
    dataset = dataset_of(tmp_path, hook(), augment=True)
    for draw in range(20):
        item = dataset[(0, draw)]
        inside = draw_sphere(bounding_sphere(item["mask"][0] > 0), SIZE)
        assert torch.equal(item["sphere"][0] == 1, inside)


def test_items_make_batches(folder):
    dataset = MaskDataset(find_masks(folder, LAYOUT), LAYOUT, SIZE)
    batch = collate([dataset[0] | {"draw": 4}, dataset[1] | {"draw": 5}])
    assert batch["mask"].shape == batch["sphere"].shape == (2, 1, *SIZE)
    assert batch["draw"] == [4, 5] and batch["name"] == ["A_Mask_1", "B_Mask_1"]
    assert dataset.spacing_mm == (1.0, 1.0, 1.0)


def test_placing_by_hand():
    lesion = np.ones((1, 2, 3), bool)
    assert np.argwhere(place(lesion, (3, 4, 4), (-9, 0, 1)))[[0, -1]].tolist() == [[0, 1, 1], [0, 2, 3]]


# --- lesions larger than the box ------------------------------------------------


def lesion_of(array, spacing=CUBES):
    return LesionMask("L", "L.nii.gz", array > 0, spacing)


def test_twice_as_large_voxels_by_hand():
    shown = lesion_of(hook().repeat(2, 0).repeat(2, 1).repeat(2, 2), FLAT).shrunk((2, 4, 8))
    assert np.array_equal(shown.lesion, hook() > 0) and shown.lesion.dtype == bool
    assert shown.spacing_mm == (6.0, 2.0, 2.0) and (shown.name, shown.path) == ("L", "L.nii.gz")


@pytest.mark.parametrize("size", [(8, 12, 12), (5, 16, 16), (16, 16, 7)])
@pytest.mark.parametrize("spacing", [CUBES, FLAT])
def test_a_shrunk_lesion_fits_and_keeps_its_size_in_mm(size, spacing):
    d, h, w = np.mgrid[:17, :26, :21]
    lesion = ((d - 8) / 8.4) ** 2 + ((h - 12.5) / 12.9) ** 2 + ((w - 10) / 10.4) ** 2 <= 1
    lesion &= ~((d > 8) & (w > 10))  # a notch
    before = lesion_of(lesion, spacing)
    after = before.shrunk(size)
    assert all(n <= most for n, most in zip(after.lesion.shape, size, strict=True))
    assert any(n == most for n, most in zip(after.lesion.shape, size, strict=True))
    assert all(after.lesion.any(axis=others)[[0, -1]].all() for others in ((1, 2), (0, 2), (0, 1)))  # tight
    factor = max(n / most for n, most in zip(lesion.shape, size, strict=True))
    assert after.spacing_mm == pytest.approx(tuple(s * factor for s in spacing))
    assert after.diameter_mm == pytest.approx(before.diameter_mm, rel=0.08)
    extent = [np.multiply(m.lesion.shape, m.spacing_mm) for m in (before, after)]
    assert extent[1] == pytest.approx(extent[0], abs=0.75 * max(after.spacing_mm))
    quarter = after.lesion[after.lesion.shape[0] // 2 + 1 :, :, after.lesion.shape[2] // 2 + 1 :]
    assert not quarter.any()


def test_a_thin_lesion_does_not_vanish():
    sheet = np.zeros((1, 1, 60), np.uint8) + 1
    shown = lesion_of(sheet).shrunk(SIZE)
    assert shown.lesion.shape == (1, 1, 12) and shown.lesion.all() and shown.spacing_mm == (5.0, 5.0, 5.0)


def test_large_lesions_are_shown_on_larger_voxels_on_request(tmp_path):
    large = hook().repeat(3, 0).repeat(3, 1).repeat(3, 2)
    masks = {
        "large": save(tmp_path / "l.nii.gz", volume(large, (2, 2, 2))),  # (6, 9, 15) into (8, 12, 12)
        "small": save(tmp_path / "s.nii.gz", volume(hook())),
        "fits": save(tmp_path / "f.nii.gz", volume(np.ones(SIZE, np.uint8), (0, 0, 0))),
    }
    assert [lesion.name for lesion in MaskDataset(masks, LAYOUT, SIZE).lesions] == ["small", "fits"]
    shown = MaskDataset(masks, LAYOUT, SIZE, shrink=True)
    assert [lesion.name for lesion in shown.lesions] == ["large", "small", "fits"]
    assert shown.too_large == ["large"] and shown.spacing_mm == CUBES  # the median
    assert shown.lesions[0].spacing_mm == pytest.approx((1.25, 1.25, 1.25))
    item = shown[0]
    inside = draw_sphere(bounding_sphere(item["mask"][0] > 0), SIZE)
    assert item["mask"].shape == (1, *SIZE) and torch.equal(item["sphere"][0] == 1, inside)
    assert item["diameter_mm"] == pytest.approx((6 / np.pi * large.sum()) ** (1 / 3), rel=0.1)
    without = MaskDataset({name: masks[name] for name in ("small", "fits")}, LAYOUT, SIZE)
    assert all(torch.equal(shown[i + 1]["mask"], without[i]["mask"]) for i in range(2))  # others stay
    assert len(MaskDataset({"large": masks["large"]}, LAYOUT, SIZE, shrink=True)) == 1


def test_shrunk_cubes_are_cubes_still(tmp_path):
    large = hook().repeat(3, 0).repeat(3, 1).repeat(3, 2)
    path = save(tmp_path / "l.nii.gz", volume(large, (2, 2, 2)))
    dataset = MaskDataset({"L": path}, LAYOUT, SIZE, shrink=True, augment=True, turns="all")
    voxels = {int((dataset[(0, draw)]["mask"] > 0).sum()) for draw in range(30)}
    assert voxels == {int(dataset.lesions[0].lesion.sum())}  # never cut


def test_the_ellipsoid_is_that_of_the_mask_as_it_is_shown(folder):
    options = {"augment": True, "guide": "ellipsoid"}
    dataset = MaskDataset(find_masks(folder, LAYOUT), LAYOUT, (16, 24, 24), **options)
    for draw in range(5):
        item = dataset[0, draw]
        mask, shown = item["mask"][0] > 0, item["sphere"][0]
        ellipsoid = draw_ellipsoid(fitting_ellipsoid(mask), mask.shape)
        sphere = draw_sphere(bounding_sphere(mask), mask.shape)
        assert torch.equal(shown == 1, sphere & ellipsoid) and torch.equal(shown > -1, sphere)
    rows = dataset.ellipsoids()
    assert len(rows) == len(dataset) and rows == sorted(rows)
    assert len(dataset.ellipsoids(2)) == 2
    for radius, longest, middle, shortest in rows:
        assert radius > 0 and longest >= middle >= shortest > 0
    with pytest.raises(ValueError, match="guide='cube'"):
        MaskDataset(find_masks(folder, LAYOUT), LAYOUT, guide="cube")
