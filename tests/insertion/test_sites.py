"""Tables of sites: what they may hold, and what is refused in one line."""

import numpy as np
import pytest

from LeFusion.errors import UserError
from LeFusion.insertion.sites import read_sites


@pytest.fixture
def table(tmp_path):
    def write(text: str):
        path = tmp_path / "sites.csv"
        path.write_text(text)
        return path

    return write


def test_sites_in_mm_and_in_voxels(table):
    affine = np.array([[-2.0, 0, 0, 10], [0, 1.0, 0, 5], [0, 0, 4.0, -8], [0, 0, 0, 1]])
    (world, second) = read_sites(table("x,y,z,diameter_mm,texture\n4,6,0,8,solid\n1,2,3,,2\n"))
    assert world.stored_index(affine) == (3, 1, 2) and (world.diameter_mm, world.texture) == (8, "solid")
    assert (second.diameter_mm, second.texture) == (None, 2)
    (voxel,) = read_sites(table("i,j,k\n3,1,2\n"))
    assert voxel.stored_index(affine) == (3, 1, 2) and voxel.what.endswith("line 2 (i=3, j=1, k=2)")


def test_a_site_may_be_a_mask(table, tmp_path):
    (tmp_path / "m.nii.gz").touch()
    drawn, masked = read_sites(table("x,y,z,mask,scan\n1,2,3,,A\n,,,m.nii.gz,B\n"))
    assert (drawn.mask, drawn.scan) == (None, "A")
    assert (masked.mask, masked.world, masked.scan) == (tmp_path / "m.nii.gz", None, "B")


@pytest.mark.parametrize(
    "text, line",
    [
        (
            "x,y,z,kind\n1,2,3,4\n",
            "column 'kind' is unknown or there twice; a table of sites may have x, y, z",
        ),
        ("x,y,z,type\n1,2,3,4\n", "column 'type' is unknown or there twice (call it texture); a table"),
        ("x,y,z,z\n1,2,3,4\n", "column 'z' is unknown or there twice"),
        ("x,y\n1,2\n", "needs the columns x, y, z"),
        ("x,y,z,i,j,k\n1,2,3,4,5,6\n", "needs the columns x, y, z"),
        ("diameter_mm\n1\n", "needs the columns x, y, z"),
        ("x,y,z\n1,2,three\n", "line 2: z='three' must be a number"),
        ("x,y,z\n1,2,nan\n", "line 2: z='nan' must be a number"),
        ("x,y,z\n1,,3\n", "line 2: y='' must be a number"),
        ("x,y,z,diameter_mm\n1,2,3,-4\n", "line 2: diameter_mm=-4 must be above 0"),
        ("x,y,z\n1,2\n", "line 2: has more or fewer values than there are columns"),
        ("x,y,z\n1,2,3,4\n", "line 2: has more or fewer values than there are columns"),
        ("x,y,z,mask\n,,,none.nii.gz\n", "line 2: mask=none.nii.gz: there is no such file"),
        ("x,y,z\n", "holds no site"),
    ],
)
def test_what_is_wrong_is_said(table, text, line):
    path = table(text)
    with pytest.raises(UserError) as refused:
        read_sites(path)
    assert str(refused.value).startswith(str(path)) and line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_mask_says_all(table, tmp_path):
    (tmp_path / "m.nii.gz").touch()
    for text in ("x,y,z,mask\n1,2,3,m.nii.gz\n", "diameter_mm,mask\n5,m.nii.gz\n"):
        with pytest.raises(UserError, match="a mask says where its lesion lies and how large it is"):
            read_sites(table(text))


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="sites=.*nowhere.csv: no such file"):
        read_sites(tmp_path / "nowhere.csv")
