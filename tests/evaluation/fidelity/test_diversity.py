"""PSNR and feature distances between the lesions of a case and over cases."""

import numpy as np
import pytest

from evaluation_pipeline.fidelity.diversity import common_values, diversity, psnr
from evaluation_pipeline.fidelity.lesions import Lesion


def lesion(value, case="A", kind=1, origin=(0, 0, 0), shape=(2, 3, 3)) -> Lesion:
    image = np.broadcast_to(np.asarray(value, np.float32), shape)
    mask = np.ones(shape, bool)
    return Lesion(case, case, kind, None, image, mask, mask.astype(np.uint8), (1, 1, 1), 0.0, origin)


def test_psnr():
    zero = np.zeros(4, np.float32)
    assert psnr(zero, zero + 10, 1000) == pytest.approx(40)
    assert psnr(zero, zero, 1000) == np.inf


def test_lesions_are_compared_where_both_masks_are():
    scan = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    first = lesion(scan[1:3, 1:4, 1:4], origin=(1, 1, 1))
    second = lesion(scan[2:4, 2:5, 0:3], origin=(2, 2, 0))
    found = common_values(first, second)
    assert found[0].tolist() == found[1].tolist() == scan[2:3, 2:4, 1:3].ravel().tolist()
    assert not common_values(first, lesion(0, origin=(4, 1, 1)))[0].size


def test_identical_types_are_counted():
    lesions = [lesion(10, kind=kind) for kind in (1, 2, 3)]
    features = np.zeros((3, 2))
    found = diversity(lesions, features, np.array([[0.0, 0], [2, 2]]), 1000)
    assert (found["identical_pairs"], found["psnr_pairs"], found["psnr_within_case_db"]) == (3, 0, None)
    assert found["feature_distance_within_case"] == 0
    assert found["feature_distance_over_cases"] is None and found["distances"]["over_cases"] == []


def test_distances_within_and_over_cases():
    lesions = [lesion(value, case, kind) for case in "AB" for kind, value in ((1, 0), (2, 10))]
    features = np.array([[0.0], [1], [4], [5]])  # A1, A2, B1, B2
    real = np.array([[-1.0], [1]])  # of standard deviation 1
    found = diversity(lesions, features, real, 1000)
    assert found["psnr_within_case_db"] == pytest.approx(40)
    assert found["feature_distance_within_case"] == pytest.approx(1)
    assert found["largest_distance"] == 4
    shares = {name: np.flatnonzero(values).tolist() for name, values in found["distances"].items()}
    assert shares == {"within_case": [10], "over_cases": [39], "real": [20]}  # 1, 4 and 2 of 4, in 40 bins
    assert found["feature_distance_over_cases"] == pytest.approx(4)
    assert found["feature_distance_real"] == pytest.approx(2)


def test_lesions_of_different_places_are_not_compared():
    lesions = [lesion(0, kind=1), lesion(5, kind=2, origin=(0, 9, 9))]
    found = diversity(lesions, np.zeros((2, 1)), np.zeros((2, 1)), 1000)
    assert (found["pairs_without_common_voxels"], found["psnr_pairs"]) == (1, 0)
