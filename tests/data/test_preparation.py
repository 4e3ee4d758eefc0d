"""The parts that prepare_lidc.py and prepare_luna16.py share, where no region shows what they do."""

import numpy as np
import pytest
from chest_scans import chest, circles, index_of, nodule_xml, save_mhd, save_xml
from phantoms.volumes import write_volume
from preparation.annotations import reads_of_xml
from preparation.dataset import _points_of_mask
from preparation.lesions import Ball, marked_points
from preparation.opened import DARKEST, Opened

WORLD = (38.0, 10.0, -250.0)  # LPS


@pytest.fixture
def scan_path(tmp_path):
    hu = chest().astype(np.int32)
    hu[28, 40:44, 20:24] = 64511  # brighter than int16 holds
    hu[0, 0, 0] = -3024
    save_mhd(tmp_path / "scan.mhd", hu)
    return tmp_path / "scan.mhd"


def test_reads_of_one_series_twice_are_taken_once_and_different_ones_refused(tmp_path):
    outlines = [(z, True, points) for z, points in circles(WORLD, 6.0)]
    for name in ("a", "b"):
        save_xml(tmp_path / f"{name}.xml", "1.2", [nodule_xml(outlines)])
    assert len(reads_of_xml(tmp_path)["1.2"].annotations) == 1
    save_xml(tmp_path / "b.xml", "1.2", [""])
    with pytest.raises(ValueError, match=r"b.xml: is of the same series as .*a.xml, but differs"):
        reads_of_xml(tmp_path)


@pytest.mark.parametrize("spacing", ["native", "1"])
def test_values_that_int16_does_not_hold_do_not_turn_dark(scan_path, spacing):
    scan = Opened(scan_path, spacing)
    start = np.rint(scan.to_grid(np.array([28, 42, 22]))).astype(int) - (16, 32, 11)
    region = scan.region(np.maximum(start, 0))
    assert region.max() == np.iinfo(np.int16).max and region.min() >= DARKEST
    assert scan.hu[0, 0, 0] == DARKEST


def test_marks_lie_where_their_pixels_do(scan_path, tmp_path):
    scan = Opened(scan_path, "1")
    ras = np.array([-WORLD[0], -WORLD[1], WORLD[2]])
    np.testing.assert_allclose(scan.index(ras), index_of(WORLD))
    np.testing.assert_allclose(scan.world(index_of(WORLD)), ras)
    np.testing.assert_allclose(marked_points(scan, [], [(-250.0, 70, 55)]), [(25, 55, 70)])
    assert marked_points(scan, [], []).shape == (0, 3)


def test_a_ball_outside_the_scan_has_no_points(scan_path):
    assert len(Ball(Opened(scan_path, "1"), np.array([500.0, 0, 0]), 10).points()) == 0


def test_a_mask_of_other_voxels_keeps_its_volume(scan_path, tmp_path):
    mask = np.zeros((32, 64, 64), np.uint8)
    mask[10:20, 20:40, 20:40] = 1
    write_volume(tmp_path / "mask.nii.gz", mask, np.diag([-2.0, -1, 1, 1]))
    scan = Opened(scan_path, "native")  # 2, 1.6, 1.6 mm
    found = len(_points_of_mask(tmp_path / "mask.nii.gz", scan)) * np.prod(scan.step_mm)
    assert found == pytest.approx(mask.sum() * 2, rel=0.1)
