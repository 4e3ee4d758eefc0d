"""Histograms that were asked for against those obtained."""

import numpy as np
import pytest

from evaluation_pipeline.fidelity.lesions import Lesion, TooLittleData
from evaluation_pipeline.fidelity.texture import (
    FINE_BINS,
    edit_margin_mm,
    histogram,
    pooled,
    read_manifest,
    requested_against_obtained,
    wasserstein,
)
from LeFusion.data_types import load_data_type

LIDC, EMIDEC = load_data_type("lidc"), load_data_type("emidec")

SCALE = (-1000.0, 400.0)


def lesion(values, case="A_CVol_1", kind=1, labels=1, reference=0.0) -> Lesion:
    image = np.asarray(values, np.float32).reshape(1, 1, -1)
    labels = np.broadcast_to(np.asarray(labels, np.uint8), image.shape)
    return Lesion(case, case, kind, None, image, labels > 0, labels, (1, 1, 1), reference)


def test_histogram():
    found = histogram(np.array([-2000.0, -1000, -950, 399, 400, 900]), SCALE, 16)
    assert found.sum() == pytest.approx(1)
    assert (found[0], found[15]) == (0.5, 0.5)  # what lies outside counts at the ends
    assert histogram(np.empty(0), SCALE, 4).tolist() == [0] * 4


def test_wasserstein_is_the_way_that_intensities_move():
    spots = np.eye(14)
    assert wasserstein(spots[2], spots[5], SCALE) == pytest.approx(300)  # bins of 100 HU
    assert wasserstein(spots[5], spots[2], SCALE) == pytest.approx(300)
    assert wasserstein(spots[5], spots[5], SCALE) == 0
    assert wasserstein(spots[[0, 1]].mean(0), spots[[2, 3]].mean(0), SCALE) == pytest.approx(200)


def test_pooled_weighs_each_lesion_the_same():
    real = [lesion([-500] * 100), lesion([-300]), lesion([-500] * 9), lesion([-300] * 2)]
    found = pooled([lesion([-500] * 3), lesion([-300] * 50)], real, SCALE, np.random.default_rng(0))
    assert len(found["histograms"]["real"]) == FINE_BINS
    assert found["histograms"]["real"] == found["histograms"]["synthetic"]
    assert wasserstein(*map(np.array, found["histograms"].values()), SCALE) == 0
    with pytest.raises(TooLittleData, match="1 real and 4 synthetic"):
        pooled(real, real[:1], SCALE, np.random.default_rng(0))


def test_pooled_distances_are_of_equally_large_sets():
    """The real lesions themselves, as synthetic ones, are about as far from a half of them as the other half
    is, however often each is repeated (sets of all lesions would be at 0); a shift adds to that."""
    levels = np.random.default_rng(1).normal(-400, 150, 20)
    real = [lesion([level], f"P{i}_Vol_1") for i, level in enumerate(levels)]
    for times in (1, 20):
        found = pooled(times * real, real, SCALE, np.random.default_rng(0))
        assert found["lesions_per_set"] == 10
        assert 0.55 < found["synthetic"]["mean"] / found["real"]["mean"] < 1.2
    shifted = [lesion([level + 400]) for level in levels]
    assert pooled(shifted, real, SCALE, np.random.default_rng(0))["synthetic"]["low"] > found["real"]["high"]
    assert pooled(real[:6], real, SCALE, np.random.default_rng(0))["lesions_per_set"] == 6


def test_obtained_as_requested():
    values = np.array([-900.0, -900, 100, 300])
    wanted = histogram(values, SCALE, 16)
    requested = {("A_CVol_1", 1): 7 * wanted, ("A_CVol_1", 2): np.roll(wanted, -1)}
    found = requested_against_obtained([lesion(values), lesion(values, kind=2)], requested, LIDC)
    assert found["by_type"][1] == pytest.approx(0, abs=1e-9)
    # 3 of 4 voxels a bin of 87.5 HU too bright, those of the first bin wrapped to the last
    assert found["by_type"][2] == pytest.approx(wasserstein(wanted, np.roll(wanted, -1), SCALE))
    assert found["mean"] == pytest.approx(np.mean([*found["by_type"].values()]))
    assert found["scale"] == list(SCALE)


def test_each_label_has_a_histogram_of_its_own():
    """MR: bins over the volume's range, so what was subtracted from the intensities is added again."""
    scan = lesion([0.1, 0.1, 0.4, 0.4], labels=[3, 3, 4, 4], reference=0.3)
    wanted = np.concatenate([histogram(np.array([v]), (0, 1), 16) for v in (0.4, 0.7)])
    found = requested_against_obtained([scan], {("A_CVol_1", 1): wanted}, EMIDEC)
    assert found["mean"] == 0
    swapped = {("A_CVol_1", 1): np.roll(wanted, 16)}
    assert requested_against_obtained([scan], swapped, EMIDEC)["mean"] == pytest.approx(5 / 16)
    with pytest.raises(ValueError, match="15 bins"):
        requested_against_obtained([scan], {("A_CVol_1", 1): np.ones(15)}, EMIDEC)


def test_a_lesion_that_the_manifest_lacks():
    with pytest.raises(ValueError, match="no row for A_CVol_1, type 1"):
        requested_against_obtained([lesion([0.0])], {("A_CVol_1", 2): np.ones(16)}, LIDC)


def test_manifests(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("case,type,other,requested_histogram\nA,2,x,0 1 3\n")
    assert {key: value.tolist() for key, value in read_manifest(path).items()} == {("A", 2): [0, 1, 3]}
    path.write_text("case,type,requested_histogram\nN0_0000,1,0 1 3\n")
    assert set(read_manifest(path)) == {("N0", 1)}
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "other.csv")


@pytest.mark.parametrize(
    "text, message",
    [
        ("case,type\nA,1\n", "requested_histogram"),
        ("case,type,requested_histogram\n", "no rows"),
        ("case,type,requested_histogram\nA,1,0 x\n", "not a manifest"),
        ("case,type,requested_histogram\nA,one,0 1\n", "not a manifest"),
        ("case,type,requested_histogram\nA,1\n", "not a manifest"),
        ("case,type,requested_histogram\nA,1,0 0\n", "positive"),
        ("case,type,requested_histogram\nA,1,nan 1\n", "positive"),
        ("case,type,requested_histogram\nA,1,\n", "positive"),
    ],
)
def test_damaged_manifests(tmp_path, text, message):
    path = tmp_path / "manifest.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "rows, expected",
    [
        (["case,edit_margin_mm", "a,2.0", "b,0.0"], 2.0),
        (["case,edit_margin_mm,soft_edge_mm", "a,0.0,1.5", "b,0.0,0.0"], 3.0),
        (["case", "a"], 0.0),
    ],
)
def test_a_manifest_says_how_far_from_the_lesions_voxels_may_differ(tmp_path, rows, expected):
    path = tmp_path / "manifest.csv"
    path.write_text("\n".join(rows) + "\n")
    assert edit_margin_mm(path) == expected
