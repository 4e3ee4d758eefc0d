"""Training lesions that take on the histograms of others."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lesion_cases import RELATIVE, make_case, same, save_case

from LeFusion.dataset.augmentation import Augmentation, HistogramMatching
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.dataset import LesionDataset
from LeFusion.textures.histograms import lesion_histogram


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


def matched(*options):
    return Augmentation(matching=HistogramMatching(*options))


def one_bin(histogram):
    """The bin that holds everything, None where it is not one."""
    return int(histogram.argmax()) if float(histogram.max()) > 0.999 else None


def test_no_matching_leaves_items_as_they_were(tmp_path):
    cases = [make_case(tmp_path, name, seed=seed) for seed, name in enumerate("AB")]
    options = {"size": (6, 10, 10), "region": "random"}
    drawn = Augmentation(flips=True, lesion_contrast=(0.5, 2.0))
    plain = LesionDataset(cases, Layout(), augmentation=drawn, **options)
    never = replace(drawn, matching=HistogramMatching(0.0, [torch.eye(16)[3]]))
    others = LesionDataset(cases, Layout(), augmentation=never, **options)
    for address in [(0, 0), (1, 5), (0, 7)]:
        assert same(plain[address], others[address])


def test_matched_lesions_have_the_histogram_that_was_drawn(tmp_path):
    """A data set's, a given one's, or one between two of them; half of all draws are not blended."""
    cases = [flat_case(tmp_path, "A", 45, 125), flat_case(tmp_path, "B", 45, 145)]
    drawn = matched(1.0, [torch.eye(16)[3]])
    dataset = LesionDataset(cases, Layout(other_labels=(2,)), augmentation=drawn, **FLAT)
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
    dataset = LesionDataset([make_case(tmp_path)], Layout(), augmentation=matched(0.3))
    plain = LesionDataset([make_case(tmp_path)], Layout())[0]
    changed = [not torch.equal(dataset[(0, draw)]["image"], plain["image"]) for draw in range(100)]
    assert 0.15 < np.mean(changed) < 0.45


def test_matching_depends_on_its_address_only(tmp_path):
    cases = [make_case(tmp_path, name, seed=seed) for seed, name in enumerate("ABC")]
    drawn = Augmentation(flips=True, matching=HistogramMatching(0.7))
    options = {"size": (6, 10, 10), "region": "random", "augmentation": drawn}
    dataset = LesionDataset(cases, Layout(), **options)
    addresses = [(i, draw) for i in range(3) for draw in range(5)]
    items = {address: dataset[address] for address in addresses}
    again = LesionDataset(cases, Layout(), cache_bytes=0, **options)
    for address in reversed(addresses):
        assert same(again[address], items[address])
    other_seed = LesionDataset(cases, Layout(), seed=1, **options)
    assert not all(same(other_seed[address], items[address]) for address in addresses)
    assert len({items[(0, draw)]["histogram"].numpy().tobytes() for draw in range(5)}) > 2


def test_drawn_histograms_move_with_the_healthy_tissue(tmp_path):
    """Tissue of B is two bins brighter than that of A, and so are lesions lent to it."""
    cases = [flat_case(tmp_path, "A", 45, 125), flat_case(tmp_path, "B", 65, 105)]
    tissue = 45 / 80 - 1
    of_tissue, of_none = (matched(1.0, [torch.eye(16)[5]], reference) for reference in (tissue, None))
    relative = LesionDataset(cases, RELATIVE, augmentation=of_tissue, **FLAT)
    found = [{one_bin(relative[(i, d)]["histogram"]) for d in range(36)} for i in range(2)]
    assert {12, 8, 5} <= found[0] and {14, 10, 7} <= found[1]
    assert min(found[0] - {None}) == 5 and max(found[0] - {None}) == 12
    assert min(found[1] - {None}) == 7 and max(found[1] - {None}) == 14

    given_absolute = LesionDataset(cases, RELATIVE, augmentation=of_none, **FLAT)
    assert 5 in {one_bin(given_absolute[(1, d)]["histogram"]) for d in range(36)}
    absolute = LesionDataset(cases, Layout(other_labels=(2,)), augmentation=of_tissue, **FLAT)
    found = {one_bin(absolute[(1, d)]["histogram"]) for d in range(36)}
    assert {5, 10, 12} <= found and max(found - {None}) == 12


def test_matching_that_is_no_probability_is_refused():
    for wrong in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f"histogram_matching={wrong}"):
            HistogramMatching(wrong)
