"""The table of masks."""

from made_masks import table

from DiffMask.inference.report import MaskTable


def test_the_table_keeps_rows_and_knows_which_are_others(tmp_path):
    first = MaskTable(tmp_path / "masks.csv", {"seed": 0, "model": "a"})
    first.add(
        "B_GenMask_1", "B", 1, 2, {"voxels": 12, "angle": None, "diameter_mm": 1 / 3}, {"of": "x"}, "0b", {}
    )
    first.write()
    second = MaskTable(tmp_path / "masks.csv", {"seed": 1, "model": "a"})
    assert second.has("B_GenMask_1") and not second.has("A_GenMask_1")
    second.add("A_GenMask_1", "A", 1, 1, {"voxels": 3, "height": 0.5}, {}, "0a", {})
    assert second.has_of("B_GenMask_1", {"of": "x"}) and not second.has_of("B_GenMask_1", {"of": "y"})
    assert not second.has_of("A_GenMask_1", {"of": "x"})
    assert second.made_otherwise(["A_GenMask_1"]) == 0
    assert second.made_otherwise(["A_GenMask_1", "B_GenMask_1"]) == 1
    assert second.sha256("B_GenMask_1") == "0b"
    second.join()
    assert table(tmp_path) == [
        dict(mask="A_GenMask_1", scan="A", number="1", draws="1", seed="1", model="a", of="")
        | dict(voxels="3", angle="", diameter_mm="", height="0.5", mask_sha256="0a"),
        dict(mask="B_GenMask_1", scan="B", number="1", draws="2", seed="0", model="a", of="x")
        | dict(voxels="12", angle="", diameter_mm="0.333333", height="", mask_sha256="0b"),
    ]
