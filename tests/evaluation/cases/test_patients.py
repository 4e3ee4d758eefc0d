import json

import pytest

from evaluation_pipeline.cases.patients import (
    case_name,
    drawn_cases,
    patient_of,
    patient_share,
    split_folds,
    stored_folds,
)

NAMES = [f"P{patient:02d}_Vol_{scan}" for patient in range(13) for scan in range(1 + patient % 4)]


@pytest.mark.parametrize(
    "name, patient",
    [
        ("LIDC-IDRI-0001_Vol_0.nii.gz", "LIDC-IDRI-0001"),
        ("A_CVol_3", "A"),
        ("A_Mask_3.nii", "A"),
        ("A_CMask_1", "A"),
        ("A_GenMask_2", "A"),
        ("A_Vol_2_0000.nii.gz", "A"),
        ("Case_P001_0000.nii.gz", "Case_P001"),
        ("folder/Case_N006.nii.gz", "Case_N006"),
        ("A_Volume_1", "A_Volume_1"),
    ],
)
def test_the_patient_is_what_comes_before_the_scan(name, patient):
    assert patient_of(name) == patient


def test_a_case_keeps_its_scan():
    assert case_name("x/LIDC-IDRI-0001_Vol_0_0000.nii.gz") == "LIDC-IDRI-0001_Vol_0"


def test_folds_share_out_all_cases_and_split_no_patient():
    folds = split_folds(NAMES, 5)
    assert sorted(sum(folds, [])) == sorted(NAMES)
    patients = [{patient_of(name) for name in fold} for fold in folds]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 13
    assert max(map(len, folds)) - min(map(len, folds)) <= 4  # the most cases of one patient


def test_folds_depend_on_the_seed_and_not_on_the_order():
    assert split_folds(NAMES, 5, seed=1) == split_folds(NAMES[::-1], 5, seed=1)
    assert split_folds(NAMES, 5, seed=1) != split_folds(NAMES, 5, seed=2)


def test_equal_patients_give_equal_folds():
    assert {len(fold) for fold in split_folds([f"case{i}" for i in range(20)], 5)} == {4}


def test_too_few_patients_and_double_names_are_refused():
    with pytest.raises(ValueError, match="3 patients cannot be dealt to 5 folds"):
        split_folds(["a", "b", "c"], 5)
    with pytest.raises(ValueError, match="b is listed twice"):
        split_folds(["a", "b", "b", "c"], 2)


def test_shares_are_nested_and_by_patient():
    small, large = patient_share(NAMES, 0.3), patient_share(NAMES, 0.7)
    assert set(small) < set(large) < set(NAMES)
    assert len({patient_of(name) for name in small}) == 4  # 0.3 x 13, rounded
    left_out = {patient_of(name) for name in set(NAMES) - set(small)}
    assert not left_out & {patient_of(name) for name in small}
    assert patient_share(NAMES, 1.0) == NAMES
    assert patient_share(NAMES, 0.01)
    for share in (0, 1.2):
        with pytest.raises(ValueError, match="real_fraction"):
            patient_share(NAMES, share)


def test_drawn_cases_are_nested_and_fill_one_patient_after_another():
    draws = [drawn_cases(NAMES, number, seed=4) for number in range(1, len(NAMES) + 1)]
    assert [len(draw) for draw in draws] == list(range(1, len(NAMES) + 1))
    assert all(set(small) < set(large) for small, large in zip(draws, draws[1:], strict=False))
    assert draws[-1] == NAMES  # the order of the names is kept
    for draw in draws:
        broken = [p for p in map(patient_of, draw) if {n for n in NAMES if patient_of(n) == p} - set(draw)]
        assert len(set(broken)) <= 1
    assert drawn_cases(NAMES[::-1], 8, seed=4)[::-1] == draws[7] != drawn_cases(NAMES, 8, seed=5)
    for number in (0, len(NAMES) + 1):
        with pytest.raises(ValueError, match=f"--real_count {number} must be 1 to {len(NAMES)}"):
            drawn_cases(NAMES, number)


def test_stored_folds_are_used_again_and_others_refused(tmp_path):
    path = tmp_path / "splits.json"
    first = stored_folds(path, NAMES, 5, 0)
    assert json.loads(path.read_text())["validation"] == first == stored_folds(path, NAMES, 5, 0)
    with pytest.raises(ValueError, match="folds of other cases"):
        stored_folds(path, NAMES[:-1], 5, 0)
    with pytest.raises(ValueError, match="split_seed"):
        stored_folds(path, NAMES, 5, 1)
    path.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        stored_folds(path, NAMES, 5, 0)
