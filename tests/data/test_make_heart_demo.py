"""The demo hearts: the script that makes them, and the files that are shipped."""

import importlib.util
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

DATA = Path(__file__).parents[2] / "data"
SHIPPED = DATA / "demo" / "EMIDEC"
spec = importlib.util.spec_from_file_location("make_heart_demo", DATA / "make_heart_demo.py")
make_heart_demo = sys.modules["make_heart_demo"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_heart_demo)

CASES = make_heart_demo.CASES
CAVITY, MYOCARDIUM, INFARCT, NO_REFLOW = 1, 2, 3, 4


def load(case, root: Path = SHIPPED):
    folder = root / ("Pathological" if case.infarct else "Normal")
    return [nib.load(folder / kind / f"Case_{case.name}.nii.gz") for kind in ("images", "labels")]


def arrays(case, root: Path = SHIPPED):
    return [np.asarray(file.dataobj) for file in load(case, root)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hearts")
    make_heart_demo.main(["--out", str(folder)])
    return folder


def test_shipped_files_are_what_the_script_makes(made):
    """Up to what another NumPy or SciPy may round differently."""
    names = [
        {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
        for root in (SHIPPED, made / "EMIDEC")
    ]
    assert names[0] == names[1] and len(names[0]) == 2 * len(CASES) + 1
    for case in CASES:
        (image, labels), (other, other_labels) = arrays(case), arrays(case, made / "EMIDEC")
        assert (np.abs(image - other) > 1).mean() < 1e-3, case.name
        assert (labels != other_labels).mean() < 1e-4, case.name
    assert (made / "preview_emidec.png").stat().st_size < 200e3


def test_same_seed_gives_the_same_heart_and_another_seed_does_not(made):
    case = min(CASES, key=lambda case: case.slices)
    image, labels = arrays(case, made / "EMIDEC")
    again, again_labels = make_heart_demo.make_heart(case, 0)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(labels, again_labels)
    other, other_labels = make_heart_demo.make_heart(case, 1)
    assert (image != other).mean() > 0.8
    assert (labels != other_labels).any()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_geometry_and_labels(case):
    image_file, label_file = load(case)
    image, labels = arrays(case)
    assert image.shape == labels.shape == (96, 96, case.slices) and 6 <= case.slices <= 9
    assert image.dtype == np.int16 and labels.dtype == np.uint8
    assert image.min() >= 0 and image.max() <= 255
    for file in (image_file, label_file):
        np.testing.assert_allclose(file.affine, np.diag([-1.458, -1.458, 10, 1]), rtol=1e-6)

    present = {0, CAVITY, MYOCARDIUM}
    if case.infarct:
        present |= {INFARCT, NO_REFLOW} if case.infarct.no_reflow else {INFARCT}
    assert set(np.unique(labels)) == present

    cavity, heart = labels == CAVITY, labels > 0
    for k in range(case.slices):
        np.testing.assert_array_equal(ndimage.binary_fill_holes(labels[..., k] > CAVITY), heart[..., k])
        assert ndimage.label(cavity[..., k])[1] == 1
        # The wall closes around the cavity: nothing of the cavity touches the background.
        assert not (ndimage.binary_dilation(cavity[..., k], np.ones((3, 3))) & ~heart[..., k]).any()
    area = cavity.sum(axis=(0, 1))
    assert area[0] < 0.5 * area[-1] and (np.diff(area) > -0.05 * area[-1]).all()  # tapers to the apex
    widest_mm = 1.458 * (np.ptp(np.argwhere(heart)[:, :2], axis=0).max() + 1)
    assert 50 < widest_mm < 85
    off_centre = np.argwhere(heart)[:, :2].mean(axis=0) - 47.5
    assert np.hypot(*off_centre) > 4 and not heart[[0, -1]].any() and not heart[:, [0, -1]].any()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_grey_levels_are_those_of_late_enhancement(case):
    image, labels = arrays(case)
    mean = {k: image[labels == k].mean() for k in np.unique(labels)}
    assert mean[CAVITY] > mean[MYOCARDIUM] + 15
    if case.infarct:
        assert mean[INFARCT] > mean[MYOCARDIUM] + 30 and mean[INFARCT] > mean[CAVITY]
    if NO_REFLOW in mean:
        assert mean[NO_REFLOW] < mean[INFARCT] - 20 and mean[NO_REFLOW] < mean[CAVITY]

    # Beside the septum is the bright right ventricle, beside the free wall the dark lung.
    heart = labels[..., case.slices // 2] > 0
    centre = np.argwhere(heart).mean(axis=0)
    to_left, to_back = (g - c for g, c in zip(np.mgrid[:96, :96], centre, strict=True))
    turn = np.arctan2(to_back, to_left) - np.deg2rad(case.septum_deg - 180)
    distance = 1.458 * ndimage.distance_transform_edt(~heart)
    ring = (distance > 3) & (distance < 14)
    middle = image[..., case.slices // 2]
    septal, free = (middle[ring & (side * np.cos(turn) > 0.85)].mean() for side in (1, -1))
    assert septal > free + 20


@pytest.mark.parametrize("case", [case for case in CASES if case.infarct], ids=lambda case: case.name)
def test_infarct_is_a_wedge_from_the_endocardium(case):
    _, labels = arrays(case)
    lesion = labels >= INFARCT
    assert 0.03 < lesion.sum() / (labels >= MYOCARDIUM).sum() < 0.4
    share = 1 - ndimage.distance_transform_edt(labels != CAVITY, sampling=(1, 1, 1e3)) / 9
    assert share[lesion].mean() > share[labels == MYOCARDIUM].mean()  # nearer to the cavity
    beside = np.zeros((3, 3, 3), bool)
    beside[:, 1, 1] = beside[1, :, 1] = True
    for k in np.flatnonzero(lesion.any(axis=(0, 1))):
        touches = ndimage.binary_dilation(lesion[..., k]) & (labels[..., k] == CAVITY)
        assert touches.any() and ndimage.label(lesion[..., k], np.ones((3, 3)))[1] == 1
    around = ndimage.binary_dilation(labels == NO_REFLOW, beside) & (labels != NO_REFLOW)
    assert set(np.unique(labels[around])) <= {CAVITY, INFARCT}


def test_shipped_set_is_small_and_complete():
    pathological = [case for case in CASES if case.infarct]
    assert len(pathological) == 4 and len(CASES) == 8
    assert sum(case.infarct.no_reflow > 0 for case in pathological) >= 2
    tested = (SHIPPED / "Pathological" / "test.txt").read_text().splitlines()
    assert len(tested) == 2 and set(tested) < {f"Case_{case.name}" for case in pathological}
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 700e3
    assert (DATA / "demo" / "preview_emidec.png").stat().st_size < 200e3
    table = (DATA / "demo" / "README.md").read_text()
    assert all(case.name in table for case in CASES)
