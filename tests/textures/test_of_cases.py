"""Tables that say which texture each case gets: what they give, and mistakes with their line."""

import pytest
import torch

from LeFusion.errors import MissingFileError, UserError
from LeFusion.textures.of_cases import refuse_unknown, textures_of_cases
from LeFusion.textures.palette import Palette

PALETTE = Palette(("dim", "vivid"), (torch.eye(2)[0], torch.eye(2)[1]), (0.5, 0.5))


@pytest.fixture
def table(tmp_path):
    def write(text):
        (tmp_path / "t.csv").write_text(text, encoding="utf-8")
        return str(tmp_path / "t.csv")

    return write


def test_a_texture_is_of_all_images_of_a_case_or_of_one(table):
    path = table("\ufeffname, texture ,type\nA,vivid,\nB,1,2\nB,2,\n")
    assert textures_of_cases(path, PALETTE, 3) == {"A": 1, ("B", 2): 0, "B": 1}
    assert textures_of_cases(table("texture,name\n2,A\n"), PALETTE, 1) == {"A": 1}
    refuse_unknown(path, {"A", "B", "C"}, "root")


@pytest.mark.parametrize(
    "text, words",
    [
        ("name,texture\nA,1\nB,soft\n", r"t.csv, line 3: texture 'soft' is none of the types: 1 to 2, 'dim'"),
        ("name,texture\nA,3\n", "line 2: texture 3 is none"),
        ("name,texture,type\nA,1,4\n", "line 2: type=4 must be a number from 1 to types=3"),
        ("name,texture\nA,1\nA,2\n", "line 3: A is there twice"),
        ("name,texture,type\nA,1,1\nA,2,1\n", "line 3: A is there twice with type=1"),
        ("name,texture\nA,\n", "line 2: has no texture"),
        ("name,texture\n,1\n", "line 2: has no name"),
        ("name\nA\n", "has no column texture; it needs name and texture"),
        ("name,texture,margin\nA,1,5\n", "column 'margin' is unknown or there twice; a table of textures_of"),
        ("case,texture\nA,1\n", r"column 'case' is unknown or there twice \(call it name\)"),
        ("name,texture\nA,1,2\n", "line 2: has more or fewer values"),
        ("name,texture\n", "holds no case"),
    ],
)
def test_mistakes_are_told_with_their_line(table, text, words):
    with pytest.raises(UserError, match=words) as refused:
        textures_of_cases(table(text), PALETTE, 3)
    assert "t.csv" in str(refused.value) and "\n" not in str(refused.value)


def test_no_file_no_table_and_no_such_case(table, tmp_path):
    with pytest.raises(MissingFileError, match="textures_of=.*none.csv: no such file"):
        textures_of_cases(str(tmp_path / "none.csv"), PALETTE, 1)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="b.csv: is no table"):
        textures_of_cases(str(tmp_path / "b.csv"), PALETTE, 1)
    with pytest.raises(UserError, match="t.csv, line 3: there is no case B in root"):
        refuse_unknown(table("name,texture\nA,1\nB,2\n"), {"A"}, "root")
