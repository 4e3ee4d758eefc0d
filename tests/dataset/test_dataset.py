"""Items of the training data set: crops, flips, histograms, by address."""

import numpy as np
import pytest
import torch
from lesion_cases import TWO_CLASSES, make_case, refused, same, save_case
from torch.utils.data import DataLoader

from LeFusion.dataset.augmentation import Augmentation
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.dataset import LesionDataset, collate
from LeFusion.dataset.edit import edit_masks
from LeFusion.dataset.loading import load_case
from LeFusion.textures.histograms import lesion_histogram

FLIPS = Augmentation(flips=True)


def test_item_by_hand(tmp_path):
    case = make_case(tmp_path)
    item = LesionDataset([case], Layout(), size=(8, 16, 16))[0]
    assert item["image"].shape == (1, 8, 16, 16) and item["image"].dtype == torch.float32
    assert item["lesions"].shape == (1, 8, 16, 16) and item["lesions"].dtype == torch.bool
    assert item["image"].min() == -1 and item["image"].max() == 1
    assert item["lesions"].sum() == 3 * 5 * 4
    assert item["histogram"].shape == (16,) and item["histogram"].sum().item() == pytest.approx(1)
    assert item["name"] == "A" and item["reference_mean"] is None


def test_depth_last_two_classes_minmax(tmp_path):
    rng = np.random.default_rng(1)
    image = rng.integers(5, 251, (20, 24, 7)).astype(np.int16)
    image[0, 0, 0], image[0, 0, 1] = 5, 250
    mask = rng.integers(0, 4, image.shape).astype(np.uint8)  # label 4 does not occur
    case = save_case(tmp_path, "P1", image, mask)
    loaded = load_case(case, TWO_CLASSES, "minmax")
    assert loaded.image_dhw.shape == (7, 20, 24) and loaded.lesions_dhw.shape == (2, 7, 20, 24)
    assert (loaded.intensity_map.low, loaded.intensity_map.high) == (5, 250)
    np.testing.assert_array_equal(loaded.lesions_dhw[0], (mask == 3).transpose(2, 0, 1))
    np.testing.assert_allclose(
        loaded.image_dhw, image.transpose(2, 0, 1) / 245 * 2 - 2 * 5 / 245 - 1, atol=1e-6
    )
    item = LesionDataset([case], TWO_CLASSES, size=(8, 24, 24), window="minmax")[0]
    assert item["histogram"].shape == (32,)
    assert item["histogram"][:16].sum().item() == pytest.approx(1) and not item["histogram"][16:].any()


def test_what_overhangs_is_air_without_lesion(tmp_path):
    case = make_case(tmp_path, shape=(5, 20, 24), lesion=((0, 4, 5), (5, 9, 9)))
    item = LesionDataset([case], Layout(), size=(8, 32, 32))[0]
    loaded = load_case(case, Layout(), (-1000, 400))
    assert item["image"][0, 0].unique().tolist() == [-1] and not item["lesions"][0, 0].any()
    assert item["lesions"].sum() == loaded.lesions_dhw.sum()
    assert torch.equal(item["image"][0, 1:6, 6:26, 4:28], loaded.image_dhw)


def test_histogram_is_of_the_whole_lesion_even_where_the_crop_is_not(tmp_path):
    case = make_case(tmp_path, lesion=((0, 0, 0), (12, 20, 24)))
    item = LesionDataset([case], Layout(), size=(4, 8, 8), region="random")[0]
    loaded = load_case(case, Layout(), (-1000, 400))
    counts, _ = np.histogram(loaded.image_dhw.numpy(), bins=16, range=(-1, 1))
    np.testing.assert_allclose(item["histogram"], counts / counts.sum(), rtol=1e-5)
    assert item["lesions"].all()


def test_draws_depend_on_their_address_only(tmp_path):
    cases = [make_case(tmp_path, name, seed=seed) for seed, name in enumerate("ABC")]
    options = {"size": (6, 10, 10), "region": "random", "augmentation": FLIPS}
    dataset = LesionDataset(cases, Layout(), **options)
    reference = {(i, d): dataset.draw(i, d) for i in range(3) for d in range(6)}
    uncached = LesionDataset(cases[::-1], Layout(), cache_bytes=0, **options)
    for i, d in reversed(reference):
        assert same(uncached[(2 - i, d)], reference[(i, d)])
    assert same(dataset[1], reference[(1, 0)])
    assert len({reference[(0, d)]["image"].numpy().tobytes() for d in range(6)}) > 3
    masks = [[reference[(i, d)]["lesions"].numpy().tobytes() for d in range(6)] for i in (0, 1)]
    assert masks[0] != masks[1]
    other_seed = LesionDataset(cases, Layout(), seed=1, **options)
    assert not all(same(other_seed[(0, d)], reference[(0, d)]) for d in range(6))


def test_draws_are_the_same_in_worker_processes(tmp_path):
    cases = [make_case(tmp_path, name, seed=seed) for seed, name in enumerate("AB")]
    dataset = LesionDataset(cases, Layout(), size=(6, 10, 10), region="random", augmentation=FLIPS)
    addresses = [(1, 4), (0, 4), (1, 5), (0, 5)]
    loader = DataLoader(dataset, batch_size=2, sampler=addresses, num_workers=1, collate_fn=collate)
    batches = list(loader)
    assert batches[0]["name"] == ["B", "A"]
    for batch, pair in zip(batches, (addresses[:2], addresses[2:]), strict=True):
        assert torch.equal(batch["image"], torch.stack([dataset[address]["image"] for address in pair]))


def test_random_crops_hold_the_lesion_and_flips_move_both(tmp_path):
    rng = np.random.default_rng(5)
    image = np.full((12, 20, 24), -800, np.int16)
    mask = np.zeros(image.shape, np.uint8)
    mask[3:6, 4:9, 5:9] = 1
    image[mask == 1] = rng.integers(100, 300, int(mask.sum()))
    case = save_case(tmp_path, "A", image, mask)
    dataset = LesionDataset([case], Layout(), size=(6, 10, 10), region="random", augmentation=FLIPS)
    for draw in range(20):
        item = dataset.draw(0, draw)
        assert item["lesions"].sum() == mask.sum()
        assert torch.equal(item["image"] > 0, item["lesions"])


@pytest.mark.parametrize("region", ["random", "whole"])
def test_far_nodules_of_one_mask_are_shown_whole_one_at_a_time(tmp_path, region):
    mask = np.zeros((30, 40, 40), np.uint8)
    mask[2:6, 3:7, 4:8] = mask[24:28, 30:34, 31:36] = 1
    case = save_case(tmp_path, "A", np.where(mask, 50, -800).astype(np.int16), mask)
    dataset = LesionDataset([case], Layout(), size=(8, 16, 16), region=region)
    shown = [int(dataset.draw(0, draw)["lesions"].sum()) for draw in range(12)]
    assert set(shown) == {64, 80}
    both = LesionDataset([case], Layout(), size=(30, 40, 40), region=region)
    assert int(both[0]["lesions"].sum()) == 144  # where they fit together


def test_the_rim_s_width_is_drawn_by_address(tmp_path):
    """Of 2, 3 and 4 mm, as often; one in seven samples has none."""
    case = make_case(tmp_path)
    options = {"size": (12, 20, 24), "region": "random", "edit_margin_mm": 4, "least_margin_mm": 2}
    dataset, again = (LesionDataset([case], Layout(), **options) for _ in range(2))
    loaded = load_case(case, Layout(), (-1000, 400))
    widths = {0: loaded.lesions_dhw} | {
        mm: edit_masks(loaded.lesions_dhw, mm, loaded.spacing_mm) for mm in (2, 3, 4)
    }
    sums = {int(mask.sum()): mm for mm, mask in widths.items()}
    drawn = [sums[int(dataset.draw(0, draw)["edit"].sum())] for draw in range(200)]
    counts = {mm: drawn.count(mm) for mm in widths}
    assert sorted(sums.values()) == [0, 2, 3, 4] and counts[0] < min(counts[mm] for mm in (2, 3, 4))
    assert min(counts.values()) > 2
    assert all(same(again.draw(0, draw), dataset.draw(0, draw)) for draw in (7, 3))


def test_collate_stacks_tensors_and_lists_the_rest(tmp_path):
    dataset = LesionDataset(
        [make_case(tmp_path), make_case(tmp_path, "B", seed=2)], Layout(), size=(8, 16, 16)
    )
    batch = collate([dataset[0], dataset[1]])
    assert batch["image"].shape == (2, 1, 8, 16, 16) and batch["lesions"].dtype == torch.bool
    assert batch["histogram"].shape == (2, 16)
    assert batch["name"] == ["A", "B"]


def test_bad_cases_are_refused_by_file_and_value(tmp_path):
    image = np.random.default_rng(0).integers(-1000, 400, (12, 20, 24)).astype(np.int16)
    mask = np.zeros(image.shape, np.uint8)
    mask[4, 5:7, 6] = 1

    case = save_case(tmp_path, "shape", image, mask[:-1])
    refused(case, case.mask_path, case.image_path, "(11, 20, 24)", "(12, 20, 24)")
    case = save_case(tmp_path, "empty", image, mask * 0)
    refused(case, case.mask_path, "no lesion voxel", "label 1")
    case = save_case(tmp_path, "cavity", image, mask * 2)
    refused(case, case.mask_path, "no lesion voxel", "label 3 or 4", "0, 2", layout=TWO_CLASSES)
    case = save_case(tmp_path, "unknown", image, mask * 7)
    refused(case, case.mask_path, "unknown values 7", "only 0, 1")
    case = save_case(tmp_path, "fraction", image, mask * np.float32(0.5))
    refused(case, case.mask_path, "0.5", "only 0, 1")
    case = save_case(tmp_path, "probability", image, np.random.default_rng(0).random(image.shape))
    refused(case, case.mask_path, "...")

    case = save_case(tmp_path, "nan", np.where(mask == 1, np.nan, 0).astype(np.float32), mask)
    refused(case, case.image_path, "2 NaN")
    case = save_case(tmp_path, "flat", image * 0, mask)
    refused(case, case.image_path, "minmax", window="minmax")
    case = save_case(tmp_path, "large", image, mask * 0 + 1)
    refused(case, case.mask_path, "(12, 20, 24)", "(8, 16, 16)")


def test_wrong_settings_are_refused_at_once():
    with pytest.raises(ValueError, match="'hole'"):
        LesionDataset([], Layout(), region="hole")
    with pytest.raises(ValueError, match=r"\(32, 64\)"):
        LesionDataset([], Layout(), size=(32, 64))
    assert len(LesionDataset([], Layout())) == 0


def test_contrast_changes_the_lesion_and_its_histogram_with_it(tmp_path):
    contrast = Augmentation(lesion_contrast=(0.3, 0.4))
    dataset = LesionDataset([make_case(tmp_path)], Layout(), size=(12, 24, 24), augmentation=contrast)
    plain = LesionDataset([make_case(tmp_path)], Layout(), size=(12, 24, 24))
    drawn = [dataset[(0, draw)] for draw in range(24)]
    changed = [item for item in drawn if not torch.equal(item["image"], plain[0]["image"])]
    assert 0 < len(changed) < len(drawn)
    for item in changed:
        outside = ~item["lesions"][0]
        assert torch.equal(item["image"][0][outside], plain[0]["image"][0][outside])
        assert torch.equal(item["histogram"], lesion_histogram(item["image"], item["lesions"]))
        assert not torch.equal(item["histogram"], plain[0]["histogram"])
    assert same(dataset[(0, 3)], dataset[(0, 3)])
    with pytest.raises(ValueError, match="lesion_contrast"):
        Augmentation(lesion_contrast=(2.0, 0.5))


def test_items_of_another_spacing(tmp_path):
    dataset = LesionDataset([make_case(tmp_path)], Layout(), size=(6, 32, 16), spacing_mm=(3, 1, 4))
    item = dataset[0]
    assert item["image"].shape == (1, 6, 32, 16)
    loaded = load_case(dataset.cases[0], Layout(), (-1000, 400), (3, 1, 4))
    assert torch.equal(item["image"][0, :, 1:-1, 2:-2], loaded.image_dhw)
    assert torch.equal(item["histogram"], lesion_histogram(loaded.image_dhw[None], loaded.lesions_dhw))
