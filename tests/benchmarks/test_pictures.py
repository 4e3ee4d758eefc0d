"""benchmarks/pictures.py: knows every picture of docs/, makes one, leaves out what it has no data for."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "pictures.py"
spec = importlib.util.spec_from_file_location("pictures", SCRIPT)
sys.modules["pictures"] = pictures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pictures)


def start(*words) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, SCRIPT, *words]
    return subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True)


def test_every_picture_of_the_documents_has_its_commands():
    shown = [path.name for ending in ("png", "gif") for path in (ROOT / "docs").glob(f"*.{ending}")]
    assert sorted(pictures.PICTURES) == sorted(shown)


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_every_picture_is_shown_in_a_document(name):
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    assert any(f"{name})" in page.read_text(encoding="utf-8") for page in pages)


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_commands_name_scripts_that_exist(name):
    for command in pictures.PICTURES[name].commands:
        python, script, *_ = command.split()
        assert python == "{python}" and (ROOT / script).is_file()


def test_which_data_a_picture_needs():
    needs = {name: picture.needs for name, picture in pictures.PICTURES.items()}
    assert needs["demo_hearts.png"] == [] and needs["textures_lidc.png"] == ["histograms"]
    assert needs["real_or_painted.png"] == ["lidc"] and needs["insertion.gif"] == ["ct"]


def test_what_takes_hours_is_made_only_when_it_is_named(tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(pictures, "make", lambda picture, path, *_: made.append(path.name))
    pictures.run(pictures.parser().parse_args(["--lidc", str(tmp_path)]))
    assert "demo_preview.png" in made and "quality_over_calls.png" not in made
    assert "--only quality_over_calls.png makes it" in capsys.readouterr().out
    pictures.run(pictures.parser().parse_args(["--lidc", str(tmp_path), "--only", "quality_over_calls.png"]))
    assert made[-1] == "quality_over_calls.png"


def test_makes_a_picture_with_few_steps_and_leaves_out_what_needs_data(tmp_path):
    done = start(
        *("--only", "textures_lidc.png", "--only", "demo_preview.png", "--out", tmp_path / "a b=c"),
        *("num_steps=1", "types=1", "device=cpu"),
    )
    assert done.returncode == 0, done.stderr
    assert "textures_lidc.png: left out, needs --histograms" in done.stdout
    assert [path.name for path in (tmp_path / "a b=c").iterdir()] == ["demo_preview.png"]
    assert (tmp_path / "a b=c" / "demo_preview.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_from_a_table(tmp_path):
    rows = [",".join(f"h{number:02d}" for number in range(16))]
    for number in range(12):
        rows.append(",".join("1" if (bin_ + number) % 6 else "9" for bin_ in range(16)))
    table = tmp_path / "with space.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    done = start("--histograms", table, "--only", "textures_lidc.png", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "textures_lidc.png").stat().st_size > 10_000


def test_a_command_that_fails_is_named_and_the_picture_that_was_there_stays(tmp_path):
    (tmp_path / "demo_hearts.png").write_text("before")
    done = start("--only", "demo_hearts.png", "--out", tmp_path, "num_stepz=1")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("error: demo_hearts.png: the command above ended with exit code 1")
    assert (tmp_path / "demo_hearts.png").read_text() == "before"


def test_data_that_is_not_there(tmp_path):
    done = start("--lidc", tmp_path / "none", "--out", tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: --lidc") and "no such" in done.stderr


def test_overrides_that_no_chosen_picture_takes(tmp_path):
    done = start("--only", "textures_lidc.png", "--out", tmp_path, "num_steps=1")
    assert done.returncode == 1 and done.stderr.startswith("error: num_steps=1: only the demo's pictures")
