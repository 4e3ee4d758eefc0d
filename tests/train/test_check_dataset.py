"""The check of a data set: each planted defect is found and named with a fix; what is written, exit codes."""

import csv
import os
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from PIL import Image

import LeFusion.train.check_dataset as checking
from LeFusion.check import report as dataset_report
from LeFusion.check.facts import CaseFacts, CheckSettings, measure
from LeFusion.check.files import patients_of
from LeFusion.dataset.cases import Layout
from LeFusion.runtime.commandline import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / "LeFusion" / "train" / "check_dataset.py"
OUTPUTS = ["check_dataset.csv", "check_dataset.md", "check_dataset.png"]


@pytest.fixture
def sick(lidc):
    """Four clean cases, P-0001 to P-0004, the last in test.txt; voxels of 2.5 x 0.7 x 0.8 mm."""
    for path in sorted((lidc / "Pathological").rglob("*.nii.gz")):
        rewrite(path, lambda a: np.clip(a, -1000, 400), np.diag([2.5, 0.7, 0.8, 1]))
    return lidc / "Pathological"


@pytest.fixture(autouse=True)
def sheets(monkeypatch):
    """What would be drawn: drawing takes longer than all else. `sheets.undo()` draws."""
    with monkeypatch.context() as patch:
        patch.setattr(dataset_report, "save_contact_sheet", lambda path, *_: path.write_text("drawn"))
        yield patch


@pytest.fixture
def check(sick, tmp_path, command):
    """-> check(*overrides): (exit code, stdout, stderr) of the check of `sick` into "out"."""

    def call(*overrides):
        defaults = {
            "dataset_root_dir": sick,
            "test_txt_dir": sick / "test.txt",
            "output_folder": tmp_path / "out",
            "diffusion_depth_size": 8,
            "diffusion_img_size": 16,
        }
        given = {override.split("=", 1)[0] for override in overrides}
        kept = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        return command(checking.main, "check_dataset", *kept, *overrides)

    return call


def image_of(sick, number=2):
    return sick / "Image" / f"P-{number:04d}" / f"P-{number:04d}_Vol_1.nii.gz"


def mask_of(sick, number=2):
    return sick / "Mask" / f"P-{number:04d}" / f"P-{number:04d}_Mask_1.nii.gz"


def rewrite(path, change=None, affine=None):
    """The file with its array changed in place, or with a new one, or with another affine."""
    stored = nibabel.load(path)
    array = np.asanyarray(stored.dataobj).copy()
    changed = change(array) if change else None
    array = array if changed is None else changed
    nibabel.save(nibabel.Nifti1Image(array, stored.affine if affine is None else affine), path)


def findings_in(report: str) -> list[str]:
    return [line for line in report.split("\n") if line.startswith("- **")]


def only_finding(result) -> str:
    code, out, error = result
    found = findings_in(out)
    assert len(found) == 1, (found, error)
    assert code == ("**error**" in found[0])
    return found[0]


def rows_of(folder):
    with open(folder / "check_dataset.csv", newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_a_clean_data_set(check, sick, sheets, tmp_path, files):
    sheets.undo()
    before = files(sick)
    code, out, error = check()
    assert code == 0 and "Nothing is wrong" in out and "0 errors, 0 warnings" in out, error
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == OUTPUTS
    assert all(str(tmp_path / "out" / name) in out.split("0 warnings")[1] for name in OUTPUTS)
    assert files(sick) == before
    with Image.open(tmp_path / "out" / "check_dataset.png") as picture:
        picture.load()
    report = (tmp_path / "out" / "check_dataset.md").read_text()
    assert report.startswith("# Check of a data set") and all(
        part in report for part in out.split("\n\n")[1:-2]
    )
    row = rows_of(tmp_path / "out")["P-0004_Vol_1"]
    values = nibabel.load(image_of(sick, 4)).get_fdata()
    assert row["image"] == "Image/P-0004/P-0004_Vol_1.nii.gz" and row["problem"] == ""
    assert row["mask"] == "Mask/P-0004/P-0004_Mask_1.nii.gz" and row["dtype"] == "int16"
    assert (row["split"], rows_of(tmp_path / "out")["P-0001_Vol_1"]["split"]) == ("test", "train")
    assert (row["shape"], row["extent"], row["voxels_1"]) == ("8 16 16", "3 5 4", "60")
    assert (float(row["min"]), float(row["max"])) == (values.min(), values.max())
    assert (row["spacing_mm"], row["orientation"]) == ("2.5 0.7 0.8", "RAS")
    assert float(row["lesion_ml"]) == pytest.approx(60 * 2.5 * 0.7 * 0.8 / 1000)


def cells(out: str, title: str) -> list[list[str]]:
    """The rows of the tables below a title."""
    part = out.split(f"## {title}")[1].split("##")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.split("\n") if "|" in line]


def test_the_tables_count_and_measure(check, sick):
    rewrite(mask_of(sick, 1), lambda a: a.__setitem__((slice(None), 3, 6), 1))
    values = np.concatenate([nibabel.load(image_of(sick, n)).get_fdata().ravel() for n in range(1, 5)])
    out = check()[1]
    assert ["train", "3"] in cells(out, "Cases") and ["test", "1"] in cells(out, "Cases")
    assert ["8 x 16 x 16", "4"] in cells(out, "Geometry")
    assert ["1", "lesion 1", "4", f"{4 * 60 + 5}"] in cells(out, "Labels")
    whole = cells(out, "Intensities, HU")[2]
    assert [whole[1].replace(",", ""), whole[5]] == [f"{values.min():.0f}", f"{values.max():.4g}"]
    assert float(whole[3]) == pytest.approx(np.median(values), abs=15)
    lesions = cells(out, "Lesions")
    assert lesions[2][:5] == ["1", "4", "60", "60", "65"]
    assert ["depth", "3", "3", "8", "8", "0"] in lesions and ["any", "", "", "", "", "0"] in lesions
    used = cells(out, "Histograms of the lesions")[2]
    assert used[1] == "16 of 16" and sum(map(int, used[2].split())) == pytest.approx(100, abs=8)


# --- one defect at a time: (damage, level, texts of its one line)


def shift(path):
    affine = nibabel.load(path).affine.copy()
    affine[:3, 3] += 5
    rewrite(path, affine=affine)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


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
        "warning",
        ["P-0002_Mask_1.nii.gz (by up to 5)", "look"],
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
    errors, warnings = findings_in(out)
    assert code == 1 and "7 errors, 1 warning" in out and errors.startswith("- **error**")
    assert "(7)" in errors and "P-0015_Mask_1" in errors and "P-0016_Mask_1" not in errors
    assert "and 2 more (check_dataset.csv)" in errors
    assert "no lesion" in rows_of(tmp_path / "out")["P-0017_Vol_1"]["problem"]


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


# --- against the network's region and the window


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
        rewrite(image_of(sick, number), lambda a: a.__setitem__((0, 0, 0), 30000))
    line = only_finding(check("window=minmax"))
    assert "too wide" in line and "window={percentiles: [1, 99]}" in line


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


def test_the_picture_has_half_of_its_rows_for_findings(lidc):
    layout = Layout()
    settings = CheckSettings(lidc, layout, (-1000, 400), 16, (8, 16, 16))
    facts = []
    for number in range(20):
        case = CaseFacts(f"c{number:02d}", image_of(lidc / "Pathological"), mask_of(lidc / "Pathological"))
        measure(case, settings)
        case.labels = {1.0: 100 - number}
        if number < 8:
            case.add("warning", "odd", "", "")
        facts.append(case)
    names = [case.name for case in dataset_report._chosen(facts, settings, 12)]
    assert len(names) == 12 and sum(name < "c08" for name in names) == 6
    assert {"c08", "c19"} <= set(names) and names == sorted(names, reverse=True)


# --- what is written, and what is refused


def test_without_a_readable_image_there_is_no_picture(check, sick, tmp_path):
    assert check()[0] == 0
    for number in range(1, 5):
        cut(image_of(sick, number))
    code, out, _ = check()
    assert code == 1 and "check_dataset.png" not in out.split("## Findings")[1].split("wrote", 1)[1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == OUTPUTS[:2]


def test_a_full_disk_leaves_nothing_half_written(check, tmp_path, monkeypatch):
    def replace(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    code, _, error = check()
    assert code == 1 and error.split("\n")[-2].startswith("error: ") and "No space left" in error
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "overrides, texts",
    [
        (["dataset_root_dir=nowhere"], ["nowhere", "no such folder"]),
        (["dataset_root_dir="], ["dataset_root_dir"]),
        (["output_folder="], ["output_folder"]),
        (["window=[400,-1000]"], ["window"]),
        (["window=wide"], ["window=wide"]),
        (["cond_dim=32"], ["cond_dim=32 must be 16"]),
        (["diffusion_num_channels=2"], ["diffusion_num_channels=2 must be 1"]),
        (["crop_size=[4,8]"], ["crop_size=[4, 8]", "three"]),
        (["spacing_mm=[1,1,0]"], ["spacing_mm=[1, 1, 0]", "above 0"]),
        (["diffusion_img_size=wide"], ["diffusion_img_size=wide"]),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(check, tmp_path, overrides, texts):
    code, _, error = check(*overrides)
    assert code == 1 and error.startswith("error: ") and error.count("\n") == 1, error
    for text in texts:
        assert text in error
    assert not (tmp_path / "out").exists()


def test_no_images_at_all(check, sick, tmp_path):
    shutil.rmtree(sick / "Image")
    (sick / "Image").mkdir()
    code, _, error = check()
    assert code == 1 and "no case found" in error and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_as_a_script_with_relative_paths(sick, tmp_path):
    cut(image_of(sick))
    given = ["dataset_root_dir=LIDC/../LIDC/Pathological/Image", "test_txt_dir=LIDC/Pathological/test.txt"]
    command = [sys.executable, str(SCRIPT), *given, "output_folder=out", "diffusion_img_size=16"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "4/4" in done.stderr, done.stderr
    assert ": Image/P-0002/P-0002_Vol_1.nii.gz is a damaged" in only_finding((1, done.stdout, ""))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == OUTPUTS


def test_help_and_misspelt_keys(command_line):
    code, out, _ = command_line(checking.main, "--help")
    assert code == 0 and "output_folder" in out and "data_type: " in out and "Exit code" in out
    code, _, error = command_line(checking.main, "output=report.md")
    assert code == 1 and "output" in error
