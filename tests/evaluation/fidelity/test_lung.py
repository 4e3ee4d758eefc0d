"""Real lesions moved to other lung, made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation_pipeline.fidelity.lesions import Lesion
from evaluation_pipeline.fidelity.lung import moved_to_lung, told_in_like_lung
from evaluation_pipeline.fidelity.profile import surroundings


def lesion_in(lung: float, rng: np.random.Generator, name: str = "A", size: int = 31) -> Lesion:
    """A ball of 30 HU whose rim holds air as the lung does, in proportion."""
    away = np.sqrt(((np.indices((size,) * 3) - size // 2) ** 2).sum(axis=0))
    solid = np.clip((5.5 - away) / 3, 0, 1)
    image = lung * (1 - solid) + 30 * (solid == 1) + rng.normal(0, 3, away.shape)
    mask = away <= 5
    return Lesion(name, name, 0, None, image.astype(np.float32), mask, mask.astype(np.uint8), (1.0, 1.0, 1.0))


def test_lung_moves_and_what_is_denser_than_water_does_not():
    lesion = lesion_in(-850, np.random.default_rng(0))
    moved = moved_to_lung(lesion, -700.0)
    assert surroundings(moved) == pytest.approx(-700, abs=1)
    dense = lesion.image >= 0
    assert dense.any() and (moved.image[dense] == lesion.image[dense]).all()
    assert moved.values.mean() > lesion.values.mean()
    assert moved_to_lung(lesion, surroundings(lesion)).image == pytest.approx(lesion.image)


def test_a_lesion_in_no_lung_stays():
    lesion = lesion_in(40, np.random.default_rng(0))
    assert moved_to_lung(lesion, -700.0) is lesion


def medians(lesions) -> np.ndarray:
    return np.array([[np.median(one.values), np.percentile(one.values, 10)] for one in lesions])


def told(synthetic_lung: float, brighter: float = 0.0) -> dict | None:
    rng = np.random.default_rng(1)
    real = [lesion_in(rng.uniform(-870, -830), rng, f"R{n}") for n in range(12)]
    made = [lesion_in(synthetic_lung + rng.uniform(-20, 20), rng, f"S{n}") for n in range(12)]
    made = [replace(one, image=one.image + brighter * one.mask) for one in made]
    groups = [one.patient for one in (*real, *made)]
    return told_in_like_lung(real, made, medians, groups, np.random.default_rng(2), 0)


def test_lesions_that_only_their_lung_tells_are_not_told_in_like_lung():
    found = told(-650.0)
    assert found["scan"]["auc"] > 0.95 and found["lesions"]["auc"] < 0.8
    assert found["real_hu"] == pytest.approx(-850, abs=15)
    assert found["synthetic_hu"] == pytest.approx(-650, abs=15)


def test_lesions_that_differ_are_told_in_like_lung_too():
    assert told(-650.0, brighter=150.0)["lesions"]["auc"] > 0.95


def test_without_lung_nothing_is_moved():
    assert told(30.0) is None
