"""Spheres from a table."""

import nibabel
import numpy as np
import pytest
from planned import CT, FLIPPED, lung_hu, refused, save

from DiffMask.inference.nodules import Site, read_spheres


def table(path, *rows, columns="case,x_mm,y_mm,z_mm,diameter_mm"):
    path.write_text("\n".join([columns, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    "affine",
    [
        FLIPPED,
        np.array([[0.7, 0.2, 0.1, -12.5], [-0.2, 0.7, 0.05, 31.0], [0.0, -0.1, 2.5, 7.25], [0, 0, 0, 1]]),
        np.array([[0, 0.9, 0, 5], [-0.8, 0, 0, -3], [0, 0, -1.5, 70], [0, 0, 0, 1.0]]),  # x and y exchanged
    ],
)
def test_world_coordinates_land_on_their_voxel(tmp_path, plan, affine):
    root = save(tmp_path / "scan.nii.gz", lung_hu(), affine, 2)
    stored = np.array([[20, 27, 12], [30.25, 20.5, 10.75]])  # voxels (x, y, z) as stored
    world = nibabel.affines.apply_affine(affine, stored)
    rows = [f"scan,{x:.6f},{y:.6f},{z:.6f},{d}" for (x, y, z), d in zip(world, (6, 9.5), strict=True)]
    spheres = table(tmp_path / "spheres.csv", *rows)
    drafts = plan(root, CT, spheres=spheres)
    assert [draft.placement.centre_dhw for draft in drafts] == [
        pytest.approx((12, 20, 27)),
        pytest.approx((10.75, 30.25, 20.5)),
    ]
    assert [draft.placement.diameter_mm for draft in drafts] == [6, 9.5]
    assert drafts[0].spacing_mm == pytest.approx(np.linalg.norm(affine[:3, :3], axis=0)[[2, 0, 1]])


def test_a_table_is_read_in_both_spellings(tmp_path):
    expected = {"": [Site(1.0, -2.5, 30.0, 8.0)]}
    assert read_spheres(table(tmp_path / "a.csv", "1,-2.5,3e1,8", columns="x,y,z,diameter_mm"), 1) == expected
    path = tmp_path / "b.csv"
    path.write_bytes(
        "\ufeffdiameter_mm,z_mm,y_mm,x_mm\r\n8,30,-2.5,1\r\n".encode()  # of a spreadsheet
    )
    assert read_spheres(path, 1) == expected
    several = table(tmp_path / "c.csv", "A,1,2,3,4", "B,5,6,7,8", "A,9,10,11,12")
    assert read_spheres(several, 2) == {
        "A": [Site(1, 2, 3, 4), Site(9, 10, 11, 12)],
        "B": [Site(5, 6, 7, 8)],
    }
    typed = table(tmp_path / "d.csv", "1,2,3,4,2", "5,6,7,8,solid", columns="x,y,z,diameter_mm,type")
    assert read_spheres(typed, 1) == {"": [Site(1, 2, 3, 4, 2), Site(5, 6, 7, 8, "solid")]}


def test_rows_go_to_their_scan(scans, tmp_path, plan):
    rows = ("B,12,20,25,6", "A,10,15,30,7", "B,14,30,20,8")
    drafts = plan(scans, spheres=table(tmp_path / "s.csv", *rows))
    assert [(d.name, d.placement.centre_dhw, d.placement.diameter_mm) for d in drafts] == [
        ("A_GenMask_1", (10, 15, 30), 7),
        ("B_GenMask_1", (12, 20, 25), 6),
        ("B_GenMask_2", (14, 30, 20), 8),
    ]
    with refused(ValueError, scans / "sub" / "B.nii.gz", "s.csv has no sphere for it"):
        plan(scans, spheres=table(tmp_path / "s.csv", rows[1]))


@pytest.mark.parametrize(
    "row, texts",
    [
        ("A,12,20,27", ["line 3", "numbers", "diameter_mm"]),
        ("A,12,20,wide,6", ["line 3", "numbers"]),
        ("A,12,20,nan,6", ["line 3", "finite"]),
        ("A,12,20,27,0", ["line 3", "above 0"]),
        (",12,20,27,6", ["line 3", "no case", "2 scans"]),
        ("A,12,20,27,60", ["A.nii.gz", "60 mm", "not larger than the volume of 24 x 40 x 44 mm"]),
        ("A,12,20,43,6", ["A.nii.gz", "outside the volume by 2.5 mm"]),
        ("A,12,-90,20,6", ["A.nii.gz", "outside the volume"]),
        ("A,12,20,4,6", ["A.nii.gz", "6.0 mm", "not in the organ"]),  # in the chest wall, lung in the box
    ],
)
def test_a_bad_row_is_refused(scans, tmp_path, plan, row, texts):
    spheres = table(tmp_path / "s.csv", "B,12,20,27,6", row)
    with refused(ValueError, *texts):
        plan(scans, spheres=spheres)


def test_a_sphere_far_from_the_organ_is_refused(scans, tmp_path, plan):
    spheres = table(tmp_path / "s.csv", "A,12,20,4,6", "B,12,20,27,6")
    with refused(ValueError, "A.nii.gz", "6.0 mm", "not in the organ"):
        plan(scans, spheres=spheres, size=(8, 8, 8))


def test_a_bad_table_is_refused(scans, tmp_path, plan):
    with refused(FileNotFoundError, "spheres=.*nowhere.csv", "placed, masks"):
        plan(scans, spheres=tmp_path / "nowhere.csv")
    (tmp_path / "scan.csv").write_bytes(b"\x1f\x8b\x08 a scan")
    with refused(ValueError, "scan.csv", "is no table of comma-separated values"):
        plan(scans, spheres=tmp_path / "scan.csv")
    with refused(ValueError, "s.csv", "holds no sphere"):
        plan(scans, spheres=table(tmp_path / "s.csv"))
    with refused(ValueError, "s.csv, line 2", "diameter_mm"):
        plan(scans, spheres=table(tmp_path / "s.csv", "A,1,2,3", columns="case,x_mm,y_mm,z_mm"))
    for columns, column in (("case,x,y,z,size", "size"), ("x,y,z,diameter_mm,x_mm", "x_mm")):
        with refused(ValueError, "s.csv", f"column '{column}' is unknown or there twice"):
            plan(scans, spheres=table(tmp_path / "s.csv", "A,1,2,3,4", columns=columns))
    untyped = table(tmp_path / "s.csv", "A,1,2,3,4,2", "A,1,2,3,4,", columns="case,x,y,z,diameter_mm,type")
    with refused(ValueError, "s.csv, line 3", "no type"):
        plan(scans, spheres=untyped)


def test_spheres_of_no_scan_are_refused(tmp_path, scans, plan):
    rows = ("A,12,20,27,6", "C,12,20,27,6")
    with pytest.raises(ValueError, match="places.csv.*no scan C"):
        plan(scans, spheres=table(tmp_path / "places.csv", *rows))
