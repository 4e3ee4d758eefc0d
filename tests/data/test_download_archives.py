"""`data/download.py` with damaged and malicious archives and weights."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile

import pytest
from download_hub import (
    BLOCK,
    LAYOUT,
    MODEL,
    NORMAL_HEART,
    SICK_HEART,
    assert_failed,
    contents,
    expected,
    special,
    tar_of,
    unpack,
    zip_of,
)


@pytest.mark.parametrize(
    "leading, mode",
    [("", "w"), ("./", "w"), ("./Normal/", "w"), ("EMIDEC/Normal/", "w"), ("Normal/", "w:gz")],
)
def test_tolerates_other_ways_to_pack(script, tmp_path, leading, mode):
    files = {"images/a.nii.gz": b"a", "images/._a.nii.gz": b"mac", "._images": b"mac", ".DS_Store": b"mac"}
    archive = tar_of(files, special("./", tarfile.DIRTYPE), leading=leading, mode=mode)
    unpack(script, archive, tmp_path)
    assert contents(tmp_path / "Normal") == {"images/a.nii.gz": b"a"}


def test_hard_links_within_an_archive(script, tmp_path):
    archive = tar_of(
        {"Normal/images/a": b"a"}, special("Normal/images/hard", tarfile.LNKTYPE, "Normal/images/a")
    )
    unpack(script, archive, tmp_path)
    assert contents(tmp_path / "Normal") == {"images/a": b"a", "images/hard": b"a"}


EVIL = {
    "parent": special("../evil"),
    "symlink out": special("Normal/images/evil", tarfile.SYMTYPE, "../../../../secret"),
    "hard link out": special("Normal/images/evil", tarfile.LNKTYPE, "../../../../secret"),
}


MORE_EVIL = {
    "deep parent": special("Normal/images/../../../evil"),
    "absolute symlink": special("Normal/images/evil", tarfile.SYMTYPE, "/etc/passwd"),
    "absolute hard link": special("Normal/images/evil", tarfile.LNKTYPE, "/etc/passwd"),
    "link to nothing": special("Normal/images/evil", tarfile.SYMTYPE, "nothing"),
    "link to itself": special("Normal/images/evil", tarfile.SYMTYPE, "evil"),
    "link to a folder": special("Normal/evil", tarfile.SYMTYPE, "images"),
    "device": special("Normal/images/evil", tarfile.CHRTYPE),
    "pipe": special("Normal/images/evil", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
def test_malicious_archive_is_refused(hub, download, tmp_path, evil):
    (tmp_path / "secret").write_text("secret")
    hub.files[SICK_HEART] = tar_of({"Pathological/images/a": b"a", "Pathological/labels/a": b"a"}, evil)
    before = set(tmp_path.iterdir())
    line = assert_failed(download("emidec"), "EMIDEC/Pathological.tar", "refused, nothing written")
    assert repr(evil.name) in line
    assert set(tmp_path.iterdir()) - before == {tmp_path / "root", tmp_path / "cache"}
    assert contents(tmp_path / "root") == {}
    assert list((tmp_path / "root/data/EMIDEC").iterdir()) == []


def test_absolute_paths_become_relative(script, tmp_path):
    unpack(script, tar_of({"images/a": b"a", f"{tmp_path}/evil": b"evil"}), tmp_path)
    assert contents(tmp_path)["Normal/images/a"] == b"a" and not (tmp_path / "evil").exists()


@pytest.mark.parametrize("evil", MORE_EVIL.values(), ids=MORE_EVIL)
def test_more_malicious_archives(script, tmp_path, evil):
    with pytest.raises(script.DownloadError, match="refused, nothing written"):
        unpack(script, tar_of({"Normal/images/a": b"a"}, evil), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_file_through_a_symlink_is_refused(script, tmp_path):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(special("Normal/images", tarfile.SYMTYPE, "../../outside"))
        tar.addfile(special("Normal/images/evil"))
    with pytest.raises(script.DownloadError, match="refused, nothing written"):
        unpack(script, archive.getvalue(), tmp_path)
    assert list(tmp_path.iterdir()) == []


FIRST_MEMBER = 512 + -(-BLOCK // 512) * 512  # bytes of a tar whose first file has BLOCK bytes
CUT = {
    "within a member": lambda archive: archive[: BLOCK // 2],
    "between two members": lambda archive: archive[:FIRST_MEMBER],
    "garbage after a member": lambda archive: archive[:FIRST_MEMBER] + b"\1" * 2048,
    "compressed and cut": lambda archive: gzip.compress(archive)[: BLOCK // 2],
    "web page": lambda archive: b"<html>log in</html>" * 100,
    "empty": lambda archive: b"",
}


@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_damaged_archive(script, tmp_path, cut):
    with pytest.raises(script.DownloadError, match=r"EMIDEC/Normal\.tar is damaged"):
        unpack(script, cut(tar_of(LAYOUT[NORMAL_HEART][1])), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_truncated_archive_is_refused(hub, download, tmp_path):
    hub.files[NORMAL_HEART] = hub.files[NORMAL_HEART][: BLOCK // 2]
    assert_failed(download("emidec"), "EMIDEC/Normal.tar is damaged", "--overwrite")
    assert [path.name for path in (tmp_path / "root/data/EMIDEC").iterdir()] == ["Pathological"]


def test_damaged_copy_in_the_cache_is_replaced_by_overwrite(hub, download, tmp_path):
    assert download("emidec").returncode == 0
    (cached,) = (tmp_path / "cache").glob("*/snapshots/*/EMIDEC/Normal.tar")
    cached.resolve().write_bytes(hub.files[NORMAL_HEART][:5000])
    shutil.rmtree(tmp_path / "root")
    assert_failed(download("emidec"), "EMIDEC/Normal.tar is damaged", "--overwrite")
    assert download("emidec", "--overwrite").returncode == 0
    assert contents(tmp_path / "root") == expected("emidec")


def test_archive_without_the_promised_folders(hub, download, tmp_path):
    hub.files[SICK_HEART] = tar_of({"images/a": b"a", "masks/a": b"a"}, leading="Pathological/")
    assert_failed(download("emidec"), "has no labels")
    assert contents(tmp_path / "root") == {}


NOT_WEIGHTS = {
    "web page": (b"<!DOCTYPE html><html>log in</html>", "begin with b'<!DOCTYPE"),
    "empty": (b"", "0 bytes"),
    "cut": (zip_of("archive/data.pkl", "archive/data/0")[:-40], "begin with"),
    "other zip": (zip_of("word/document.xml"), "not torch's"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "begin with"),
}


@pytest.mark.parametrize("content, reason", NOT_WEIGHTS.values(), ids=NOT_WEIGHTS)
def test_what_is_no_checkpoint(script, tmp_path, content, reason):
    path = tmp_path / "lidc.pt"
    path.write_bytes(content)
    assert reason in script.weights_problem(path)


def test_what_is_a_checkpoint(script, tmp_path):
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    for content in (len(header).to_bytes(8, "little") + header + b"x", zip_of("archive/data.pkl")):
        path = tmp_path / "lidc.pt"
        path.write_bytes(content)
        assert script.weights_problem(path) is None


def test_weights_that_are_a_web_page_are_refused(hub, download, tmp_path):
    page = hub.files[f"{MODEL}/lidc.pt"] = b"<!DOCTYPE html><html>log in</html>"
    assert_failed(download("weights"), "lidc.pt", "not a checkpoint", repr(page[:9]))
    assert contents(tmp_path / "root") == {}
