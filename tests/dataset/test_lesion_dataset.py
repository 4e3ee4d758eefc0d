"""Items hold what the networks need, random draws depend on their address only, and bad cases are named."""

import gzip

import nibabel
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from LeFusion.dataset.boxes import Box, crop
from LeFusion.dataset.cases import Case, Layout
from LeFusion.dataset.dataset import LesionDataset, collate
from LeFusion.dataset.intensity import IntensityMap
from LeFusion.dataset.loading import load_case
from LeFusion.errors import UserError
from LeFusion.textures.histograms import lesion_histogram

HEART = Layout(
    mask_names=(),
    lesion_labels=(3, 4),
    other_labels=(1, 2),
    cavity_label=1,
    myocardium_label=2,
    reference_label=2,
)
RELATIVE = Layout(lesion_labels=(1,), other_labels=(2,), reference_label=2)  # 2: healthy tissue
TWO_CLASSES = Layout(mask_names=(), lesion_labels=(3, 4), other_labels=(1, 2), depth_axis=2)


def make_case(folder, name="A", shape=(12, 20, 24), lesion=((3, 4, 5), (6, 9, 9)), label=1, seed=0):
    """A noisy CT-like case whose lesion is a block."""
    rng = np.random.default_rng(seed)
    image = rng.integers(-1100, 500, shape).astype(np.int16)
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(s, e) for s, e in zip(*lesion, strict=True))] = label
    return save_case(folder, name, image, mask)


def save_case(folder, name, image, mask, affine=None):
    affine = np.diag([1.5, 1.5, 2, 1]) if affine is None else affine
    case = Case(name, folder / f"{name}_Vol_1.nii.gz", folder / f"{name}_Mask_1.nii.gz")
    for path, array in ((case.image_path, image), (case.mask_path, mask)):
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return case


def same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        equal = (
            torch.equal(first[key], second[key]) if torch.is_tensor(first[key]) else first[key] == second[key]
        )
        if not equal:
            return False
    return True


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


def test_lesion_region_is_tight(tmp_path):
    cases = [make_case(tmp_path), make_case(tmp_path, "B", lesion=((1, 1, 1), (11, 19, 20)))]
    dataset = LesionDataset(cases, Layout(), size=(12, 32, 32), region="lesion", margin=1)
    assert [tuple(dataset[i]["image"].shape) for i in (0, 1)] == [(1, 5, 8, 8), (1, 12, 24, 24)]
    with pytest.raises(ValueError, match=r"one size.*8.*24"):
        collate([dataset[0], dataset[1]])


def test_histogram_is_of_the_whole_lesion_even_where_the_crop_is_not(tmp_path):
    case = make_case(tmp_path, lesion=((0, 0, 0), (12, 20, 24)))
    item = LesionDataset([case], Layout(), size=(4, 8, 8), region="random")[0]
    loaded = load_case(case, Layout(), (-1000, 400))
    counts, _ = np.histogram(loaded.image_dhw.numpy(), bins=16, range=(-1, 1))
    np.testing.assert_allclose(item["histogram"], counts / counts.sum(), rtol=1e-5)
    assert item["lesions"].all()


def test_draws_depend_on_their_address_only(tmp_path):
    cases = [make_case(tmp_path, name, seed=seed) for seed, name in enumerate("ABC")]
    options = {"size": (6, 10, 10), "region": "random", "augment": True}
    dataset = LesionDataset(cases, Layout(), **options)
    reference = {(i, d): dataset.draw(i, d) for i in range(3) for d in range(6)}
    uncached = LesionDataset(cases[::-1], Layout(), cache=False, **options)
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
    dataset = LesionDataset(cases, Layout(), size=(6, 10, 10), region="random", augment=True)
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
    dataset = LesionDataset([case], Layout(), size=(6, 10, 10), region="random", augment=True)
    for draw in range(20):
        item = dataset.draw(0, draw)
        assert item["lesions"].sum() == mask.sum()
        assert torch.equal(item["image"] > 0, item["lesions"])


@pytest.mark.parametrize("region", ["random", "whole", "lesion"])
def test_far_nodules_of_one_mask_are_shown_whole_one_at_a_time(tmp_path, region):
    mask = np.zeros((30, 40, 40), np.uint8)
    mask[2:6, 3:7, 4:8] = mask[24:28, 30:34, 31:36] = 1
    case = save_case(tmp_path, "A", np.where(mask, 50, -800).astype(np.int16), mask)
    dataset = LesionDataset([case], Layout(), size=(8, 16, 16), region=region, margin=2)
    shown = [int(dataset.draw(0, draw)["lesions"].sum()) for draw in range(12)]
    assert set(shown) == {64, 80}
    both = LesionDataset([case], Layout(), size=(30, 40, 40), region=region)
    assert int(both[0]["lesions"].sum()) == 144  # where they fit together


def test_changing_an_item_does_not_reach_the_cache(tmp_path):
    dataset = LesionDataset([make_case(tmp_path)], Layout(), size=(12, 20, 24))
    first = dataset[0]
    kept = {key: value.clone() if torch.is_tensor(value) else value for key, value in first.items()}
    first["image"].zero_()
    first["lesions"].fill_(True)
    first["histogram"].zero_()
    assert same(dataset[0], kept)


@pytest.mark.parametrize("region", ["whole", "lesion", "random"])
def test_the_cache_holds_what_items_need_and_nothing_of_the_files(tmp_path, region):
    case = save_case(tmp_path, "A", np.zeros((12, 16, 24), np.float64), np.ones((12, 16, 24), np.uint8))
    dataset = LesionDataset([case], Layout(), size=(12, 16, 24), region=region)
    dataset[0]
    (kept,) = dataset._cache.values()
    tensors = {name: value for name, value in kept.items() if torch.is_tensor(value)}
    assert tensors.keys() == {"image", "lesions", "histogram"}
    assert sum(value.untyped_storage().nbytes() for value in tensors.values()) < 5.1 * 12 * 16 * 24
    others = [value for name, value in kept.items() if name not in tensors]
    assert all(value is None or isinstance(value, float | tuple | IntensityMap) for value in others)


def test_a_cache_that_is_no_truth_value_is_refused(tmp_path):
    with pytest.raises(UserError, match="cache='yes' must be true or false"):
        LesionDataset([make_case(tmp_path)], Layout(), cache="yes")


@pytest.mark.parametrize("options", [{}, {"edit_margin_mm": 1.5, "histogram_matching": 1.0, "like_size": 2}])
def test_the_cache_is_bounded_and_what_is_drawn_the_same(tmp_path, options):
    """Of six cases two fit: the last that were asked for."""
    cases = [make_case(tmp_path, name, seed=seed) for seed, name in enumerate("ABCDEF")]
    options = {"size": (6, 10, 10), "region": "random", "augment": True} | options
    free = LesionDataset(cases, Layout(), **options)
    each = 12 * 20 * 24 * (6 if "edit_margin_mm" in options else 5)
    bounded, none, tiny = (
        LesionDataset(cases, Layout(), **options, **more)
        for more in ({"cache_bytes": 2 * each}, {"cache": False}, {"cache_bytes": each - 1})
    )
    for draw in range(3):
        for index in (0, 1, 1, 2, 5):
            first = free.draw(index, draw)
            assert all(same(other.draw(index, draw), first) for other in (bounded, none, tiny))
    assert len(bounded._cache) == 2 and not none._cache and not tiny._cache and len(free._cache) >= 4
    assert list(bounded._cache)[-1] == cases[5]


def test_cache_reads_each_file_once(tmp_path):
    case = make_case(tmp_path)
    dataset = LesionDataset([case], Layout(), size=(12, 20, 24))
    before = dataset[0]
    case.image_path.unlink()
    assert same(dataset[0], before)


def test_collate_stacks_tensors_and_lists_the_rest(tmp_path):
    dataset = LesionDataset(
        [make_case(tmp_path), make_case(tmp_path, "B", seed=2)], Layout(), size=(8, 16, 16)
    )
    batch = collate([dataset[0], dataset[1]])
    assert batch["image"].shape == (2, 1, 8, 16, 16) and batch["lesions"].dtype == torch.bool
    assert batch["histogram"].shape == (2, 16)
    assert batch["name"] == ["A", "B"]


def refused(case, *parts, layout=None, window=(-1000, 400), **options):
    with pytest.raises(ValueError) as caught:
        LesionDataset([case], layout or Layout(), size=(8, 16, 16), window=window, **options)[0]
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message


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
    refused(case, case.mask_path, "(12, 20, 24)", region="lesion")


def test_wrong_settings_are_refused_at_once():
    with pytest.raises(ValueError, match="'hole'"):
        LesionDataset([], Layout(), region="hole")
    with pytest.raises(ValueError, match=r"\(32, 64\)"):
        LesionDataset([], Layout(), size=(32, 64))
    assert len(LesionDataset([], Layout())) == 0


def test_contrast_changes_the_lesion_and_its_histogram_with_it(tmp_path):
    dataset = LesionDataset([make_case(tmp_path)], Layout(), size=(12, 24, 24), lesion_contrast=(0.3, 0.4))
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
        LesionDataset([], Layout(), lesion_contrast=(2.0, 0.5))


def test_resampled_to_a_spacing_and_back(tmp_path):
    case = make_case(tmp_path)  # 1.5 x 1.5 x 2 mm
    loaded, stored = (load_case(case, Layout(), (-1000, 400), spacing_mm=mm) for mm in ((3, 1, 4), None))
    assert loaded.image_dhw.shape == (6, 30, 12) and loaded.lesions_dhw.shape == (1, 6, 30, 12)
    assert loaded.lesions_dhw.dtype == torch.bool and loaded.image_dhw.dtype == torch.float32
    assert loaded.labels_dhw.shape == (12, 20, 24)
    np.testing.assert_array_equal(loaded.labels_dhw, stored.labels_dhw)
    np.testing.assert_array_equal(loaded.stored_lesion(), stored.lesions_dhw[0])
    lesion_mm3 = [float(v.lesions_dhw.sum()) * mm3 for v, mm3 in ((loaded, 12), (stored, 4.5))]
    assert lesion_mm3[0] == pytest.approx(lesion_mm3[1], rel=0.4)
    for box in (Box((1, 4, 2), (3, 20, 8)), Box((-2, 3, 5), (5, 8, 16)), loaded.whole):  # overhanging, too
        assert torch.allclose(loaded.image(box)[0], crop(loaded.image_dhw, box, -1.0), atol=1e-6)
        assert torch.equal(loaded.lesions(box), crop(loaded.lesions_dhw, box, False))

    place = loaded.stored_place
    brighter = loaded.image_dhw[None] + 0.1  # by 70 HU; the detail that the network's grid lacks stays
    back, new = loaded.painted([(brighter, loaded.whole)], place)
    assert back.shape == new.shape == loaded.stored_place.size and back.dtype == np.float64
    source = loaded.axes.to_dhw(loaded.volume.values)[place.slices]
    assert new.all()
    np.testing.assert_allclose(back, np.clip(np.clip(source, -1000, 400) + 70, -1000, 400), atol=1e-2)
    # What is not in the patch is the image: painting a part of itself changes nothing
    part = loaded.all_lesions.place
    for patches in ([(loaded.image_dhw[None], loaded.whole)], [(loaded.image(part), part)], []):
        assert not loaded.painted(patches, place)[1].any()


def test_without_another_spacing_the_way_back_is_exact(tmp_path):
    case = make_case(tmp_path)
    as_stored = load_case(case, Layout(), (-1000, 400), spacing_mm=(1.5, 1.5, 2))
    native = load_case(case, Layout(), (-1000, 400))
    for loaded in (as_stored, native):
        assert torch.equal(loaded.image_dhw, native.image_dhw)
        assert torch.equal(loaded.lesions_dhw, native.lesions_dhw)
        (part,) = loaded.parts((32, 64, 64))
        expected = np.clip(loaded.values_of(part), -1000, 400)
        back, new = loaded.painted([(loaded.image_dhw[None], loaded.whole)], part.stored_place)
        assert np.array_equal(new, part.stored)  # a lesion is new all over
        np.testing.assert_allclose(back[part.stored], expected, atol=1e-3)


def test_items_of_another_spacing(tmp_path):
    dataset = LesionDataset([make_case(tmp_path)], Layout(), size=(6, 32, 16), spacing_mm=(3, 1, 4))
    item = dataset[0]
    assert item["image"].shape == (1, 6, 32, 16)
    loaded = load_case(dataset.cases[0], Layout(), (-1000, 400), (3, 1, 4))
    assert torch.equal(item["image"][0, :, 1:-1, 2:-2], loaded.image_dhw)
    assert torch.equal(item["histogram"], lesion_histogram(loaded.image_dhw[None], loaded.lesions_dhw))


def test_relabelled_lesions_stand_in_for_those_of_the_file(tmp_path):
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 200, (2, 20, 24, 7))  # depth last
    case = save_case(tmp_path, "N1", image.astype(np.int16), (mask % 3).astype(np.uint8))
    seen = []

    def relabel(values, labels):
        seen.append((values, labels))
        moved = labels.copy()
        moved[2, 5:8, 9] = 4
        return moved

    with pytest.raises(ValueError, match="no lesion voxel"):
        load_case(case, TWO_CLASSES, "minmax")
    loaded = load_case(case, TWO_CLASSES, "minmax", relabel=relabel)
    values, labels = seen[0]
    np.testing.assert_array_equal(values, image.transpose(2, 0, 1))
    np.testing.assert_array_equal(labels, (mask % 3).transpose(2, 0, 1))
    assert loaded.lesions_dhw.flatten(1).sum(1).tolist() == [0, 3]
    np.testing.assert_array_equal(np.argwhere(loaded.stored_lesion()), [[2, r, 9] for r in (5, 6, 7)])
    np.testing.assert_array_equal(loaded.labels_dhw != labels, loaded.stored_lesion())

    def hopeless(values, labels):
        raise UserError("the heart's labels hold no cavity")

    with pytest.raises(ValueError) as caught:
        load_case(case, TWO_CLASSES, "minmax", relabel=hopeless)
    assert str(case.mask_path) in str(caught.value) and "no cavity" in str(caught.value)


def heart_case(folder, size=14):
    """A heart of size x size voxels at (6, 30) of 7 x 64 x 80, with a lesion of 2 x 3 x 3 in its corner."""
    mask = np.zeros((7, 64, 80), np.uint8)
    mask[1:6, 6 : 6 + size, 30 : 30 + size] = 2
    mask[1:6, 9:12, 33:36] = 1
    mask[2:4, 6:9, 30:33] = 3
    image = np.random.default_rng(0).integers(0, 500, mask.shape).astype(np.int16)
    affine = np.array(
        [[0, -1.5, 0, 0], [0, 0, -2, 0], [1.5, 0, 0, 0], [0, 0, 0, 1]]
    )  # to superior, left, back
    return save_case(folder, "H", image, mask, affine)


def test_the_region_of_a_heart_is_centred_on_the_heart(tmp_path):
    case = heart_case(tmp_path)
    loaded = load_case(case, HEART, "minmax")
    box = loaded.region((7, 24, 24))
    assert box == Box((0, 1, 25), (7, 24, 24))  # heart: 6..20 and 30..44, centre 13 and 37
    no_heart = Layout(mask_names=(), lesion_labels=(3, 4), other_labels=(1, 2))
    assert load_case(case, no_heart, "minmax").region((7, 8, 8)) == Box(
        (0, 3, 27), (7, 8, 8)
    )  # on the lesion
    item = LesionDataset([case], HEART, size=(7, 24, 24), window="minmax")[0]
    assert torch.equal(item["image"][0], loaded.image(box)[0])
    assert loaded.region((7, 14, 14)) == Box((0, 6, 30), (7, 14, 14))  # just as large as the heart


def test_a_heart_larger_than_the_region_is_shown_around_its_lesion(tmp_path):
    case = heart_case(tmp_path, size=40)
    loaded = load_case(case, HEART, "minmax")
    assert loaded.region((7, 24, 24)) == Box((0, 0, 19), (7, 24, 24))  # lesion: 6..9 and 30..33
    with pytest.raises(ValueError, match="lesion spans"):
        loaded.region((1, 24, 24))


def test_the_region_of_a_resampled_heart(tmp_path):
    loaded = load_case(heart_case(tmp_path), HEART, "minmax", spacing_mm=(1.5, 0.75, 1))
    assert loaded.shape == loaded.image_dhw.shape == (7, 128, 160)
    start = loaded.region((7, 48, 48)).start
    assert start[0] == 0 and abs(start[1] - 2) <= 1 and abs(start[2] - 50) <= 1


def test_the_mean_of_healthy_tissue(tmp_path):
    case = heart_case(tmp_path)
    loaded = load_case(case, HEART, "minmax")
    myocardium = loaded.image_dhw.numpy()[loaded.labels_dhw == 2]
    assert loaded.reference_mean == pytest.approx(myocardium.mean(dtype=np.float64), abs=1e-5)
    assert load_case(case, TWO_CLASSES, "minmax").reference_mean is None
    item = LesionDataset([case], HEART, size=(7, 24, 24), window="minmax")[0]
    assert item["reference_mean"] == loaded.reference_mean


def test_a_case_without_healthy_tissue_is_refused_by_file(tmp_path):
    case = make_case(tmp_path)  # labels 0 and 1
    refused(case, case.mask_path, "no voxel of label 2", "reference_label", layout=RELATIVE)
    whole_heart = heart_case(tmp_path)
    image, mask = (nibabel.load(path).get_fdata() for path in (whole_heart.image_path, whole_heart.mask_path))
    mask[mask == 2] = 1
    case = save_case(tmp_path, "scar", image.astype(np.int16), mask.astype(np.uint8))
    refused(case, case.mask_path, "no voxel of label 2", layout=HEART, window="minmax")


def flat_case(folder, name, healthy, lesion, background=5):
    """8 x 10 x 12 voxels: background, healthy tissue and a lesion of 2 x 3 x 4, each of one intensity.

    In the window 0 to 160, bin b of 16 is the intensities 10 b to 10 b + 10.
    """
    mask = np.zeros((8, 10, 12), np.uint8)
    mask[2:6, 2:8, 2:10] = 2
    mask[3:5, 3:6, 4:8] = 1
    image = np.choose(mask, [background, lesion, healthy]).astype(np.int16)
    return save_case(folder, name, image, mask)


FLAT = {"size": (8, 16, 16), "window": (0, 160)}


def one_bin(histogram):
    """The bin that holds everything, None where it is not one."""
    return int(histogram.argmax()) if float(histogram.max()) > 0.999 else None


def test_no_matching_leaves_items_as_they_were(tmp_path):
    cases = [make_case(tmp_path, name, seed=seed) for seed, name in enumerate("AB")]
    options = {"size": (6, 10, 10), "region": "random", "augment": True, "lesion_contrast": (0.5, 2.0)}
    plain = LesionDataset(cases, Layout(), **options)
    others = LesionDataset(
        cases, Layout(), histogram_matching=0.0, other_histograms=[torch.eye(16)[3]], **options
    )
    for address in [(0, 0), (1, 5), (0, 7)]:
        assert same(plain[address], others[address])


def test_matched_lesions_have_the_histogram_that_was_drawn(tmp_path):
    """A data set's, a given one's, or one between two of them; half of all draws are not blended."""
    cases = [flat_case(tmp_path, "A", 45, 125), flat_case(tmp_path, "B", 45, 145)]
    dataset = LesionDataset(
        cases, Layout(other_labels=(2,)), histogram_matching=1.0, other_histograms=[torch.eye(16)[3]], **FLAT
    )
    plain = LesionDataset(cases, Layout(other_labels=(2,)), **FLAT)[0]
    bins = []
    for draw in range(120):
        item = dataset[(0, draw)]
        assert torch.equal(item["histogram"], lesion_histogram(item["image"], item["lesions"]))
        outside = ~item["lesions"][0]
        assert torch.equal(item["image"][0][outside], plain["image"][0][outside])
        assert torch.equal(item["lesions"], plain["lesions"])
        bins.append(one_bin(item["histogram"]))
    counts = {b: bins.count(b) / len(bins) for b in (3, 12, 14)}
    # alone: 0.3 given, 0.35 each lesion; a blend of equals: 0.09 and 0.1225
    assert counts[3] == pytest.approx(0.195, abs=0.12)
    assert counts[12] == pytest.approx(0.236, abs=0.12) and counts[14] == pytest.approx(0.236, abs=0.12)
    between = [b for b in bins if b not in (3, 12, 14)]
    assert len(between) > 10 and all(b is None or 3 < b < 14 for b in between)


def test_as_many_lesions_are_matched_as_asked(tmp_path):
    dataset = LesionDataset([make_case(tmp_path)], Layout(), histogram_matching=0.3)
    plain = LesionDataset([make_case(tmp_path)], Layout())[0]
    changed = [not torch.equal(dataset[(0, draw)]["image"], plain["image"]) for draw in range(100)]
    assert 0.15 < np.mean(changed) < 0.45


def test_matching_depends_on_its_address_only(tmp_path):
    cases = [make_case(tmp_path, name, seed=seed) for seed, name in enumerate("ABC")]
    options = {"size": (6, 10, 10), "region": "random", "augment": True, "histogram_matching": 0.7}
    dataset = LesionDataset(cases, Layout(), **options)
    addresses = [(i, draw) for i in range(3) for draw in range(5)]
    items = {address: dataset[address] for address in addresses}
    again = LesionDataset(cases, Layout(), cache=False, **options)
    for address in reversed(addresses):
        assert same(again[address], items[address])
    other_seed = LesionDataset(cases, Layout(), seed=1, **options)
    assert not all(same(other_seed[address], items[address]) for address in addresses)
    assert len({items[(0, draw)]["histogram"].numpy().tobytes() for draw in range(5)}) > 2


def test_drawn_histograms_move_with_the_healthy_tissue(tmp_path):
    """Tissue of B is two bins brighter than that of A, and so are lesions lent to it."""
    cases = [flat_case(tmp_path, "A", 45, 125), flat_case(tmp_path, "B", 65, 105)]
    tissue = 45 / 80 - 1
    options = FLAT | {"histogram_matching": 1.0, "other_histograms": [torch.eye(16)[5]]}
    relative = LesionDataset(cases, RELATIVE, other_reference=tissue, **options)
    found = [{one_bin(relative[(i, d)]["histogram"]) for d in range(36)} for i in range(2)]
    assert {12, 8, 5} <= found[0] and {14, 10, 7} <= found[1]
    assert min(found[0] - {None}) == 5 and max(found[0] - {None}) == 12
    assert min(found[1] - {None}) == 7 and max(found[1] - {None}) == 14

    given_absolute = LesionDataset(cases, RELATIVE, **options)
    assert 5 in {one_bin(given_absolute[(1, d)]["histogram"]) for d in range(36)}
    absolute = LesionDataset(cases, Layout(other_labels=(2,)), other_reference=tissue, **options)
    found = {one_bin(absolute[(1, d)]["histogram"]) for d in range(36)}
    assert {5, 10, 12} <= found and max(found - {None}) == 12


def test_matching_that_is_no_probability_is_refused():
    for wrong in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f"histogram_matching={wrong}"):
            LesionDataset([], Layout(), histogram_matching=wrong)


@pytest.mark.parametrize("label", [255, 256, 257, 65535])
def test_labels_do_not_wrap(tmp_path, label):
    case = make_case(tmp_path)
    mask = nibabel.load(case.mask_path)
    labels = np.asarray(mask.dataobj).astype(np.int32)
    lesion = labels == 1
    labels[:, 12:18, 12:20] = label
    nibabel.save(nibabel.Nifti1Image(labels, mask.affine), case.mask_path)
    loaded = load_case(case, Layout(other_labels=(label,)), (-1000, 400))
    assert np.array_equal(loaded.stored_lesion(), lesion) and loaded.labels_dhw[0, 13, 14] == label
    loaded = load_case(case, Layout(lesion_labels=(label,), other_labels=(1,)), (-1000, 400))
    assert loaded.stored_lesion().sum() == (labels == label).sum()


def test_a_mask_with_a_scale_factor_is_read_as_any_other(tmp_path):
    case = make_case(tmp_path)
    plain = load_case(case, Layout(), (-1000, 400))
    mask = nibabel.load(case.mask_path)
    mask.header.set_slope_inter(None, None)
    nibabel.save(nibabel.Nifti1Image(mask.get_fdata(), mask.affine, mask.header), case.mask_path)
    assert nibabel.load(case.mask_path).dataobj.slope == pytest.approx(1 / 255)
    assert np.array_equal(load_case(case, Layout(), (-1000, 400)).labels_dhw, plain.labels_dhw)


def test_a_mask_in_another_order_lies_where_it_lies_in_the_world(tmp_path):
    case = make_case(tmp_path)
    plain = load_case(case, Layout(), (-1000, 400))
    mask = nibabel.Nifti1Image.from_bytes(gzip.decompress(case.mask_path.read_bytes()))
    for turn in ([[0, -1], [1, -1], [2, 1]], [[2, 1], [0, -1], [1, 1]]):
        nibabel.save(mask.as_reoriented(np.array(turn)), case.mask_path)
        assert np.array_equal(load_case(case, Layout(), (-1000, 400)).labels_dhw, plain.labels_dhw)
