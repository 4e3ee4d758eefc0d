"""`data/download.py` when the connection, the disk, the server or the process fails."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import time

import pytest
from download_hub import (
    BLOCK,
    DATA,
    LAYOUT,
    MODEL,
    NORMAL_HEART,
    SICK_HEART,
    WEIGHTS,
    assert_failed,
    contents,
    expected,
    tar_of,
    unpack,
    zip_of,
)


def test_broken_connection_is_resumed(hub, download, tmp_path):
    """huggingface_hub asks for the rest, from the last whole 10 MiB, while the command runs."""
    large = {"images/large": os.urandom(12 << 20)}
    hub.files[NORMAL_HEART] = tar_of(large, leading="Normal/")
    hub.breaks[NORMAL_HEART] = [11 << 20]
    result = download("emidec")
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "root/data/EMIDEC/Normal") == large
    transfers = [byte_range for path, byte_range in hub.bodies if path == NORMAL_HEART]
    assert transfers == [None, f"bytes={10 << 20}-"]


def test_download_that_fails_half_way_leaves_nothing(hub, download, tmp_path):
    """A later run starts the file anew: huggingface_hub 2.4 keeps no partial file."""
    hub.breaks[NORMAL_HEART] = [BLOCK // 2]
    hub.status[f"cdn/{NORMAL_HEART}"] = 500
    line = assert_failed(
        download("emidec"), "cannot fetch", "EMIDEC/Normal.tar", "500 Internal Server Error", "HF_ENDPOINT"
    )
    assert "unpack it as" in line
    assert not (tmp_path / "root/data/EMIDEC/Normal").exists()
    assert not list((tmp_path / "cache").rglob("*.incomplete"))
    hub.status.clear()
    hub.bodies.clear()
    assert download("emidec").returncode == 0
    assert hub.bodies == [(NORMAL_HEART, None)]  # the other archive is in its place
    assert contents(tmp_path / "root") == expected("emidec")


def test_whole_downloads_are_not_repeated(hub, download, tmp_path):
    assert download("emidec").returncode == 0
    shutil.rmtree(tmp_path / "root")
    hub.bodies.clear()
    assert download("emidec").returncode == 0
    assert hub.bodies == []
    shutil.rmtree(tmp_path / "root")
    result = download("emidec", HF_HUB_OFFLINE="1")
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "root") == expected("emidec")
    assert_failed(download("emidec", "--overwrite", HF_HUB_OFFLINE="1"), "cannot fetch")
    assert contents(tmp_path / "root") == expected("emidec")


def test_a_file_that_is_not_what_the_hub_states_is_refused(hub, download, tmp_path):
    """One bit of the cache has flipped, in the middle of a volume: the archive still unpacks."""
    result = download("emidec")
    stated = hashlib.sha256(hub.files[NORMAL_HEART]).hexdigest()
    assert f"EMIDEC/Normal.tar: SHA-256 {stated}\n" in result.stdout
    shutil.rmtree(tmp_path / "root")
    (blob,) = (path for path in (tmp_path / "cache").rglob(stated) if path.is_file())
    content = bytearray(blob.read_bytes())
    content[1000] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    assert_failed(
        download("emidec"), "EMIDEC/Normal.tar is damaged", f"the hub states {stated}", "--overwrite"
    )
    assert not (tmp_path / "root/data/EMIDEC/Normal").exists()
    assert download("emidec", "--overwrite").returncode == 0
    assert contents(tmp_path / "root") == expected("emidec")


def test_killed_extraction_is_redone(hub, start, download, tmp_path):
    many = {f"images/{number:05}": b"x" for number in range(20_000)}
    hub.files[NORMAL_HEART] = tar_of(many, leading="Normal/")
    partial = tmp_path / "root/data/EMIDEC/.Normal.partial"
    for kill in (signal.SIGKILL, signal.SIGINT):
        process = start("emidec")
        while not (partial / "Normal/images/00010").exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(kill)
        process.communicate()
        assert process.returncode == (130 if kill == signal.SIGINT else -kill)
        assert partial.exists() == (kill == signal.SIGKILL)
        assert not (tmp_path / "root/data/EMIDEC/Normal").exists()
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        (partial / "stale").touch()
    hub.files[NORMAL_HEART] = tar_of({"images/a": b"a"}, leading="Normal/")
    assert download("emidec").returncode == 0
    assert contents(tmp_path / "root/data/EMIDEC/Normal") == {"images/a": b"a"}
    assert not partial.exists()


def test_two_runs_at_once(hub, start, tmp_path):
    processes = [start("emidec") for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=50)
        assert process.returncode == 0, errors
    assert contents(tmp_path / "root") == expected("emidec")


def test_cache_on_a_full_disk(download, tmp_path):
    """A limit on the size of files stands in for the full disk: writing fails in the same place."""
    resource = pytest.importorskip("resource")

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK // 2, BLOCK // 2))

    line = assert_failed(
        download("emidec", preexec=limited), "cannot store EMIDEC/Normal.tar", "HF_HUB_CACHE"
    )
    assert "network" not in line
    assert not (tmp_path / "root/data/EMIDEC/Normal").exists()
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_project_on_a_full_disk(hub, download, tmp_path):
    """As above, with what is downloaded in the cache already."""
    resource = pytest.importorskip("resource")
    hub.files[f"{MODEL}/lidc.pt"] = zip_of("archive/data.pkl", *(f"archive/{n}" for n in range(BLOCK // 50)))
    assert download("emidec", "weights").returncode == 0
    shutil.rmtree(tmp_path / "root")

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK // 2, BLOCK // 2))

    for name, target in (("emidec", "data/EMIDEC/Normal"), ("weights", WEIGHTS[f"{MODEL}/lidc.pt"])):
        assert_failed(download(name, preexec=limited), "cannot write", target, "File too large")
        assert [
            path for path in (tmp_path / "root" / target).parent.iterdir() if "Path" not in path.name
        ] == []


def test_failed_replacement_keeps_what_was_there(script, monkeypatch, tmp_path):
    (tmp_path / "Normal").mkdir()
    (tmp_path / "Normal/mine").write_text("mine")
    replace = os.replace

    def fail_once(source, destination):
        if ".partial" in str(source):
            raise OSError(errno.EIO, "Input/output error")
        replace(source, destination)

    monkeypatch.setattr(script.os, "replace", fail_once)
    with pytest.raises(OSError, match="Input/output error"):
        unpack(script, tar_of({"images/a": b"a"}), tmp_path)
    assert contents(tmp_path) == {"Normal/mine": b"mine"}


@pytest.mark.slow  # huggingface_hub tries for half a minute
def test_server_down(hub, download, tmp_path):
    hub.close()
    line = assert_failed(
        download("all"),
        f"{hub.endpoint}/{DATA}/resolve/main/LIDC-IDRI/Pathological.tar",
        "HF_ENDPOINT",
        "refused",
    )
    assert f"https://huggingface.co/{DATA} " in line
    assert str(tmp_path / "root/data/LIDC/Pathological") in line
    assert not (tmp_path / "root").exists()


def test_wrong_endpoint(download, tmp_path):
    assert_failed(download("weights", HF_ENDPOINT="hub.invalid"), "hub.invalid", "HF_ENDPOINT", "put it at")
    assert not (tmp_path / "root").exists()


def test_offline_mode(download):
    assert_failed(download("weights", HF_HUB_OFFLINE="1"), "OfflineModeIsEnabled", "HF_HUB_OFFLINE")


def test_no_such_file_or_repository(hub, download, tmp_path):
    del hub.files[NORMAL_HEART]
    assert_failed(download("emidec"), "EMIDEC/Normal.tar", "EntryNotFoundError")
    assert contents(tmp_path / "root/data/EMIDEC/Pathological") == LAYOUT[SICK_HEART][1]
    hub.files.clear()
    assert_failed(download("lidc"), "RepositoryNotFoundError", "LeFusion_Preprocessed_Data")


@pytest.mark.parametrize("status", [401, 403])
def test_server_that_refuses(hub, download, tmp_path, status):
    hub.status[f"{MODEL}/lidc.pt"] = status
    assert_failed(download("weights"), f"{status}", "lidc.pt")
    assert not (tmp_path / "root").exists()


def test_server_that_is_no_hub(hub, download):
    hub.is_hub = False
    assert_failed(download("weights"), "FileMetadataError", hub.endpoint)
