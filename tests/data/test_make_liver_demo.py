"""The script that makes liver phantoms for the walk-through of a data set of one's own."""

import importlib.util
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

DATA = Path(__file__).parents[2] / "data"
spec = importlib.util.spec_from_file_location("make_liver_demo", DATA / "make_liver_demo.py")
make_liver_demo = sys.modules["make_liver_demo"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_liver_demo)

LIVER, TUMOUR = 1, 2
SHAPE = (20, 40, 48)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("livers")
    for name in ("a", "b"):
        shape = [str(n) for n in SHAPE]
        make_liver_demo.main(["--out", str(folder / name), "--cases", "6", "--seed", "3", "--shape", *shape])
    return folder


def load(root: Path, number: int):
    return [
        nib.load(root / path)
        for path in (f"imagesTr/liver_{number:03d}_0000.nii.gz", f"labelsTr/liver_{number:03d}.nii.gz")
    ]


def test_layout(made):
    written = sorted(str(path.relative_to(made / "a")) for path in (made / "a").rglob("*") if path.is_file())
    expected = ["Tumour/test.txt"]
    for number in range(1, 9):
        group = "Tumour" if number <= 6 else "Normal"
        expected += [
            f"{group}/imagesTr/liver_{number:03d}_0000.nii.gz",
            f"{group}/labelsTr/liver_{number:03d}.nii.gz",
        ]
    assert written == sorted(expected)
    assert (made / "a" / "Tumour" / "test.txt").read_text() == "liver_006_0000\n"


def test_same_seed_gives_the_same_files_and_another_seed_does_not(made):
    for path in (made / "a").rglob("*.nii.gz"):
        assert path.read_bytes() == (made / "b" / path.relative_to(made / "a")).read_bytes(), path
    one, other = (make_liver_demo.make_liver(seed, 1, SHAPE) for seed in (3, 4))
    assert (one[0] != other[0]).mean() > 0.8 and (one[1] != other[1]).any()


@pytest.mark.parametrize("number", range(1, 9))
def test_geometry_labels_and_hu(made, number):
    image_file, label_file = load(made / "a" / ("Tumour" if number <= 6 else "Normal"), number)
    image, labels = (np.asarray(file.dataobj) for file in (image_file, label_file))
    assert image.shape == labels.shape == SHAPE[::-1]  # depth last on disk
    assert image.dtype == np.int16 and labels.dtype == np.uint8
    for file in (image_file, label_file):
        np.testing.assert_allclose(file.affine, np.diag([-1.5, -1.5, 3, 1]))
    assert set(np.unique(labels)) == {0, LIVER, TUMOUR}
    assert 0.15 < (labels > 0).mean() < 0.7 and (labels == TUMOUR).sum() > 30
    assert -1024 <= image.min() < -700 and image.max() > 250  # air or lung, and bone
    assert 85 < np.median(image[labels == LIVER]) < 125


@pytest.mark.parametrize("number", [1, 2, 3])
def test_textures_take_turns_and_can_be_told_apart(number):
    texture = list(make_liver_demo.TEXTURES)[number - 1]
    image, labels = make_liver_demo.make_liver(0, number, (32, 64, 64), texture)
    liver = np.median(image[labels == LIVER])
    low, middle, high = np.percentile(image[labels == TUMOUR] - liver, [15, 50, 90])
    if texture == "hypodense":
        assert middle < -35 and low > -75
    elif texture == "hyperdense":
        assert middle > 40
    else:
        assert low < -60 and high > 10


def test_normal_livers_have_a_place_but_no_tumour():
    image, labels = make_liver_demo.make_liver(0, 1, (32, 64, 64), None)
    with_tumour, same_labels = make_liver_demo.make_liver(0, 1, (32, 64, 64), "hypodense")
    np.testing.assert_array_equal(labels, same_labels)
    assert abs(np.median(image[labels == TUMOUR]) - np.median(image[labels == LIVER])) < 8
    assert (image != with_tumour)[labels == TUMOUR].mean() > 0.9


@pytest.mark.parametrize("options", [["--cases", "0"], ["--shape", "8", "64", "64"]])
def test_mistakes_are_refused(options, tmp_path, capsys):
    with pytest.raises(SystemExit):
        make_liver_demo.main(["--out", str(tmp_path), *options])
    assert "at least" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
