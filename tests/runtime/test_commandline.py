"""Errors become one line, paths are relative to where the command starts, outputs are checked early."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from LeFusion.diffusion import load_checkpoint
from LeFusion.errors import MissingFileError, UserError
from LeFusion.runtime import commandline
from LeFusion.runtime.commandline import (
    PROJECT_ROOT,
    absolute_path,
    first_existing,
    git_commit,
    given_path,
    given_test_list,
    output_folder,
    plain,
    run_command,
    say_weights,
)


@pytest.mark.parametrize(
    "error", [UserError("bad\n  value"), MissingFileError("no\nfile"), OSError(28, "No space left", "/x")]
)
def test_a_mistake_is_one_line(capsys, error):
    def fail():
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_command(fail)
    printed = capsys.readouterr()
    assert stopped.value.code == 1 and printed.out == ""
    assert printed.err == f"error: {' '.join(str(error).split())}\n"


def test_a_traceback_on_request(monkeypatch):
    monkeypatch.setenv("LEFUSION_TRACEBACK", "1")

    def fail():
        raise UserError("abc")

    with pytest.raises(UserError, match="abc"):
        run_command(fail)


@pytest.mark.parametrize("error", [AssertionError, TypeError, ValueError, KeyError])
def test_our_own_defects_are_not_hidden(error, monkeypatch, capsys):
    """A ValueError of NumPy, say, is not the user's mistake."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # set by a defect; this puts it back

    def fail():
        raise error

    with pytest.raises(error):
        run_command(fail)
    assert "this is a bug of LeFusion" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [SystemExit, KeyboardInterrupt])
def test_a_stop_is_no_defect(stop, capsys):
    def end():
        raise stop

    with pytest.raises(stop):
        run_command(end)
    assert capsys.readouterr().err == ""


def test_ctrl_c_prints_no_traceback(tmp_path):
    code = """
import os, signal
from LeFusion.runtime.commandline import run_command
run_command(lambda: os.kill(os.getpid(), signal.SIGINT) or signal.pause())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGINT and done.stdout == ""
    assert done.stderr.strip() == "stopped; no file is half-written"


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert given_path("a/b") == tmp_path / "a" / "b"
    assert given_path("/a/b") == Path("/a/b")
    assert given_path("~/b") == tmp_path / "home" / "b"
    assert given_path(None) is None and given_path("") is None
    assert given_path("a/../b/./c/..") == tmp_path / "b"


def test_a_path_behind_a_link_stays_where_it_is(tmp_path):
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "near").symlink_to(tmp_path / "far/away")
    assert absolute_path(tmp_path / "near/../b") == Path(os.path.realpath(tmp_path)) / "far/b"
    assert absolute_path(tmp_path / "far/away/../b") == tmp_path / "far/b"


def test_the_released_data_is_found_under_both_names(tmp_path, capsys):
    there = tmp_path / "data/LIDC-IDRI/Normal/Image"
    there.mkdir(parents=True)
    asked = tmp_path / "data/LIDC/Normal/Image"
    assert given_path(str(asked)) == given_path(asked) == there
    assert capsys.readouterr().out == f"{asked} is not there; reading {there}\n"  # once
    assert absolute_path(str(asked)) == asked  # what is written goes where it was asked for
    asked.mkdir(parents=True)
    assert given_path(asked) == asked
    (tmp_path / "data/LIDC/Demo").mkdir()
    assert given_path(tmp_path / "data/LIDC-IDRI/Demo") == tmp_path / "data/LIDC/Demo"
    assert given_path(tmp_path / "data/LIDC/Other") == tmp_path / "data/LIDC/Other"


@pytest.mark.parametrize("folder, name", [("LIDC", "lidc"), ("EMIDEC", "emidec")])
def test_a_missing_data_set_comes_with_the_command_that_fetches_it(tmp_path, monkeypatch, folder, name):
    monkeypatch.setattr(commandline, "PROJECT_ROOT", tmp_path)
    (tmp_path / "evaluation_pipeline").mkdir()
    monkeypatch.chdir(tmp_path / "evaluation_pipeline")
    for path in (f"../data/{folder}/Pathological/x", tmp_path / "data" / folder / "Normal"):
        with pytest.raises(FileNotFoundError, match=rf"is not there; python data/download.py {name} fetches"):
            given_path(path)
    assert given_path(f"../data/{folder}/mine").name == "mine"  # no released one
    (tmp_path / "data" / folder / "Normal").mkdir(parents=True)
    assert given_path(tmp_path / "data" / folder / "Normal/labels").name == "labels"


def test_a_missing_list_of_test_images_comes_with_what_to_do_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(commandline, "PROJECT_ROOT", tmp_path)
    released = tmp_path / "data/LIDC/Pathological/test.txt"
    with pytest.raises(
        FileNotFoundError, match="^test_txt_dir: .* is not there.*test_txt_dir=null .*split=all"
    ):
        given_test_list(released)
    released.parent.mkdir(parents=True)
    released.touch()
    assert given_test_list(released) == released and given_test_list(None) is None


def test_missing_weights_come_with_the_command_that_fetches_them_where_they_are_released_ones(tmp_path):
    for folder in ("LeFusion/LeFusion_Model/LIDC", "DiffMask/DiffMask_Model"):
        with pytest.raises(FileNotFoundError, match="python data/download.py weights fetches"):
            given_path(commandline.PROJECT_ROOT / folder / "nowhere.pt")
    assert given_path(tmp_path / "mine.safetensors") == tmp_path / "mine.safetensors"
    with pytest.raises(FileNotFoundError, match="mine.safetensors does not exist; give the path of weights$"):
        load_checkpoint(tmp_path / "mine.safetensors")


def test_weights_that_a_command_uses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commandline, "PROJECT_ROOT", tmp_path)
    released, bundled = tmp_path / "lidc.pt", tmp_path / "LIDC/lidc_small.safetensors"
    names = ("lidc.pt", "LIDC/lidc_small.safetensors")
    assert first_existing(*names) == str(released)  # which the message of a missing file should name
    bundled.parent.mkdir()
    bundled.touch()
    assert first_existing(*names) == str(bundled)
    released.touch()
    assert first_existing(*names) == str(released)
    for path, kind in ((released, "released"), (bundled, "lefusion"), (tmp_path / "model-1.st", "lefusion")):
        say_weights(path, kind)
    lines = [line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["(released)", "(bundled)", "(given)"]


def test_output_folders_are_checked_and_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert output_folder("a/b/c", "key") == tmp_path / "a" / "b" / "c"
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    for bad in ("file", "file/a/b", "lost/a"):
        with pytest.raises(ValueError, match="not a folder") as refused:
            output_folder(bad, "key")
        assert f"key={tmp_path / bad}" in str(refused.value)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match=f"to: no permission for {tmp_path}$"):
        output_folder("a", "key")


def test_missing_values_are_named():
    config = OmegaConf.create({"a": "???", "b": {"c": "???"}, "d": 1})
    with pytest.raises(ValueError, match="a, b.c"):
        plain(config)
    resolved = plain(OmegaConf.create({"a": "${b.c}", "b": {"c": [1, 2]}, "root": "${project:x/y}"}))
    assert resolved == {"a": [1, 2], "b": {"c": [1, 2]}, "root": str(PROJECT_ROOT / "x" / "y")}
    assert type(resolved["a"]) is list


def test_what_an_experiment_needs_is_named():
    config = OmegaConf.create({"a": {"b": '${needed:"the weights, a=b"}'}})
    with pytest.raises(UserError, match="^a.b: give the weights, a=b$"):
        plain(config)
    config.a.b = "given"
    assert plain(config) == {"a": {"b": "given"}}


def test_paths_without_a_clone(tmp_path, monkeypatch):
    installed, here = tmp_path / "site", tmp_path / "here"
    weights = installed / "LeFusion" / "LeFusion_Model" / "w.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(commandline, "PROJECT_ROOT", installed)
    monkeypatch.setattr(commandline, "CONFIGS", installed / "LeFusion" / "configs")
    monkeypatch.setattr(commandline, "CLONE", False)
    resolved = [
        commandline.project_path(path) for path in ("configs/a.txt", "LeFusion/LeFusion_Model/w.safetensors")
    ]
    assert resolved == [str(installed / "LeFusion" / "configs" / "a.txt"), str(weights)]
    assert commandline.project_path("LeFusion/LeFusion_Model/runs") == str(
        here / "LeFusion/LeFusion_Model/runs"
    )
    assert commandline.project_path("data/x") == str(here / "data" / "x")


def test_the_commit(tmp_path, monkeypatch):
    commit = git_commit()
    assert commit is None or (len(commit) == 40 and int(commit, 16))
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(commandline, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert git_commit() is None
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


def test_a_reader_that_has_read_enough_gets_no_traceback():
    read, write = os.pipe()
    os.close(read)
    script = PROJECT_ROOT / "LeFusion" / "inference" / "insert.py"
    run = subprocess.run([sys.executable, script, "--help"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert run.returncode == 1 and run.stderr == "stopped: the program that read the output has ended\n"
