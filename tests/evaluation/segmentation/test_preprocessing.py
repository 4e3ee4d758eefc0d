from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from evaluation_pipeline.segmentation.preprocessing import (
    AddressedDataset,
    Preprocessing,
    address_seed,
    augmentation,
    cached_dataset,
    check_pair,
    check_slices,
    fingerprint,
)
from LeFusion.dataset.scans import read_volume
from LeFusion.errors import UserError


def write(path: Path, array: np.ndarray, spacing_mm=(1, 1, 1)) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing_mm, 1])), path)
    return path


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(-1200, 600, (12, 20, 16)).astype(np.int16)
    label = np.zeros(image.shape, np.uint8)
    label[2:5, 12:18, 3:9] = 1
    return write(tmp_path / "image.nii.gz", image), write(tmp_path / "label.nii.gz", label)


def test_ct_is_a_fixed_window_and_mr_its_own(pair):
    volume = read_volume(pair[0])
    ct = Preprocessing("CT", (1, 1, 1), False, (8, 8, 8)).image(volume)
    np.testing.assert_allclose(ct[0], np.clip((volume.values + 1000) / 1400, 0, 1), atol=1e-6)
    mr = Preprocessing("MR", (1, 1, 1), False, (8, 8, 8)).image(volume)
    assert float(mr.mean()) == pytest.approx(0, abs=1e-5) and float(mr.std()) == pytest.approx(1, abs=1e-3)
    assert ct.shape == mr.shape == (1, 12, 20, 16) and ct.dtype == torch.float32


def test_other_spacings_are_resampled_and_the_way_back_has_the_stored_shape(tmp_path):
    z, y, x = np.meshgrid(*(np.arange(n) for n in (10, 16, 12)), indexing="ij")
    ramp = (x * 50.0 - 500).astype(np.float32)  # along the axis that is resampled
    volume = read_volume(write(tmp_path / "a.nii.gz", ramp, (2, 1, 1.5)))
    preprocessing = Preprocessing("CT", (1, 1, 0.75), True, (8, 8, 8))
    fine = preprocessing.image(volume)
    assert fine.shape == (1, 20, 16, 24)
    steps = np.diff(fine[0, 5, 5].numpy())[2:-2]
    np.testing.assert_allclose(steps, 25 / 1400, rtol=1e-3)
    dark = torch.from_numpy(np.tile(np.linspace(1, 0, 24, dtype=np.float32), (1, 20, 16, 1)))
    back = preprocessing.to_stored(torch.cat([dark, 1 - dark]), volume)
    assert back.dtype == np.uint8 and np.array_equal(back, x > 5)
    labels = preprocessing.label(
        read_volume(write(tmp_path / "b.nii.gz", (x > 5).astype(np.uint8), (2, 1, 1.5)))
    )
    assert set(labels.unique().tolist()) == {0, 1} and labels.shape == fine.shape


def centre_mm(weights, spacing_mm):
    """Centre of gravity, mm from the corner of the volume."""
    places = np.stack(np.indices(weights.shape), axis=-1) + 0.5
    return (places * weights[..., None]).sum((0, 1, 2)) / weights.sum() * spacing_mm


@pytest.mark.parametrize("mm", [0.7, 1.5, 2.0, 3.0, 5.0])
def test_image_and_label_stay_at_one_place_at_every_spacing(tmp_path, mm):
    """Of a ball in the middle, and in the mean of balls anywhere: one is as exact as its voxels allow."""
    network = Preprocessing("CT", (mm, mm, mm), True, (16, 16, 16))
    middle, others = np.full((1, 3), 19.5), np.random.default_rng(0).uniform(16, 23, (12, 3))
    for centres in (middle, others):
        shifts = []
        for centre in centres:
            ball = sum((g - c) ** 2 for g, c in zip(np.ogrid[:40, :40, :40], centre, strict=True)) <= 9.0**2
            scan = read_volume(write(tmp_path / "i.nii.gz", np.where(ball, 50, -850).astype(np.int16)))
            label = read_volume(write(tmp_path / "l.nii.gz", ball.astype(np.uint8)))
            values, labels = network.image(scan)[0].double().numpy(), network.label(label)[0].numpy()
            back = network.to_stored(torch.from_numpy(np.stack([1 - labels, labels])), scan)
            size, true = 40 / np.array(labels.shape), centre_mm(ball, 1)
            np.testing.assert_allclose(centre_mm(values - values.min(), size), true, atol=0.05 * mm)
            shifts.append([centre_mm(labels, size) - true, centre_mm(back, 1) - true])
            assert 0.7 < back.sum() / ball.sum() < 1.4
        assert np.abs(np.mean(shifts, axis=0)).max() < 0.1 * mm


def test_no_small_lesion_is_lost_at_thick_slices_nor_on_the_way_back(tmp_path):
    """Ten nodules of 3 mm, at all heights within a slice of 5 mm."""
    grid, nodules = np.ogrid[:60, :100, :24], np.zeros((60, 100, 24), np.uint8)
    places = [(10.3 + 4.1 * number, 5 + 9 * number, 12) for number in range(10)]
    for number, place in enumerate(places):
        nodules[sum((g - c) ** 2 for g, c in zip(grid, place, strict=True)) <= 1.5**2] = 1 + number % 2

    def check(found, spacing_mm, tolerance_mm):
        for number, place in enumerate(places):
            regions, _ = ndimage.label(found == 1 + number % 2, np.ones((3, 3, 3)))
            centres = [centre_mm(regions == n, spacing_mm) for n in range(1, regions.max() + 1)]
            assert len(centres) == 5
            assert min(np.abs(at - place - 0.5).max() for at in centres) < tolerance_mm

    label = read_volume(write(tmp_path / "l.nii.gz", nodules))
    network = Preprocessing("CT", (5, 1.3, 1.3), True, (16, 16, 16))
    coarse = network.label(label)[0].numpy()
    check(coarse, (5, 100 / coarse.shape[1], 24 / coarse.shape[2]), 2.6)
    for spacing_mm in ((5, 1.3, 1.3), (0.6, 0.6, 0.6), (7, 4, 4)):  # of a scan that is predicted
        shape = tuple(round(n / s) for n, s in zip(nodules.shape, spacing_mm, strict=True))
        scan = read_volume(write(tmp_path / "s.nii.gz", np.zeros(shape, np.int16), spacing_mm))
        belongs = torch.stack([torch.from_numpy(coarse == value) * 0.9 for value in range(3)])
        check(network.to_stored(belongs, scan), spacing_mm, 2.6 + max(spacing_mm) / 2)


def test_labels_are_kept_where_nothing_is_resampled(pair):
    label = read_volume(pair[1])
    same = Preprocessing("CT", (1, 1, 1), True, (8, 8, 8))
    assert np.array_equal(same.label(label)[0], label.raw)


def test_the_fingerprint_is_the_median_and_says_whether_spacings_differ():
    same = fingerprint([(10, 20, 30), (12, 20, 30), (14, 20, 31)], [(1, 1, 1), (1, 1, 1.001), (1, 1, 1)])
    assert same == ((12, 20, 30), (1, 1, 1), False)
    shape, spacing_mm, resample = fingerprint([(10, 20, 30)] * 3, [(1, 1, 1), (2, 1, 1), (2, 1, 1)])
    assert spacing_mm == (2, 1, 1) and resample
    assert shape == (10, 20, 30)  # of 5, 10 and 10 slices at 2 mm


def test_pairs_that_do_not_belong_together_are_refused(tmp_path, pair):
    image, label = pair
    assert check_pair(image, label, [0, 1])[0] == (12, 20, 16)
    with pytest.raises(ValueError, match="label.nii.gz: holds the label 1; expected only 0, 2"):
        check_pair(image, label, [0, 2])
    half = write(tmp_path / "half.nii.gz", np.full((12, 20, 16), 0.5, np.float32))
    with pytest.raises(ValueError, match="half.nii.gz: holds the label 0.5"):
        check_pair(image, half, [0, 1])
    smaller = write(tmp_path / "smaller.nii.gz", np.zeros((12, 20, 15), np.uint8))
    with pytest.raises(ValueError, match=r"smaller.nii.gz: has shape \(12, 20, 15\) but .*; resample it"):
        check_pair(image, smaller, [0, 1])
    moved = write(tmp_path / "moved.nii.gz", np.zeros((12, 20, 16), np.uint8), (1, 1, 2))
    with pytest.raises(ValueError, match="moved.nii.gz: its affine differs .* lie up to 15 mm apart"):
        check_pair(image, moved, [0, 1])


def test_slices_along_another_axis_are_refused(tmp_path):
    """One case of a set that is stored slices first; an image to predict that is."""
    thick, first = (1.4, 1.4, 8), (8, 1.4, 1.4)
    paths = [Path("a"), Path("b"), Path("c"), Path("d")]
    check_slices(paths, [thick, thick, (1, 1, 1), (1.0, 1.4, 9)])
    check_slices(paths[:2], [(1, 1, 1), (1, 1, 1.1)])
    for spacings in ([thick, first, thick, thick], [thick, first, (1, 1, 1), thick]):
        with pytest.raises(UserError, match=r"^b: its slices lie along the stored axis 0 .*8 x 1.4 x 1.4 mm"):
            check_slices(paths, spacings)
    scan = read_volume(write(tmp_path / "scan.nii.gz", np.zeros((6, 40, 40), np.int16), first))
    for resample in (True, False):
        with pytest.raises(UserError, match=r"scan.nii.gz: .* axis 0 .* those of the training along axis 2"):
            Preprocessing("MR", thick, resample, (8, 8, 4)).image(scan)
    assert Preprocessing("MR", (2, 2, 2), True, (8, 8, 4)).image(scan).shape == (1, 24, 28, 28)


def test_an_image_of_another_spacing_is_resampled_also_where_the_training_had_one_spacing(tmp_path):
    network = Preprocessing("CT", (1, 1, 1), False, (8, 8, 8))
    for spacing_mm, shape in (((2, 1, 1), (20, 12, 8)), ((1.01, 1, 1), (10, 12, 8))):
        scan = read_volume(write(tmp_path / "scan.nii.gz", np.zeros((10, 12, 8), np.int16), spacing_mm))
        assert network.image(scan).shape == (1, *shape)


def dataset(pair, patch_size=(8, 8, 8), cache_rate=1.0, seed=0, modality="CT", lesions=(1,)):
    preprocessing = Preprocessing(modality, (1, 1, 1), False, patch_size)
    cached = cached_dataset([{"image": pair[0], "label": pair[1]}], preprocessing, lesions, cache_rate)
    return AddressedDataset(cached, augmentation(preprocessing), seed)


def test_samples_depend_on_seed_and_draw_alone(pair):
    samples, uncached = dataset(pair), dataset(pair, cache_rate=0.0)
    first = samples[0, 5]
    samples[0, 6]  # what was drawn before changes nothing
    for again in (samples[0, 5], uncached[0, 5]):
        assert torch.equal(first["image"], again["image"]) and torch.equal(first["label"], again["label"])
    for other in (samples[0, 6], dataset(pair, seed=1)[0, 5]):
        assert not torch.equal(first["image"], other["image"])


def test_crops_have_the_patch_size_and_half_of_them_the_lesion(pair):
    samples = dataset(pair, patch_size=(4, 4, 4))
    drawn = [samples[0, draw] for draw in range(60)]
    assert {sample["image"].shape for sample in drawn} == {(1, 4, 4, 4)}
    assert {value for sample in drawn for value in sample["label"].unique().tolist()} == {0, 1}
    with_lesion = sum(bool(sample["label"].any()) for sample in drawn)
    assert 25 <= with_lesion <= 55  # all crops centred on it, and some of the others


def test_small_volumes_are_padded(pair):
    assert dataset(pair, patch_size=(16, 24, 16))[0, 0]["image"].shape == (1, 16, 24, 16)


def test_a_case_without_lesion_is_cropped_anywhere(pair, tmp_path):
    empty = write(tmp_path / "empty.nii.gz", np.zeros((12, 20, 16), np.uint8))
    assert not dataset((pair[0], empty))[0, 0]["label"].any()


def test_image_and_label_move_together(tmp_path):
    label = np.zeros((24, 24, 24), np.uint8)
    label[6:18, 8:14, 10:20] = 1
    image = np.where(label, 300, -900).astype(np.int16)
    samples = dataset(
        (write(tmp_path / "i.nii.gz", image), write(tmp_path / "l.nii.gz", label)), (24, 24, 24)
    )
    for draw in range(12):
        sample = samples[0, draw]
        lesion = sample["label"] > 0
        assert float(sample["image"][lesion].median()) > float(sample["image"][~lesion].median()) + 0.3
        agree = ((sample["image"] > 0.5) == lesion).float().mean()
        assert agree > 0.95


def test_coarse_slices_are_not_turned_out_of_their_plane():
    affine = augmentation(Preprocessing("MR", (1.4, 1.4, 10), False, (8, 8, 4))).transforms[1]
    assert affine.rand_affine.rand_affine_grid.rotate_range[:2] == (0, 0)
    assert affine.rand_affine.rand_affine_grid.rotate_range[2] > 0


def test_seeds_of_addresses_differ():
    assert address_seed(0, "order", 1) == address_seed(0, "order", 1)
    assert len({address_seed(0, kind, n) for kind in ("a", "b") for n in range(50)}) == 100


def test_plain_form_reads_back():
    preprocessing = Preprocessing("MR", (1.5, 1.5, 10), True, (96, 96, 7))
    assert Preprocessing(**preprocessing.as_dict()) == preprocessing
