"""Mask making that is killed at its worst moments goes on to the same files."""

import kills
import pytest

import DiffMask.inference.inference as inference
from LeFusion.runtime.commandline import PROJECT_ROOT, plain, run_command

DEMO = PROJECT_ROOT / "data" / "demo" / "EMIDEC" / "Normal"
HEART = "Case_DEMO-N03"
MOMENTS = {
    "between the temporary file and its name": lambda: kills.at_rename("GenMask_2"),
    "between the mask and its row": lambda: kills.at_rename("GenMask_2", after=True),
    "while a row is written": lambda: kills.half_way_through("masks.part"),
    "between the table and its parts' end": lambda: kills.at_rename("masks.csv", after=True),
}


@pytest.fixture
def make(tmp_path, command, monkeypatch):
    """-> make(out): two infarcts for one heart, without pictures; (exit code, stdout, stderr)."""
    for name in ("save_preview", "save_surface_sheet"):
        monkeypatch.setattr(inference, name, lambda path, *_: path)
    for folder in ("images", "labels"):
        (tmp_path / "hearts" / folder).mkdir(parents=True)
        (path,) = (DEMO / folder).glob(f"{HEART}*")
        (tmp_path / "hearts" / folder / path.name).write_bytes(path.read_bytes())

    def call(out):
        return command(
            lambda config: run_command(lambda: inference.run(*inference.read(plain(config)))),
            "diffmask_inference",
            *("data_type=emidec", f"dataset_root_dir={tmp_path / 'hearts'}", f"output_dir={out}"),
            *("device=cpu", "masks_per_scan=2"),
        )

    return call


def test_killed_mask_making_goes_on_to_the_same_files(make, tmp_path, files, in_child):
    assert make(tmp_path / "unbroken")[0] == 0
    unbroken = files(tmp_path / "unbroken")
    for number, (moment, die) in enumerate(MOMENTS.items()):
        folder = tmp_path / str(number)

        def child(die=die, folder=folder):
            die()
            make(folder)

        assert in_child(child) == kills.DEAD, moment
        code, _, error = make(folder)
        assert code == 0, (moment, error)
        broken = files(folder)
        assert sorted(broken) == sorted(unbroken), moment  # nothing is left over
        for name in unbroken:
            assert broken[name] == unbroken[name] or name.endswith(".html"), (moment, name)  # it has paths
