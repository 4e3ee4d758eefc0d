"""Frechet and kernel distances by identities; the floor between real halves."""

import numpy as np
import pytest

from evaluation_pipeline.fidelity.distances import (
    equal_sets,
    feature_rows,
    frechet_distance,
    kernel_distance,
    random_order_by_patient,
    realism,
    standardise,
)
from evaluation_pipeline.fidelity.lesions import TooLittleData


@pytest.fixture
def sample():
    return np.random.default_rng(0).standard_normal((40, 5)) @ np.diag([1, 2, 3, 0.5, 1])


def names(count: int) -> list[str]:
    return [f"P{number}" for number in range(count)]


def test_frechet_of_a_sample_with_itself_is_zero(sample):
    assert frechet_distance(sample, sample) == pytest.approx(0, abs=1e-9)


def test_frechet_of_a_shift_is_its_square(sample):
    shift = np.array([1.0, -2, 0, 0.5, 3])
    assert frechet_distance(sample, sample + shift) == pytest.approx(shift @ shift)


def test_frechet_of_a_stretch(sample):
    """C and 4 C: tr(C + 4 C - 2 (4 C C)^(1/2)) = tr(C)."""
    centred = sample - sample.mean(axis=0)
    assert frechet_distance(centred, 2 * centred) == pytest.approx(np.trace(np.cov(centred.T)))


def test_frechet_does_not_change_under_a_turn(sample):
    other = np.random.default_rng(1).standard_normal((30, 5)) + 1
    turn, _ = np.linalg.qr(np.random.default_rng(2).standard_normal((5, 5)))
    assert frechet_distance(sample @ turn, other @ turn) == pytest.approx(frechet_distance(sample, other))
    assert frechet_distance(other, sample) == pytest.approx(frechet_distance(sample, other))


def test_kernel_by_hand():
    """k(x, y) = (x y + 1)^3 in one dimension. Within: k(0, 1) = 1 and k(1, 2) = 27; between: 1, 1, 8, 27."""
    first, second = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    assert kernel_distance(first, second) == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


def test_kernel_is_unbiased():
    generator = np.random.default_rng(3)
    same = [kernel_distance(*generator.standard_normal((2, 10, 3))) for _ in range(400)]
    assert abs(np.mean(same)) < 4 * np.std(same) / 20
    assert min(same) < 0
    apart = [kernel_distance(generator.standard_normal((10, 3)), generator.standard_normal((10, 3)) + 1)]
    assert apart[0] > np.percentile(same, 99)


def test_realism_tells_a_shifted_set_from_the_real_one():
    generator = np.random.default_rng(4)
    real, alike, other = (generator.standard_normal((40, 4)) for _ in range(3))
    good = realism(real, alike, names(40), np.random.default_rng(0), repeats=20)
    bad = realism(real, other + 2, names(40), np.random.default_rng(0), repeats=20)
    assert good["lesions_per_set"] == 20
    assert good["frechet"]["real"] == bad["frechet"]["real"]
    for name in ("frechet", "kernel"):
        assert good[name]["synthetic"]["mean"] < good[name]["real"]["high"]
        assert bad[name]["synthetic"]["low"] > bad[name]["real"]["high"]


def test_realism_matches_sample_sizes():
    generator = np.random.default_rng(5)
    real, few = generator.standard_normal((40, 2)), generator.standard_normal((6, 2))
    assert realism(real, few, names(40), generator, 2)["lesions_per_set"] == 6
    with pytest.raises(TooLittleData, match="7 real and 6 synthetic"):
        realism(real[:7], few, names(7), generator, 2)
    with pytest.raises(TooLittleData):
        realism(real, few[:3], names(40), generator, 2)


def test_a_patient_stays_in_one_half():
    patients = [f"P{number // 4}" for number in range(40)]
    for seed in range(20):
        order = random_order_by_patient(patients, np.random.default_rng(seed))
        assert sorted(order) == list(range(40))
        halves = [{patients[i] for i in part} for part in (order[:20], order[20:])]
        assert not halves[0] & halves[1]


def test_equal_sets():
    sets = list(equal_sets(3, names(7), 5, np.random.default_rng(0), 20))
    assert len(sets) == 20
    for first, second, drawn in sets:
        assert not set(first) & set(second)
        assert [len(set(part)) for part in (first, second, drawn)] == [3, 3, 3]
    assert [set().union(*(s[i] for s in sets)) for i in range(3)] == [set(range(7))] * 2 + [set(range(5))]


def test_standardise_and_rows():
    real = np.array([[1.0, 5], [3, 5]])
    scaled, other = standardise(real, real + [2, 1])
    assert scaled.tolist() == [[-1, 0], [1, 0]]
    assert other.tolist() == [[1, 1], [3, 1]]  # a constant feature is only centred
    rows = feature_rows(real, real + [2, 1], ("a", "b"))
    assert [row["difference_in_sd"] for row in rows] == [2, 1]
    assert (rows[0]["real_mean"], rows[0]["synthetic_mean"], rows[0]["real_sd"]) == (2, 4, 1)
