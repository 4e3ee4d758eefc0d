"""What killed writers left is removed; what others still write is not, on whichever machine they run."""

import os
import subprocess
import sys
import time

import pytest

from LeFusion.dataset import temporary
from LeFusion.dataset.storage import atomic_file
from LeFusion.dataset.temporary import OLD, temporary_path

DEAD = 0x7FFFFF00  # more than any process number


@pytest.fixture
def alive():
    """The number of a process that runs."""
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


def left_by(path, machine, process, age=0.0):
    """What a writer of `path` leaves when it is killed, `age` seconds ago."""
    left = path.with_name(f".{machine}-{process:08x}.{path.name}")
    left.write_bytes(b"half")
    os.utime(left, (time.time() - age,) * 2)
    return left


def test_what_is_left_and_what_is_kept(tmp_path, alive, monkeypatch):
    monkeypatch.setattr(temporary, "_machine", lambda: "0000000a")
    path, young, old = tmp_path / "a.nii.gz", OLD - 60, OLD + 60
    gone = [
        left_by(path, "0000000a", DEAD),
        left_by(path.with_name("b.nii.gz"), "0000000a", DEAD),  # of a file that this run does not write
        left_by(path, "0000000b", DEAD, old),
        left_by(path, "0000000c", alive, old),  # a process of another machine
    ]
    kept = [
        left_by(path, "0000000a", alive, young),
        left_by(path, "0000000d", DEAD, young),  # it may well run there
        left_by(path, "0000000a", os.getpid()),
        tmp_path / ".note.a.nii.gz",
        tmp_path / "0000000a-7fffff00.a.nii.gz",
    ]
    for path_of_user in kept[-2:]:
        path_of_user.write_bytes(b"a user's")
    with atomic_file(path) as beside:
        assert beside == temporary_path(path) == kept[-3] and not beside.exists()
        assert beside.name == f".0000000a-{os.getpid():08x}.a.nii.gz"
        beside.write_bytes(b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, *(set(kept) - {beside})]) and not any(
        p.exists() for p in gone
    )
    assert path.read_bytes() == b"whole"


def test_two_machines_with_one_process_number_do_not_meet(tmp_path, monkeypatch):
    """As two hosts of a cluster that write into one folder."""
    path = tmp_path / "table.csv"
    with atomic_file(path) as first:
        first.write_text("first")
        monkeypatch.setattr(temporary, "_machine", lambda: "0000000b")
        with atomic_file(path) as second:
            assert second != first
            second.write_text("second")
        assert path.read_text() == "second" and first.read_text() == "first"
        monkeypatch.undo()
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_the_machine_is_the_same_in_every_process_of_it(tmp_path):
    path = tmp_path / "a"
    code = (
        "import pathlib, sys; from LeFusion.dataset.temporary import temporary_path; "
        "print(temporary_path(pathlib.Path(sys.argv[1])).name)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    ).stdout
    mine = temporary_path(path).name
    assert other.split("-")[0] == mine.split("-")[0] and other.strip() != mine


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    """Neither writing nor cleaning up follows a link out of the folder."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("a user's")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "table.csv").symlink_to(tmp_path / "elsewhere" / "file")
    left = temporary_path(folder / "table.csv")
    for name in (left.name, left.name.replace(left.name.split("-")[1][:8], f"{DEAD:08x}")):
        (folder / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with atomic_file(folder / "table.csv") as beside:
        beside.write_text("a table")
    assert (folder / "table.csv").read_text() == "a table" and not (folder / "table.csv").is_symlink()
    assert [path.name for path in folder.iterdir()] == ["table.csv"]
    assert (tmp_path / "elsewhere" / "file").read_text() == "a user's"
