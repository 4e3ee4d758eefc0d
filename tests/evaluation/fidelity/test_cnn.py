"""The 3D network: it sees a planted pattern, not what is the same, and its crops are where they should be."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from evaluation_pipeline.fidelity import cnn
from evaluation_pipeline.fidelity.lesions import Lesion, TooLittleData

SCALE = (-1000.0, 400.0)


def ball(radius=5.0, size=30) -> np.ndarray:
    axes = np.indices((size, size, size)) - size // 2
    return (axes**2).sum(axis=0) <= radius**2


def lesion_of(image, mask, name="A", mm=(1.0, 1.0, 1.0)) -> Lesion:
    return Lesion(name, name, 0, None, image.astype(np.float32), mask, mask.astype(np.uint8), mm)


def lesions(count, seed, name, planted=False) -> list[Lesion]:
    """Blurred balls in noise; planted: every second slice of the inside is 120 HU brighter."""
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        mask = ball(rng.uniform(4, 7))
        image = gaussian_filter(-850 + 800.0 * mask, 1.0) + rng.normal(0, 20, mask.shape)
        if planted:
            image[::2][mask[::2]] += 120
        found.append(lesion_of(image, mask, f"{name}{number}"))
    return found


def discriminated(real, synthetic):
    groups = [lesion.case for lesion in (*real, *synthetic)]
    return cnn.cnn_discriminate(real, synthetic, groups, SCALE, np.random.default_rng(0), 0)


def test_crops_hold_the_lesion_in_their_middle_whatever_the_voxels():
    mask = np.roll(ball(4), (3, -2, 4), axis=(0, 1, 2))
    image = np.where(mask, 400.0, -1000.0)
    crop = cnn.crops_of([lesion_of(image, mask)], SCALE)[0]
    assert crop.shape == (28, 28, 28) and (crop.min(), crop.max()) == (-1, 1)
    places = np.argwhere(crop > 0)
    assert places.mean(axis=0) == pytest.approx([14] * 3, abs=0.5)
    wide = cnn.crops_of([lesion_of(image, mask, mm=(2.0, 2.0, 2.0))], SCALE)[0]
    assert np.ptp(np.argwhere(wide > 0)[:, 0]) == pytest.approx(2 * np.ptp(places[:, 0]), abs=2)


def test_what_is_blanked_cannot_be_seen():
    mask = ball()
    image = np.where(mask, 300.0, -850.0)
    assert np.ptp(cnn.crops_of([lesion_of(image, mask)], SCALE, blanked="lesion")) == 0
    noisy = image + np.where(mask, 0, np.random.default_rng(0).normal(0, 50, mask.shape))
    whole, alone = (cnn.crops_of([lesion_of(noisy, mask)], SCALE, hide)[0] for hide in ("", "surroundings"))
    away = np.sqrt(((np.indices(alone.shape) - 14) ** 2).sum(axis=0)) - 5
    assert np.array_equal(alone[away <= 2], whole[away <= 2]) and np.ptp(alone[away > 4]) == 0


def test_a_planted_pattern_is_seen_and_not_in_the_surroundings(monkeypatch):
    monkeypatch.setattr(cnn, "STEPS", 100)
    found = discriminated(lesions(24, 0, "R"), lesions(24, 1, "S", planted=True))
    assert found["lesion"]["auc"] > 0.9
    assert found["surroundings"]["auc"] < 0.8 and found["alone"]["auc"] > 0.8


def test_one_distribution_gives_chance_and_a_seed_its_result(monkeypatch):
    monkeypatch.setattr(cnn, "STEPS", 5)
    parts = lesions(20, 2, "R"), lesions(20, 3, "S")
    first, second = (discriminated(*parts) for _ in range(2))
    assert first == second
    assert first["lesion"]["low"] < 0.6 and first["lesion"]["high"] > 0.4


def test_few_lesions_are_too_little_data():
    with pytest.raises(TooLittleData, match="19 real and 20 synthetic"):
        discriminated(lesions(19, 0, "R"), lesions(20, 1, "S"))
