"""Regions from small .mhd scans and a table as LUNA16 has them."""

import csv
import importlib.util
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chest_scans import chest, circles, nodule_xml, save_mhd, save_xml

from LeFusion.dataset.cases import Layout, find_cases

DATA = Path(__file__).parents[2] / "data"
spec = importlib.util.spec_from_file_location("prepare_luna16", DATA / "prepare_luna16.py")
prepare_luna16 = sys.modules["prepare_luna16"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare_luna16)

ONE, TWO = ((38.0, 10.0, -250.0), 8.0), ((-36.0, -12.0, -230.0), 6.0)
HEADER = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"


def line(uid, nodule):
    return f"{uid},{','.join(map(str, nodule[0]))},{2 * nodule[1]}\n"


@pytest.fixture(scope="module")
def luna(tmp_path_factory):
    root = tmp_path_factory.mktemp("luna")
    save_mhd(root / "subset0" / "1.2.1.mhd", chest([ONE, TWO]))
    hu = chest()
    hu[:, :4] = -3024  # padding of a scanner
    save_mhd(root / "subset1" / "1.2.2.mhd", hu)
    table = HEADER + line("1.2.1", ONE) + line("1.2.1", TWO) + line("1.2.9", TWO)
    (root / "annotations.csv").write_text(table)
    return root


def run(luna, out, *options):
    return prepare_luna16.main([str(part) for part in ("--scans", luna, "--out", out, *options)])


def table(folder):
    return list(csv.DictReader((folder / "cases.csv").open()))


def test_regions_masks_and_tables(luna, tmp_path, capsys):
    assert run(luna, tmp_path, "--test-share", "0", "--normal", "2") == 0
    assert "2 scans, 1 of them with nodules" in capsys.readouterr().out
    rows = table(tmp_path / "Pathological")
    assert [row["name"] for row in rows] == ["1.2.1_Vol_1", "1.2.1_Vol_2"]
    for row, ((x, y, z), radius) in zip(rows, (ONE, TWO), strict=True):
        image = np.asarray(nib.load(tmp_path / f"Pathological/Image/1.2.1/{row['name']}.nii.gz").dataobj)
        mask_name = row["name"].replace("Vol", "Mask")
        mask = np.asarray(nib.load(tmp_path / f"Pathological/Mask/1.2.1/{mask_name}.nii.gz").dataobj) > 0
        assert mask.sum() == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.05)
        assert -120 < image[mask].mean() < 40 and image.min() >= -1024
        found = [float(row[f"{axis}_ras_mm"]) for axis in "xyz"]
        np.testing.assert_allclose(found, (-x, -y, z), atol=0.6)
        assert float(row["given_diameter_mm"]) == 2 * radius
    normal = table(tmp_path / "Normal")
    assert {row["patient"] for row in normal} == {"1.2.2"} and len(normal) == 2
    assert len(find_cases(tmp_path / "Normal", Layout())) == 2


def test_outlines_of_lidc_may_be_the_masks(luna, tmp_path):
    rois = [(z, True, points) for z, points in circles(*ONE, scale=0.6)]
    save_xml(tmp_path / "xml" / "1.xml", "1.2.1", [nodule_xml(rois)])
    assert run(luna, tmp_path / "out", "--normal", "0", "--annotations", tmp_path / "xml") == 0
    (row,) = table(tmp_path / "out" / "Pathological")
    assert float(row["diameter_mm"]) == pytest.approx(0.6 * 16, rel=0.15) and row["readers"] == "1"


def test_what_is_to_be_avoided_is_in_no_normal_region(luna, tmp_path):
    z, y, x = np.meshgrid(np.arange(-290, -200, 12), np.arange(-60, 61, 15), (-40, 40), indexing="ij")
    lines = [f"1.2.2,{a},{b},{c}\n" for a, b, c in zip(x.ravel(), y.ravel(), z.ravel(), strict=True)]
    (tmp_path / "avoid.csv").write_text("seriesuid,coordX,coordY,coordZ\n" + "".join(lines))
    assert run(luna, tmp_path / "out", "--test-share", "0", "--avoid", tmp_path / "avoid.csv") == 0
    assert table(tmp_path / "out" / "Normal") == []


@pytest.mark.parametrize(
    "text, part",
    [
        ("seriesuid,x,y\n", "lacks the columns coordX, coordY, coordZ, diameter_mm"),
        (HEADER + "1.2.1,1,2,far,4\n", "line 2"),
        (HEADER + "1.2.1,1,2,3,-4\n", "line 2"),
        (HEADER + line("1.2.9", ONE), "nodules of none of the scans"),
    ],
)
def test_a_wrong_table_is_one_line(luna, tmp_path, capsys, text, part):
    (tmp_path / "table.csv").write_text(text)
    assert run(luna, tmp_path / "out", "--table", tmp_path / "table.csv") == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and part in error[0] and not (tmp_path / "out" / "Pathological").exists()


def test_nodules_that_do_not_fit_are_counted_and_scans_that_cannot_be_read_named(luna, tmp_path, capsys):
    scans = tmp_path / "scans"
    save_mhd(scans / "1.2.1.mhd", chest([ONE]))
    save_mhd(scans / "1.2.3.mhd", chest() + np.int16(1024))
    huge = ((38.0, 10.0, -250.0), 30.0)
    (scans / "annotations.csv").write_text(
        HEADER + line("1.2.1", ONE) + line("1.2.1", huge) + line("1.2.3", ONE)
    )
    assert run(scans, tmp_path / "out", "--normal", "0") == 0
    printed = capsys.readouterr()
    assert "1 scans skipped, 1 too large" in printed.out
    assert "1.2.3.mhd: its values" in printed.err and "not in HU" in printed.err
