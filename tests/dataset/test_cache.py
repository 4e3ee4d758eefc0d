"""What the training data set keeps in memory."""

import numpy as np
import pytest
import torch
from lesion_cases import make_case, same, save_case

from LeFusion.dataset.augmentation import Augmentation, HistogramMatching
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.dataset import LesionDataset
from LeFusion.dataset.intensity import IntensityMap


def test_changing_an_item_does_not_reach_the_cache(tmp_path):
    dataset = LesionDataset([make_case(tmp_path)], Layout(), size=(12, 20, 24))
    first = dataset[0]
    kept = {key: value.clone() if torch.is_tensor(value) else value for key, value in first.items()}
    first["image"].zero_()
    first["lesions"].fill_(True)
    first["histogram"].zero_()
    assert same(dataset[0], kept)


@pytest.mark.parametrize("region", ["whole", "random"])
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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "edit_margin_mm": 1.5,
            "augmentation": Augmentation(True, matching=HistogramMatching(1.0, like_size=2)),
        },
        {"edit_margin_mm": 3, "least_margin_mm": 2},
    ],
)
def test_the_cache_is_bounded_and_what_is_drawn_the_same(tmp_path, options):
    """Of six cases two fit: the last that were asked for."""
    cases = [make_case(tmp_path, name, seed=seed) for seed, name in enumerate("ABCDEF")]
    options = {"size": (6, 10, 10), "region": "random", "augmentation": Augmentation(True)} | options
    free = LesionDataset(cases, Layout(), **options)
    each = 12 * 20 * 24 * (5 + ("edit_margin_mm" in options) + ("least_margin_mm" in options))
    bounded, none, tiny = (
        LesionDataset(cases, Layout(), **options, **more)
        for more in ({"cache_bytes": 2 * each}, {"cache_bytes": 0}, {"cache_bytes": each - 1})
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
