"""Masks that lie elsewhere than beside the images, and masks that DiffMask made."""

import pytest

from LeFusion.dataset.cases import find_cases, output_mask_name
from tests.helpers.named_files import EMIDEC, LIDC, make, make_lidc, names
from tests.helpers.refusals import one_line_error as refused


@pytest.fixture
def lidc(tmp_path):
    return make_lidc(tmp_path)


def pairs(cases):
    return [(case.name, case.image_path.name, case.mask_path.name) for case in cases]


def test_masks_may_lie_elsewhere(lidc, tmp_path):
    expected = find_cases(lidc, LIDC)
    (lidc / "Mask").rename(tmp_path / "drawn")
    for root in (lidc, lidc / "Image"):
        cases = find_cases(root, LIDC, mask_dir=tmp_path / "drawn")
        assert pairs(cases) == pairs(expected)
        assert {case.mask_path.parent for case in cases} == {tmp_path / "drawn"}
        assert {case.image_path.parent for case in cases} == {lidc / "Image"}
    (lidc / "Image").rename(tmp_path / "scans of any name")
    cases = find_cases(tmp_path / "scans of any name", LIDC, mask_dir=tmp_path / "drawn")
    assert pairs(cases) == pairs(expected)


def test_given_masks_go_before_those_beside_the_images(lidc, tmp_path):
    masks = make(tmp_path / "other", "A_Mask_1.nii.gz", "B_Mask_2.nii.gz", "C_CMask_1.nii")
    assert {case.mask_path.parent for case in find_cases(lidc, LIDC, mask_dir=masks)} == {masks}
    (masks / "B_Mask_2.nii.gz").unlink()
    with refused(FileNotFoundError, "Image/B_Vol_2.nii.gz", masks / "B_Mask_2.nii.gz"):
        find_cases(lidc, LIDC, mask_dir=masks)


def test_sub_folders_are_mirrored_elsewhere(tmp_path):
    make(tmp_path, "scans/x/A_Vol_1.nii.gz", "m/x/A_Mask_1.nii.gz", "m/y/A_Mask_1.nii.gz")
    (case,) = find_cases(tmp_path / "scans", LIDC, mask_dir=tmp_path / "m")
    assert case.mask_path == tmp_path / "m/x/A_Mask_1.nii.gz"


def test_one_image_may_be_given_with_the_folder_of_its_mask(lidc, tmp_path, monkeypatch):
    image = lidc / "Image" / "A_Vol_1.nii.gz"
    (case,) = find_cases(image, LIDC, mask_dir=lidc / "Mask")
    assert (case.name, case.image_path, case.mask_path) == (
        "A_Vol_1",
        image,
        lidc / "Mask" / "A_Mask_1.nii.gz",
    )
    monkeypatch.chdir(lidc / "Image")
    assert find_cases("A_Vol_1.nii.gz", LIDC, mask_dir="../Mask") == [case]
    with refused(FileNotFoundError, image):
        find_cases(image, LIDC)  # without it the folder is needed


def test_a_missing_folder_or_image_is_named(lidc, tmp_path):
    with refused(FileNotFoundError, tmp_path / "nowhere", "no such folder"):
        find_cases(lidc, LIDC, mask_dir=tmp_path / "nowhere")
    for root in (tmp_path / "gone", lidc / "Image" / "gone.nii.gz"):
        with refused(FileNotFoundError, root, "no such folder"):
            find_cases(root, LIDC, mask_dir=lidc / "Mask")
    make(tmp_path, "notes.txt")
    with refused(ValueError, tmp_path / "notes.txt", "no NIfTI"):
        find_cases(tmp_path / "notes.txt", LIDC, mask_dir=lidc / "Mask")


def test_an_image_is_a_case_with_each_mask_made_for_it(lidc, tmp_path):
    made = make(
        tmp_path / "made",
        "A_Vol_1_GenMask_2.nii.gz",
        "A_Vol_1_GenMask_1.nii.gz",
        "B_Vol_2_GenMask_10.nii",
        "deeper/C_CVol_1_GenMask_1.nii.gz",
        "D_Vol_1_GenMask_1.nii.gz",  # of no image here
    )
    assert pairs(find_cases(lidc, LIDC, mask_dir=made, generated=True)) == [
        ("A_Vol_1_GenMask_1", "A_Vol_1.nii.gz", "A_Vol_1_GenMask_1.nii.gz"),
        ("A_Vol_1_GenMask_2", "A_Vol_1.nii.gz", "A_Vol_1_GenMask_2.nii.gz"),
        ("B_Vol_2_GenMask_10", "B_Vol_2.nii.gz", "B_Vol_2_GenMask_10.nii"),
        ("C_CVol_1_GenMask_1", "C_CVol_1.nii", "C_CVol_1_GenMask_1.nii.gz"),
    ]
    (lidc / "test.txt").write_text("A_Vol_1\n")  # names images
    assert names(find_cases(lidc, LIDC, lidc / "test.txt", "test", mask_dir=made, generated=True)) == [
        "A_Vol_1_GenMask_1",
        "A_Vol_1_GenMask_2",
    ]
    (made / "A_Vol_1_GenMask_1.nii.gz").rename(lidc / "Mask" / "A_Vol_1_GenMask_1.nii.gz")
    found = ["A_Vol_1", "A_Vol_1_GenMask_1", "B_Vol_2", "C_CVol_1"]
    assert names(find_cases(lidc, LIDC, generated=True)) == found
    assert names(find_cases(lidc, LIDC)) == ["A_Vol_1", "B_Vol_2", "C_CVol_1"]  # no lesion is there


def test_masks_made_for_images_that_carry_their_names(tmp_path):
    make(tmp_path, "images/H.nii.gz", "images/H2.nii.gz", "m/H_GenMask_1.nii.gz", "m/H2.nii.gz")
    assert pairs(find_cases(tmp_path / "images", EMIDEC, mask_dir=tmp_path / "m", generated=True)) == [
        ("H2", "H2.nii.gz", "H2.nii.gz"),
        ("H_GenMask_1", "H.nii.gz", "H_GenMask_1.nii.gz"),
    ]


def test_only_a_number_makes_a_made_mask(lidc, tmp_path):
    made = make(tmp_path / "made", "A_Vol_1_GenMask_1b.nii.gz", "A_Vol_1_GenMask_.nii.gz", "_GenMask_1.nii")
    with refused(FileNotFoundError, "A_Vol_1.nii.gz", made / "A_Mask_1.nii.gz"):
        find_cases(lidc, LIDC, mask_dir=made, generated=True)


def test_images_without_any_mask_are_reported(lidc, tmp_path):
    made = make(tmp_path / "made", "B_Vol_2_GenMask_1.nii.gz")
    skipped = []
    assert names(find_cases(lidc, LIDC, skipped=skipped, mask_dir=made, generated=True)) == [
        "B_Vol_2_GenMask_1"
    ]
    assert len(skipped) == 2 and "A_Vol_1.nii.gz" in skipped[0] and "C_CVol_1.nii" in skipped[1]


def test_a_made_mask_that_lies_twice_is_refused(lidc):
    make(lidc, "Mask/A_Vol_1_GenMask_1.nii.gz", "Mask/old/A_Vol_1_GenMask_1.nii.gz")
    with refused(ValueError, lidc / "Mask", lidc / "Mask" / "old", "A_Vol_1_GenMask_1", "keep one"):
        find_cases(lidc, LIDC, generated=True)


def test_made_masks_of_images_of_any_name(tmp_path):
    make(tmp_path, "scans/pat1.nii.gz", "m/pat1_GenMask_1.nii.gz")
    (case,) = find_cases(tmp_path / "scans", LIDC, mask_dir=tmp_path / "m", generated=True)
    assert case.name == "pat1_GenMask_1"
    assert output_mask_name("pat1_GenMask_1.nii.gz", LIDC) == "pat1_GenMask_1.nii.gz"
    with refused(ValueError, "pat1", "_Vol_"):
        find_cases(tmp_path / "scans", LIDC, mask_dir=tmp_path / "m")


def test_the_label_of_a_painted_made_mask():
    assert output_mask_name("A_CVol_1_GenMask_2.nii.gz", LIDC) == "A_Mask_1_GenMask_2.nii.gz"
    assert output_mask_name("Case_N1_GenMask_2.nii.gz", EMIDEC) == "Case_N1_GenMask_2.nii.gz"
