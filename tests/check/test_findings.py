"""Each planted defect is found and named with its file and a fix."""

import shutil

import nibabel
import numpy as np
import pytest
from check_data import OUTPUTS, cells, cut, findings_in, image_of, mask_of, only_finding, rewrite, rows_of


def shift(path):
    affine = nibabel.load(path).affine.copy()
    affine[:3, 3] += 5
    rewrite(path, affine=affine)


def half_voxel(path):
    rewrite(path, lambda a: a.astype(np.float32) * 0.5)


def fill(array):
    array[:, 1:15] = 1


def with_nan(array):
    array = array.astype(np.float32)
    array[1, 1, 1] = np.nan
    return array


def single_voxels(array):
    array[array > 0] = 0
    array[4, 4, 4] = 1


DEFECTS = {
    "no mask": (
        lambda s: mask_of(s).unlink(),
        "error",
        ["P-0002_Vol_1", "is missing", "add the mask"],
    ),
    "cut image": (
        lambda s: cut(image_of(s)),
        "error",
        ["P-0002_Vol_1.nii", "damaged", "download it"],
    ),
    "cut mask": (
        lambda s: cut(mask_of(s)),
        "error",
        ["P-0002_Mask_1.nii", "damaged", "download it"],
    ),
    "NaN": (lambda s: rewrite(image_of(s), with_nan), "error", ["P-0002_Vol_1", "1 NaN", "replace them"]),
    "shapes": (
        lambda s: rewrite(mask_of(s), lambda a: a[1:]),
        "error",
        ["P-0002_Mask_1.nii.gz (7, 16, 16)", "image (8, 16, 16)", "export the mask again"],
    ),
    "geometry": (
        lambda s: shift(mask_of(s)),
        "error",
        ["P-0002_Mask_1.nii.gz", "up to 5 mm apart", "export the mask again"],
    ),
    "empty mask": (
        lambda s: rewrite(mask_of(s), lambda a: a * 0),
        "error",
        ["holds no lesion", "P-0002_Mask_1.nii.gz", "draw the lesion (label 1)"],
    ),
    "unknown label": (
        lambda s: rewrite(mask_of(s), lambda a: a.__setitem__((0, 0, 0), 9)),
        "error",
        ["P-0002_Mask_1.nii.gz (9)", "layout.other_labels"],
    ),
    "constant": (
        lambda s: rewrite(image_of(s), lambda a: a * 0 + 3),
        "error",
        ["P-0002_Vol_1.nii.gz", "every voxel is 3", "look at the image"],
    ),
    "copy in the train set": (
        lambda s: shutil.copy(image_of(s, 1), image_of(s, 2)),
        "warning",
        ["P-0001_Vol_1 = P-0002_Vol_1", "keep one"],
    ),
    "copy in the test set": (
        lambda s: shutil.copy(image_of(s, 1), image_of(s, 4)),
        "error",
        ["same image in test and train", "P-0001_Vol_1 = P-0004_Vol_1", "keep one"],
    ),
    "copy of other type": (
        lambda s: rewrite(shutil.copy(image_of(s, 1), image_of(s, 4)), lambda a: a.astype(np.float64)),
        "error",
        ["same image in test and train", "P-0001_Vol_1 = P-0004_Vol_1"],
    ),
    "unknown test name": (
        lambda s: (s / "test.txt").write_text("P-0004_Vol_1\np-0003_vol_1\n"),
        "error",
        ["p-0003_vol_1 (there is P-0003_Vol_1)", "correct the line"],
    ),
    "repeated test name": (
        lambda s: (s / "test.txt").write_text("P-0004_Vol_1\n\nP-0004_Vol_1.nii.gz\n"),
        "warning",
        ["more than once in test.txt", "P-0004_Vol_1", "remove"],
    ),
    "no test.txt": (
        lambda s: (s / "test.txt").unlink(),
        "error",
        ["test.txt", "No such file", "write the"],
    ),
    "binary test.txt": (lambda s: (s / "test.txt").write_bytes(b"\xff\xfe"), "error", ["test.txt", "UTF-8"]),
    "all in test": (
        lambda s: (s / "test.txt").write_text("".join(f"P-000{n}_Vol_1\n" for n in range(1, 5))),
        "error",
        ["all images are test images", "take lines out"],
    ),
    "a lesion of a voxel": (
        lambda s: rewrite(mask_of(s), single_voxels),
        "warning",
        ["P-0002_Mask_1.nii.gz (1)", "fewer voxels", "slip of the pen"],
    ),
    "a lesion everywhere": (
        lambda s: rewrite(mask_of(s), fill),
        "warning",
        ["P-0002_Mask_1.nii.gz (88%)", "layout.other_labels"],
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_named_with_its_file_and_fix(check, sick, tmp_path, name):
    damage, level, texts = DEFECTS[name]
    damage(sick)
    line = only_finding(check())
    assert line.startswith(f"- **{level}**") and ". Fix: " in line
    for text in texts:
        assert text in line
    assert line in (tmp_path / "out" / "check_dataset.md").read_text()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == OUTPUTS


def test_several_defects_are_all_reported(check, sick, tmp_path):
    for name in ("unknown label", "copy in the test set"):
        DEFECTS[name][0](sick)
    cut(image_of(sick, 3))
    rewrite(image_of(sick, 2), lambda a: a * 0)
    code, out, _ = check()
    found = findings_in(out)
    assert code == 1 and len(found) == 4 and "4 errors, 0 warnings" in out
    for text in ("P-0003_Vol_1.nii.gz", "P-0002_Vol_1.nii.gz", "P-0002_Mask_1.nii.gz (9)", "P-0004_Vol_1"):
        assert sum(text in line for line in found) == 1
    rows = rows_of(tmp_path / "out")
    assert "constant" in rows["P-0002_Vol_1"]["problem"] and "(9)" in rows["P-0002_Vol_1"]["problem"]
    assert "damaged" in rows["P-0003_Vol_1"]["problem"] and rows["P-0003_Vol_1"]["voxels_1"] == "60"
    assert "P-0001_Vol_1" in rows["P-0004_Vol_1"]["problem"]
    assert rows["P-0002_Vol_1"]["voxels_9"] == "1" and rows["P-0001_Vol_1"]["voxels_9"] == "0"


def test_errors_come_first_and_many_files_are_one_line(check, sick, case_writer, tmp_path):
    for number in range(11, 18):
        names = (f"P-{number:04d}_Vol_1.nii.gz", f"P-{number:04d}_Mask_1.nii.gz")
        image, mask = case_writer(sick, *names, seed=number)
        rewrite(image, affine=np.diag([2.5, 0.7, 0.8, 1]))
        rewrite(mask, lambda a: a * 0, np.diag([2.5, 0.7, 0.8, 1]))
    shift(mask_of(sick, 1))
    code, out, _ = check()
    moved, errors = sorted(findings_in(out), key=lambda line: "(7)" in line)
    assert "differ in geometry" in moved
    assert code == 1 and "8 errors, 0 warnings" in out and errors.startswith("- **error**")
    assert "(7)" in errors and "P-0015_Mask_1" in errors and "P-0016_Mask_1" not in errors
    assert "and 2 more (check_dataset.csv)" in errors
    assert "no lesion" in rows_of(tmp_path / "out")["P-0017_Vol_1"]["problem"]


def test_lesions_larger_than_the_region(check, sick):
    rewrite(mask_of(sick), lambda a: a.__setitem__((slice(1, 7), 3, slice(1, 12)), 1))
    line = only_finding(check("diffusion_img_size=8"))
    assert "**error**: lesion does not fit" in line and "P-0002_Mask_1.nii.gz 6 x 5 x 11" in line
    assert "diffusion_depth_size=8 diffusion_img_size=16 would hold all" in line
    line = only_finding(check("diffusion_depth_size=5"))
    assert "6 x 5 x 11" in line and "diffusion_depth_size=6 diffusion_img_size=16" in line
    line = only_finding(check("crop_size=[8,16,8]"))
    assert "**warning**: lesion larger than crop_size 8 x 16 x 8" in line
    assert check("crop_size=[8,16,16]", "diffusion_img_size=8")[0] == 0


def test_lesions_are_measured_on_the_grid_of_the_network(check, sick):
    """3 x 5 x 4 voxels of 2.5 x 0.7 x 0.8 mm."""
    assert not findings_in(check("spacing_mm=[2.5,0.7,0.8]")[1])
    line = only_finding(check("spacing_mm=[2.5,0.7,0.16]"))
    assert "lesion does not fit" in line and "P-0001_Mask_1.nii.gz 3 x 5 x 20" in line
    line = only_finding(check("spacing_mm=[2.5,1.4,0.8]"))
    assert "slices are smaller" in line and "P-0001_Vol_1.nii.gz 8 x 16" in line


def test_images_smaller_than_the_region(check):
    line = only_finding(check("diffusion_img_size=24"))
    assert "**warning**: slices are smaller" in line and "(4)" in line and "P-0001_Vol_1.nii.gz 16 x" in line


@pytest.mark.parametrize(
    "override, texts",
    [
        ("diffusion_img_size=12", ["multiples of 8", "8 x 12 x 12", "diffusion_img_size"]),
        ("crop_size=[8,16,12]", ["multiples of 8", "8 x 16 x 12", "crop_size"]),
        ("layout.lesion_labels=[1,2]", ["lesion label 2", "occurs in no mask", "layout.lesion_labels"]),
        ("layout.other_labels=[3]", ["label 3 of the layout", "4 masks", "layout.other_labels"]),
        ("window=[-1000,100000]", ["use only 1 of 16", "too wide", "window=["]),
        ("window=[-1000,-600]", ["clips", "of the lesion voxels", "window=[-10"]),
    ],
)
def test_a_setting_that_does_not_suit_the_data(check, override, texts):
    line = only_finding(check(override))
    for text in texts:
        assert text in line


def test_a_wide_window_of_own_range(check, sick):
    for number in range(1, 5):
        rewrite(image_of(sick, number), lambda a: a.__setitem__((0, 0), 30000))
    line = only_finding(check("window=minmax"))
    assert "too wide" in line and "window={percentiles: [1, 99]}" in line


def test_hot_voxels_are_named(check, sick):
    for number in (1, 3):
        rewrite(image_of(sick, number), lambda a: a.__setitem__((0, 0, 0), 30000))
    line = only_finding(check("window=minmax"))
    assert (
        "single voxels are far brighter or darker than all others (2)" in line
        and "all but 1 of them from" in line
    )


def test_a_reference_label_that_a_case_lacks(check, sick):
    for number in (1, 3, 4):
        rewrite(mask_of(sick, number), lambda a: a.__setitem__((0, 0, 0), 2))
    line = only_finding(check("layout.other_labels=[2]", "+layout.reference_label=2"))
    assert "P-0002_Mask_1.nii.gz" in line and "layout.reference_label=null" in line


def test_depth_last_data_read_as_depth_first_are_suspected(check, sick):
    for number in range(1, 5):
        for path in (image_of(sick, number), mask_of(sick, number)):
            rewrite(path, lambda a: np.moveaxis(a, 0, 2), np.diag([1.0, 1, 5, 1]))
    region = ["diffusion_depth_size=16", "diffusion_img_size=8"]
    line = only_finding(check(*region))
    assert "**warning**: layout.depth_axis=0 may be wrong" in line and "check_dataset.png" in line
    code, out, _ = check("layout.depth_axis=2")
    assert code == 0 and "Nothing is wrong" in out and "| depth (stored axis 2)  | 5 " in out


def test_voxel_sizes_and_orientations_that_differ(check, sick):
    for path in (image_of(sick), mask_of(sick)):
        rewrite(path, affine=np.diag([-10, 0.7, 0.8, 1]))
    code, out, _ = check()
    orientation, sizes = findings_in(out)
    assert code == 0 and "orientations" in orientation and "LAS 1" in orientation and "RAS 3" in orientation
    assert "depth 2.5 to 10 mm" in sizes and "spacing_mm=[" in sizes
    assert "voxel sizes" not in "".join(findings_in(check("spacing_mm=[2.5,0.7,0.8]")[1]))


def test_two_classes_depth_last_and_a_window_of_own_range(check, tmp_path):
    root, rng = tmp_path / "heart", np.random.default_rng(0)
    for number in range(3):
        image, labels = rng.integers(0, 255, (16, 24, 6)).astype(np.int16), np.zeros((16, 24, 6), np.uint8)
        labels[2:10, 3:12, 1:5] = 2
        labels[3:9, 4:9, 1:3] = 3
        if number:
            labels[4:8, 9:12, 1:4] = 4
        for folder, array in (("images", image), ("labels", labels)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            path = root / folder / f"Case_P{number}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(array, np.diag([1.5, 2, 10, 1])), path)
    given = ["data_type=emidec", f"dataset_root_dir={root / 'images'}", "test_txt_dir=null"]
    code, out, error = check(*given, "layout.cavity_label=null", "layout.myocardium_label=null")
    assert code == 0, error
    assert findings_in(out)[-1].count("label 1 of the layout occurs in no mask")
    assert ["3", "lesion 1", "3", "180"] in cells(out, "Labels") and ["4", "lesion 2", "2", "72"] in cells(
        out, "Labels"
    )
    assert ["depth (stored axis 2)", "10", "10", "10", "6", "6", "6"] in cells(out, "Geometry")
    assert ["4", "2", "36", "36", "36", "1.08", "1.08", "1.08"] in cells(out, "Lesions")
    row = rows_of(tmp_path / "out")["Case_P1"]
    assert row["image"] == "images/Case_P1.nii.gz" and row["extent"] == "3 6 8"
