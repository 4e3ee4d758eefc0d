"""`data/download.py` fetches what the project reads, whatever lay there before."""

from __future__ import annotations

import os
import shutil
import tarfile

import pytest
from download_hub import (
    LAYOUT,
    MODEL,
    NORMAL_HEART,
    SCRIPT,
    SICK_HEART,
    WEIGHTS,
    assert_failed,
    contents,
    expected,
    tar_of,
    unpack,
)


@pytest.mark.parametrize("name", ["lidc", "emidec"])
def test_data_sets_lie_where_the_project_reads_them(hub, download, tmp_path, name):
    result = download(name)
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "root") == expected(name)
    assert "data/EMIDEC/Normal: wrote 2 files" in result.stdout or name == "lidc"


def test_weights_lie_where_the_project_reads_them(hub, download, tmp_path):
    result = download("weights")
    assert result.returncode == 0, result.stderr
    found = contents(tmp_path / "root")
    assert found == {target: hub.files[path] for path, target in WEIGHTS.items()}
    assert "done: 3 of 3 written" in result.stdout


def test_all_then_nothing_then_overwrite(hub, download, tmp_path):
    root = tmp_path / "root"
    assert download("all").returncode == 0
    everything = expected("lidc", "emidec") | {target: hub.files[path] for path, target in WEIGHTS.items()}
    assert contents(root) == everything
    assert sorted(path for path, _ in hub.bodies) == sorted(hub.files)
    modes = {oct(path.stat().st_mode & 0o777) for path in root.rglob("*") if path.is_dir()}
    assert modes == {oct(0o777 & ~current_umask())}  # readable for the group, not a temporary folder's 0700

    hub.requests.clear()
    again = download("all")
    assert again.returncode == 0
    assert hub.requests == []
    assert again.stdout.count("already there, skipped") == 8
    assert "done: 0 of 8 written" in again.stdout

    hub.bodies.clear()
    (root / "data/EMIDEC/Normal/images/mine").write_text("mine")
    new = {"images/new": b"new"}
    hub.files[NORMAL_HEART] = tar_of(new, leading="Normal/")
    assert download("emidec", "--overwrite").returncode == 0
    assert sorted(path for path, _ in hub.bodies) == [NORMAL_HEART, SICK_HEART]
    assert contents(root / "data/EMIDEC/Normal") == new
    assert sorted(path.name for path in (root / "data/EMIDEC").iterdir()) == ["Normal", "Pathological"]


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_linked_data_folder_stays_linked(download, tmp_path):
    disk = tmp_path / "large_disk"
    disk.mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/data").symlink_to(disk)
    assert download("emidec").returncode == 0
    assert (disk / "EMIDEC/Normal/images/n").read_bytes() == b"image"
    assert (tmp_path / "root/data").is_symlink()


def test_revision(hub, download, tmp_path):
    assert download("emidec", "--revision", "v1").returncode == 0
    assert all("/resolve/v1/" in request for request in hub.requests if "/resolve/" in request)
    shutil.rmtree(tmp_path / "root")
    assert_failed(download("emidec", "--revision", "v2"), "RevisionNotFoundError", "v2")


def test_old_python(script, monkeypatch, tmp_path):
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(script.DownloadError, match="update to 3.10.12"):
        unpack(script, tar_of({"images/a": b"a"}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_the_user_has_is_not_touched(hub, download, tmp_path):
    folder = tmp_path / "root/data/EMIDEC/Pathological"
    (folder / "images").mkdir(parents=True)
    (folder / "images/mine").write_text("mine")
    assert_failed(download("emidec"), str(folder), "has no labels", "--overwrite")
    weights = tmp_path / "root/LeFusion/LeFusion_Model/LIDC/lidc.pt"
    weights.parent.mkdir(parents=True)
    weights.write_text("mine")
    assert_failed(download("weights"), str(weights), "--overwrite")
    assert hub.requests == []
    assert contents(tmp_path / "root") == {
        "data/EMIDEC/Pathological/images/mine": b"mine",
        "LeFusion/LeFusion_Model/LIDC/lidc.pt": b"mine",
    }
    assert download("emidec", "weights", "--overwrite").returncode == 0
    assert contents(folder) == LAYOUT[SICK_HEART][1]
    assert weights.read_bytes() == hub.files[f"{MODEL}/lidc.pt"]


def test_empty_folder_is_filled(download, tmp_path):
    (tmp_path / "root/data/EMIDEC/Pathological").mkdir(parents=True)
    assert download("emidec").returncode == 0
    assert contents(tmp_path / "root") == expected("emidec")


def test_help(download):
    result = download("--help")
    assert result.returncode == 0
    text = " ".join(result.stdout.split())
    for word in (
        *WEIGHTS.values(),
        "data/LIDC/Demo",
        "HF_ENDPOINT",
        "HF_HUB_CACHE",
        "network",
        "--overwrite",
    ):
        assert word in text


@pytest.mark.parametrize("arguments", [["brats"], []])
def test_wrong_arguments(script, arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        script.main(arguments)
    assert exit_.value.code == 2
    assert "lidc" in capsys.readouterr().err


def test_default_root_is_the_project(script):
    assert script.parse_arguments(["lidc"]).root == SCRIPT.parents[1]
