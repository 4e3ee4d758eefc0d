"""Mask making that is killed at its worst moments goes on to the same files."""

import kills
import pytest

from LeFusion.runtime.commandline import PROJECT_ROOT

DEMO = PROJECT_ROOT / "data" / "demo" / "EMIDEC" / "Normal"
HEART = "Case_DEMO-N03"
MOMENTS = {
    "between the temporary file and its name": lambda: kills.at_rename("GenMask_2"),
    "between the mask and its row": lambda: kills.at_rename("GenMask_2", after=True),
    "while a row is written": lambda: kills.half_way_through("masks.part"),
    "between the table and its parts' end": lambda: kills.at_rename("masks.csv", after=True),
}


@pytest.fixture
def make(infarcts):
    """-> make(out): two infarcts for one heart."""

    def call(out):
        code, _, error = infarcts(f"output_dir={out}")
        assert code == 0, error

    return call


def test_killed_mask_making_goes_on_to_the_same_files(make, tmp_path, files, in_child):
    make(tmp_path / "unbroken")
    unbroken = files(tmp_path / "unbroken")
    for moment, folder in kills.each_resumed(MOMENTS, make, tmp_path, in_child):
        broken = files(folder)
        assert sorted(broken) == sorted(unbroken), moment  # nothing is left over
        for name in unbroken:
            assert broken[name] == unbroken[name] or name.endswith(".html"), (moment, name)  # it has paths
