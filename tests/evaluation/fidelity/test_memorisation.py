"""Copies are found however they are turned; new lesions are not called copies."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from evaluation_pipeline.fidelity.lesions import Lesion, TooLittleData
from evaluation_pipeline.fidelity.memorisation import TrainingLesions, memorisation, symmetries


def lesion(seed: int, name: str | None = None, kind: int = 0) -> Lesion:
    """A blob of smooth noise, about 200 voxels in 7 x 9 x 9."""
    generator = np.random.default_rng(seed)
    place = np.indices((11, 13, 13)) - np.array([5, 6, 6]).reshape(3, 1, 1, 1)
    radius = np.sqrt((place**2).sum(axis=0))
    mask = radius + gaussian_filter(generator.standard_normal(radius.shape), 2) * 6 < 3.8
    image = gaussian_filter(generator.standard_normal(radius.shape), 1) * 200 - 100 * radius
    return make(image, mask, name or f"P{seed}", kind)


def speckled(seed: int) -> Lesion:
    """One that is not darker at its border, as which many lesions are alike."""
    blob = lesion(seed)
    image = gaussian_filter(np.random.default_rng(seed).standard_normal(blob.image.shape), 1) * 200
    return make(image, blob.mask, blob.case)


def make(image: np.ndarray, mask: np.ndarray, name: str, kind: int = 0) -> Lesion:
    return Lesion(name, name, kind, None, image.astype(np.float32), mask, mask.astype(np.uint8), (1, 1, 1))


@pytest.fixture(scope="module")
def training() -> list[Lesion]:
    return [lesion(seed) for seed in range(8)]


def turned(original: Lesion, name: str = "copy") -> Lesion:
    image, mask = (np.flip(np.swapaxes(a, 1, 2), axis=1) for a in (original.image, original.mask))
    image, mask = (np.pad(a, ((0, 0), (3, 0), (0, 2))) for a in (image, mask))  # elsewhere in its cut
    return make(image, mask, name, 1)


def test_symmetries_are_all_different():
    for square, count in ((True, 16), (False, 8)):
        found = symmetries(square)
        assert len({turn.tobytes() for turn in found}) == len(found) == count
        assert all(np.abs(np.linalg.det(turn)) == 1 and abs(turn[0, 0]) == 1 for turn in found)


def test_a_turned_copy_is_found(training):
    near = TrainingLesions(training).nearest(turned(training[5]))
    assert near.correlation == pytest.approx(1)
    assert near.lesion is training[5]


def test_a_copy_in_other_units_with_noise_is_flagged(training):
    copy = turned(training[2])
    noise = np.random.default_rng(0).normal(0, 10, copy.image.shape)
    copies = [make(copy.image * 0.7 + 50 + noise, copy.mask, "copy", 1), lesion(77, "new", 1)]
    found = memorisation(copies, training, [lesion(seed) for seed in range(20, 26)])
    assert [row["copy"] for row in found["nearest"]] == [True, False]
    assert found["nearest"][0]["nearest"] == "P2"
    assert found["copies"] == 1
    assert found["real_is"] == "held-out lesions"


def test_real_lesions_that_are_as_like_set_the_threshold(training):
    """Where unseen real lesions correlate as much, no synthetic one can be called a copy."""
    found = memorisation([turned(training[2])], training, [turned(training[3], "twin")])
    assert found["threshold"] == pytest.approx(1)
    assert found["copies"] == 0
    assert found["above"]["synthetic"] == found["above"]["held_out"] == {"above": 1, "lesions": 1}


def test_training_lesions_that_are_alike_are_counted_but_not_those_of_one_patient():
    """The floor: how many real lesions correlate above 0.95 with one of another patient."""
    known = [speckled(seed) for seed in range(8)]
    twin = turned(known[4], "twin")
    for more, above in ((twin, 2), (replace(twin, patient="P4"), 0)):
        found = memorisation([], [*known, more], [speckled(seed) for seed in range(20, 23)])
        assert found["above"]["training"] == {"above": above, "lesions": 9}
        assert found["above"]["held_out"] == {"above": 0, "lesions": 3}
        assert found["real"]["max"] < 0.95  # of those held out


def test_without_held_out_lesions_training_is_compared_with_other_patients(training):
    found = memorisation([lesion(50, "new", 1)], training, [])
    assert "other patients" in found["real_is"]
    assert found["real"]["max"] < 0.99  # not each with itself
    assert len(found["correlations"]["real"]) == len(training)


def test_a_lesion_of_another_size_has_no_neighbour(training):
    large = np.ones((11, 30, 30), bool)
    found = memorisation(
        [make(np.random.default_rng(0).normal(size=large.shape), large, "large", 1)], training, []
    )
    assert found["nearest"][0] == {
        "case": "large",
        "type": 1,
        "nearest": None,
        "correlation": None,
        "copy": False,
    }
    assert (found["compared"], found["synthetic"]) == (0, None)


def test_a_constant_lesion_correlates_with_nothing(training):
    flat = make(np.zeros(training[0].mask.shape), training[0].mask, "flat", 1)
    assert TrainingLesions(training).nearest(flat).lesion is None


def test_one_training_lesion_is_too_few(training):
    with pytest.raises(TooLittleData):
        memorisation(training, training[:1], [])
