"""Masks without images, images without masks, and splits that share patients are named with a fix."""

import shutil

import numpy as np
import pytest
from check_data import image_of, mask_of, only_finding, rewrite, rows_of

from LeFusion.check.files import patients_of
from LeFusion.dataset.cases import Layout


def test_a_mask_without_an_image(check, sick, tmp_path):
    image_of(sick).unlink()
    line = only_finding(check())
    assert "mask without an image" in line and "Mask/P-0002/P-0002_Mask_1.nii.gz" in line
    assert rows_of(tmp_path / "out")[""]["mask"].endswith("P-0002_Mask_1.nii.gz")


def test_a_mask_that_could_be_one_of_two(check, sick):
    for folder in ("a", "b"):
        (sick / "Mask" / folder).mkdir()
        shutil.copy(mask_of(sick), sick / "Mask" / folder)
    mask_of(sick).unlink()
    line = only_finding(check())
    assert "image without a mask" in line and "could be" in line and "P-0002_Vol_1" in line


def test_two_images_of_one_name(check, sick):
    other = sick / "Image" / "copy"
    other.mkdir()
    shutil.copy(image_of(sick), other)
    rewrite(other / image_of(sick).name, lambda a: a + 1)
    line = only_finding(check())
    assert "Image/copy/P-0002_Vol_1.nii.gz" in line and "rename one" in line


def test_a_patient_on_both_sides_of_the_split(check, sick, case_writer):
    for path in case_writer(sick, "P-0004_Vol_2.nii.gz", "P-0004_Mask_2.nii.gz", seed=9):
        rewrite(path, affine=np.diag([2.5, 0.7, 0.8, 1]))
    line = only_finding(check())
    assert "**warning**: the same patient" in line and ": P-0004. Fix: move" in line
    assert "before _CVol_ or _Vol_" in line


@pytest.mark.parametrize(
    "mask_names, names, patients",
    [
        ([("_Vol_", "_Mask_")], ["A_1_Vol_1", "A_1_Vol_2", "B_Vol_1"], ["A_1", "A_1", "B"]),
        ([("_0000", "")], ["la_003_0000", "la_004_0000"], ["la_003", "la_004"]),
        ([], ["P01_1", "P01_b", "P02_1"], ["P01", "P01", "P02"]),
        ([], ["Case_P005", "Case_N006"], ["Case_P005", "Case_N006"]),
        ([], ["liver_001", "spleen_001"], ["liver_001", "spleen_001"]),
        ([], ["Site21_001", "Site21_002"], ["Site21_001", "Site21_002"]),
    ],
)
def test_the_guess_at_patients(mask_names, names, patients):
    found, _ = patients_of(names, Layout(mask_names=mask_names))
    assert [found[name] for name in names] == patients


def test_without_a_split(check):
    line = only_finding(check("test_txt_dir=null"))
    assert "**warning**: there is no split" in line and "split=all" in line
