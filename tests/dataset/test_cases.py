"""Images find their masks, splits follow test.txt, and each mistake is answered by one line that names it."""

import os

import pytest

from LeFusion.dataset.cases import find_cases, find_images, output_mask_name, patient_of
from LeFusion.dataset.scans import ending_of
from tests.helpers.named_files import EMIDEC, LIDC, NNUNET, make, make_lidc, names
from tests.helpers.refusals import one_line_error as refused


@pytest.fixture
def lidc(tmp_path):
    return make_lidc(tmp_path)


def test_cases_are_sorted_and_paired(lidc):
    cases = find_cases(lidc, LIDC)
    assert names(cases) == ["A_Vol_1", "B_Vol_2", "C_CVol_1"]
    assert [case.mask_path.name for case in cases] == [
        "A_Mask_1.nii.gz",
        "B_Mask_2.nii.gz",
        "C_CMask_1.nii.gz",
    ]
    assert all(case.image_path.is_file() and case.mask_path.is_file() for case in cases)


def test_the_image_folder_itself_may_be_given(lidc, monkeypatch):
    expected = find_cases(lidc, LIDC)
    assert find_cases(f"{lidc}/Image/", LIDC) == find_cases(lidc / "Image", LIDC) == expected
    monkeypatch.chdir(lidc / "Image")
    assert find_cases(".", LIDC) == expected
    assert find_cases("..", LIDC) == expected


def test_masks_may_carry_the_image_name(tmp_path):
    make(
        tmp_path,
        "images/Case_P001.nii.gz",
        "images/Case_N2.nii.gz",
        "labels/Case_P001.nii.gz",
        "labels/Case_N2.nii",
    )
    cases = find_cases(tmp_path, EMIDEC)
    assert names(cases) == ["Case_N2", "Case_P001"]
    assert [os.path.basename(case.mask_path) for case in cases] == ["Case_N2.nii", "Case_P001.nii.gz"]


def test_nnunet_masks_lack_the_channel_of_the_image(tmp_path):
    make(
        tmp_path,
        "imagesTr/liver_2_0000.nii.gz",
        "imagesTr/liver_0000_0000.nii.gz",
        "labelsTr/liver_2.nii.gz",
        "labelsTr/liver_0000.nii.gz",
    )
    cases = find_cases(tmp_path, NNUNET)
    assert names(cases) == ["liver_0000_0000", "liver_2_0000"]
    assert [case.mask_path.name for case in cases] == ["liver_0000.nii.gz", "liver_2.nii.gz"]
    listing = tmp_path / "test.txt"
    listing.write_text("liver_2_0000\n")
    assert names(find_cases(tmp_path, NNUNET, listing, "test")) == ["liver_2_0000"]
    make(tmp_path, "imagesTr/liver_3_0000.nii.gz", "labelsTr/liver_3_0000.nii.gz")
    with refused(FileNotFoundError, "liver_3_0000.nii.gz", "labelsTr/liver_3.nii.gz"):
        find_cases(tmp_path, NNUNET)
    make(tmp_path, "imagesTr/liver_4.nii.gz", "labelsTr/liver_3.nii.gz")
    with refused(ValueError, "liver_4", "'_0000'"):
        find_cases(tmp_path, NNUNET)


def test_sub_folders_mirrored_or_not(tmp_path):
    make(
        tmp_path,
        "Image/x/deep/A_Vol_1.nii.gz",
        "Mask/x/deep/A_Mask_1.nii.gz",
        "Mask/elsewhere/A_Mask_1.nii.gz",
        "Image/y/B_Vol_1.nii.gz",
        "Mask/B_Mask_1.nii.gz",
    )
    cases = find_cases(tmp_path, LIDC)
    assert cases[0].mask_path == tmp_path / "Mask/x/deep/A_Mask_1.nii.gz"
    assert cases[1].mask_path == tmp_path / "Mask/B_Mask_1.nii.gz"
    make(tmp_path, "Mask/z/B_Mask_1.nii.gz")
    with refused(ValueError, "B_Vol_1", "Mask/B_Mask_1.nii.gz", "z/B_Mask_1.nii.gz"):
        find_cases(tmp_path, LIDC)


def test_hidden_and_foreign_files_are_ignored(lidc):
    make(
        lidc,
        "Image/.1a2b.A_Vol_1.nii.gz",
        "Image/._A_Vol_1.nii.gz",
        "Image/.cache/A_Vol_1.nii.gz",
        "Image/notes.txt",
    )
    assert names(find_cases(lidc, LIDC)) == ["A_Vol_1", "B_Vol_2", "C_CVol_1"]


@pytest.mark.parametrize(
    "text",
    [
        "B_Vol_2\nC_CVol_1\n",
        "B_Vol_2\r\nC_CVol_1",
        "\ufeffB_Vol_2\n\n  C_CVol_1  \n\n",
        "B_Vol_2.nii.gz\nC_CVol_1.nii\nB_Vol_2\n",
        "Image/B_Vol_2.nii.gz\n/data/LIDC/Image/C_CVol_1\n",
        "Image\\B_Vol_2.nii.gz\n..\\C_CVol_1",
    ],
)
def test_splits_follow_the_list(lidc, text):
    listing = lidc / "test.txt"
    listing.write_bytes(text.encode())
    assert names(find_cases(lidc, LIDC, listing, "test")) == ["B_Vol_2", "C_CVol_1"]
    assert names(find_cases(lidc, LIDC, listing, "train")) == ["A_Vol_1"]
    assert names(find_cases(lidc, LIDC, listing, "all")) == ["A_Vol_1", "B_Vol_2", "C_CVol_1"]


def test_errors_name_the_place_and_the_value(lidc, tmp_path):
    listing = tmp_path / "test.txt"
    with refused(FileNotFoundError, tmp_path / "nowhere", "dataset_root_dir"):
        find_cases(tmp_path / "nowhere", LIDC)
    with refused(FileNotFoundError, tmp_path, "'Image'"):
        find_cases(tmp_path, LIDC)
    with refused(ValueError, "'validation'", "train"):
        find_cases(lidc, LIDC, split="validation")
    for split in ("test", "train"):
        with refused(ValueError, f"split={split} needs", "test_txt_dir", "split=all"):
            find_cases(lidc, LIDC, split=split)
    for split in ("test", "train", "all"):
        with refused(FileNotFoundError, listing, "no such file"):
            find_cases(lidc, LIDC, listing, split)
    listing.write_text("A_Vol_1\nGone_Vol_1\nB_Vol_2\n")
    for split in ("test", "train"):  # an image meant for testing would be trained on
        with refused(FileNotFoundError, listing, "Gone_Vol_1", "3 images"):
            find_cases(lidc, LIDC, listing, split)
    listing.write_text("")
    with refused(FileNotFoundError, lidc / "Image", "split test", "3 images", "0 names"):
        find_cases(lidc, LIDC, listing, "test")
    listing.write_bytes("A_Vol_1\n".encode("utf-16"))
    with refused(ValueError, listing, "UTF-8"):
        find_cases(lidc, LIDC, listing, "test")


@pytest.mark.parametrize("line", ["a_vol_1", "A_Vol_l", "A_Vol_1.png", "A_Vol_1_"])
def test_a_listed_name_that_is_no_image_is_refused_with_the_nearest(lidc, line):
    (lidc / "test.txt").write_text(line)
    with refused(FileNotFoundError, lidc / "test.txt", line, "there is A_Vol_1)"):
        find_cases(lidc, LIDC, lidc / "test.txt", "train")


def test_links_in_a_circle_end(lidc):
    other = lidc.parent / "other"
    make(other, "D_Vol_1.nii.gz")
    for link, target in (
        (lidc / "Image" / "again", lidc / "Image"),
        (lidc / "Image" / "o", other),
        (other / "l", lidc / "Image"),
    ):
        link.symlink_to(target)
    assert {path.name for path in find_images(lidc / "Image").values()} > {"D_Vol_1.nii.gz"}


def test_missing_masks_are_named(lidc):
    (lidc / "Mask" / "B_Mask_2.nii.gz").unlink()
    with refused(FileNotFoundError, "Image/B_Vol_2.nii.gz", "Mask/B_Mask_2.nii.gz"):
        find_cases(lidc, LIDC)
    (lidc / "test.txt").write_text("A_Vol_1")
    assert names(find_cases(lidc, LIDC, lidc / "test.txt", "test")) == ["A_Vol_1"], (
        "only what is used must exist"
    )


def test_no_mask_folder_no_images_and_names_without_the_part(tmp_path):
    make(tmp_path, "Image/A_Vol_1.nii.gz")
    with refused(FileNotFoundError, tmp_path / "Mask"):
        find_cases(tmp_path, LIDC)
    make(tmp_path, "Mask/A_Mask_1.nii.gz", "Image/other.nii.gz")
    with refused(ValueError, "other", "'_Vol_'", "mask_names"):
        find_cases(tmp_path, LIDC)
    for image in (tmp_path / "Image").iterdir():
        image.unlink()
    with refused(FileNotFoundError, tmp_path / "Image", "split all", "0 images"):
        find_cases(tmp_path, LIDC)


def test_two_images_of_one_name_are_refused(lidc):
    make(lidc, "Image/sub/A_Vol_1.nii.gz")
    with refused(ValueError, "Image/A_Vol_1.nii.gz", "sub/A_Vol_1.nii.gz", "'A_Vol_1'"):
        find_cases(lidc, LIDC)


def test_output_mask_names():
    assert output_mask_name("A_CVol_1.nii.gz", LIDC) == "A_Mask_1.nii.gz"
    assert output_mask_name("A_Vol_1.nii.gz", LIDC) == "A_Mask_1.nii.gz"
    assert output_mask_name("X_Vol_ume_Vol_12.nii", LIDC) == "X_Vol_ume_Mask_12.nii"
    assert output_mask_name("Case_P001.nii.gz", EMIDEC) == "Case_P001.nii.gz"
    assert output_mask_name("liver_2_0000.nii.gz", NNUNET) == "liver_2.nii.gz"
    assert output_mask_name("liver_0000_0000.nii.gz", NNUNET) == "liver_0000.nii.gz"
    with pytest.raises(ValueError, match=r"'A\.nii\.gz'"):
        output_mask_name("A.nii.gz", LIDC)


def test_all_images_of_a_folder_or_the_one_file(tmp_path):
    make(tmp_path, "b.nii.gz", "x/y/a.nii", "notes.txt", ".b.nii.gz", ".hidden/c.nii.gz")
    expected = {"a": tmp_path / "x/y/a.nii", "b": tmp_path / "b.nii.gz"}
    assert list(find_images(tmp_path).items()) == list(expected.items())
    assert find_images(str(tmp_path / "b.nii.gz")) == {"b": tmp_path / "b.nii.gz"}
    (tmp_path / "empty").mkdir()
    assert find_images(tmp_path / "empty") == {}
    for wrong in ("nowhere", "notes.txt"):
        with refused(ValueError, tmp_path / wrong):
            find_images(tmp_path / wrong)
    make(tmp_path, "z/b.nii")
    with refused(ValueError, tmp_path / "b.nii.gz", tmp_path / "z/b.nii", "'b'"):
        find_images(tmp_path)


def test_patients_by_name():
    names = ["A-1_Mask_2", "A-1_CMask_12", "A-1_Vol_1", "Case_P005", "_Mask_1"]
    assert [patient_of(name) for name in names] == ["A-1", "A-1", "A-1", "Case_P005", "_Mask_1"]
    assert patient_of("case_7", ["_0000", ""]) == patient_of("case_7_0000", ["_0000", ""]) == "case_7"


def test_endings_in_capitals_are_endings(tmp_path):
    make(tmp_path, "Image/A_Vol_1.NII.GZ", "Image/B_Vol_1.Nrrd", "Mask/A_Mask_1.nii.gz", "Mask/B_Mask_1.NII")
    assert names(find_cases(tmp_path, LIDC)) == ["A_Vol_1", "B_Vol_1"]
    assert names(find_cases(tmp_path, LIDC, mask_dir=tmp_path / "Mask")) == ["A_Vol_1", "B_Vol_1"]
    assert list(find_images(tmp_path / "Image" / "A_Vol_1.NII.GZ")) == ["A_Vol_1"]
    assert ending_of(tmp_path / "A.NII.GZ") == ".nii.gz"


def test_a_link_to_a_file_that_is_gone_is_named(tmp_path):
    make(tmp_path, "A.nii.gz")
    (tmp_path / "B.nii.gz").symlink_to("gone.nii.gz")
    with refused(ValueError, tmp_path / "B.nii.gz", "a link to gone.nii.gz"):
        find_images(tmp_path)
    (tmp_path / "gone.nii.gz").touch()
    assert list(find_images(tmp_path)) == ["A", "B", "gone"]


def test_a_file_is_no_data_set_without_its_masks(lidc):
    image = lidc / "Image" / "A_Vol_1.nii.gz"
    with refused(FileNotFoundError, image, "is a file, not a folder", "dataset_root_dir"):
        find_cases(image, LIDC)
    assert names(find_cases(image, LIDC, mask_dir=lidc / "Mask")) == ["A_Vol_1"]
