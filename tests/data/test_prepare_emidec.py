"""EMIDEC's folders from a small archive as it is distributed."""

import importlib.util
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from LeFusion.data_types import load_data_type
from LeFusion.dataset.cases import find_cases

DATA = Path(__file__).parents[2] / "data"
spec = importlib.util.spec_from_file_location("prepare_emidec", DATA / "prepare_emidec.py")
prepare_emidec = sys.modules["prepare_emidec"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare_emidec)

AFFINE = np.diag([1.4, 1.4, 10, 1])


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def add_case(root, name, lesions=True, affine=AFFINE):
    labels = np.zeros((20, 22, 5), np.uint8)
    labels[5:15, 5:15, 1:4], labels[8:12, 8:12, 1:4] = 2, 1
    if lesions:
        labels[5:7, 8:12, 1:3] = 3
    image = np.random.default_rng(0).integers(0, 900, labels.shape).astype(np.int16)
    save(root / name / "Images" / f"{name}.nii.gz", image)
    save(root / name / "Contours" / f"{name}.nii.gz", labels, affine)
    (root / f"{name.replace('_', ' ')}.txt").write_text("Age : 60")


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "emidec-dataset-1.0.1"
    for name in ("Case_P005", "Case_P006", "Case_P007"):
        add_case(root, name)
    add_case(root, "Case_N011", lesions=False)
    return root


def run(archive, out, *options):
    return prepare_emidec.main([str(part) for part in ("--archive", archive, "--out", out, *options)])


def test_the_folders_are_a_data_set(archive, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(archive, out) == 0
    layout = load_data_type("emidec").layout
    cases = find_cases(out / "Pathological", layout)
    assert [case.name for case in cases] == ["Case_P005", "Case_P006", "Case_P007"]
    source = nib.load(archive / "Case_P006" / "Images" / "Case_P006.nii.gz")
    image = nib.load(cases[1].image_path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(source.dataobj))
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    assert set(np.unique(nib.load(cases[1].mask_path).dataobj)) == {0, 1, 2, 3}
    assert [path.name for path in (out / "Normal" / "images").iterdir()] == ["Case_N011.nii.gz"]
    assert (out / "Pathological" / "test.txt").read_text() == "Case_P005\n"
    assert "9 of LeFusion's 10 test cases are not in" in capsys.readouterr().out
    assert len(find_cases(out / "Pathological", layout, out / "Pathological" / "test.txt", "train")) == 2


def test_the_split_may_be_given_or_drawn(archive, tmp_path, capsys):
    listed = tmp_path / "list.txt"
    listed.write_text("Case_P006\nCase_P007\n")
    assert run(archive, tmp_path / "a", "--test-txt", listed) == 0
    assert (tmp_path / "a/Pathological/test.txt").read_text() == "Case_P006\nCase_P007\n"
    assert run(archive, tmp_path / "b", "--test-share", "0") == 0
    assert (tmp_path / "b/Pathological/test.txt").read_text() == ""
    listed.write_text("Case_P099\n")
    capsys.readouterr()
    assert run(archive, tmp_path / "c", "--test-txt", listed) == 1
    assert "lists Case_P099, not found" in capsys.readouterr().err


def test_mistakes_are_one_line_and_nothing_is_written(archive, tmp_path, capsys):
    def broken(part, change):
        capsys.readouterr()
        change()
        assert run(archive, tmp_path / "out") == 1
        error = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(error) == 1 and part in error[0], error
        assert not (tmp_path / "out").exists()

    other = np.full((20, 22, 5), 7, np.uint8)
    broken("holds the values [7.0]", lambda: save(archive / "Case_P006/Contours/Case_P006.nii.gz", other))
    moved = np.array(AFFINE)
    moved[0, 3] = 30
    broken("its affine differs", lambda: add_case(archive, "Case_P006", affine=moved))
    broken("is of a normal case", lambda: (add_case(archive, "Case_P006"), add_case(archive, "Case_N011")))
    label = archive / "Case_N011/Contours/Case_N011.nii.gz"
    broken("holds 0 files", lambda: (add_case(archive, "Case_N011", lesions=False), label.unlink()))
    add_case(archive, "Case_N011", lesions=False)
    broken("is no case of EMIDEC", lambda: (archive / "Case_X001").mkdir())
    assert run(tmp_path / "none", tmp_path / "out") == 1
