"""`data/download.py` against a stand-in for the Hugging Face hub on the loopback interface."""

from __future__ import annotations

import errno
import gzip
import hashlib
import importlib.util
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "data" / "download.py"
DATA = "datasets/YuheLiuu/LeFusion_Preprocessed_Data"
MODEL = "YuheLiuu/LeFusion_Pretrained_model"
NORMAL_HEART = f"{DATA}/EMIDEC/Normal.tar"
SICK_HEART = f"{DATA}/EMIDEC/Pathological.tar"
BLOCK = 100_000  # bytes of the one volume that is not tiny

LAYOUT = {
    f"{DATA}/LIDC-IDRI/Pathological.tar": (
        "data/LIDC/Pathological",
        {"Image/a_Vol_0.nii.gz": b"image", "Mask/a_Mask_0.nii.gz": b"mask", "test.txt": b"a_Vol_0\n"},
    ),
    f"{DATA}/LIDC-IDRI/Normal.tar": (
        "data/LIDC/Normal",
        {"Image/b_CVol_0.nii.gz": b"image", "Mask/b_CMask_0.nii.gz": b"mask"},
    ),
    f"{DATA}/LIDC-IDRI/Demo.tar": (
        "data/LIDC/Demo",
        {"Image/Image_1/b_CVol_0.nii.gz": b"image", "Mask/Mask_1/b_CMask_0.nii.gz": b"mask"},
    ),
    SICK_HEART: (
        "data/EMIDEC/Pathological",
        {"images/Case_P001.nii.gz": b"image", "labels/Case_P001.nii.gz": b"label"},
    ),
    NORMAL_HEART: (
        "data/EMIDEC/Normal",
        {"images/Case_N006.nii.gz": os.urandom(BLOCK), "images/n": b"image"},
    ),
}
WEIGHTS = {
    f"{MODEL}/lidc.pt": "LeFusion/LeFusion_Model/LIDC/lidc.pt",
    f"{MODEL}/emidec.pt": "LeFusion/LeFusion_Model/EMIDEC/emidec.pt",
    f"{MODEL}/diffmask.pt": "DiffMask/DiffMask_Model/diffmask.pt",
}


def tar_of(files: dict[str, bytes], *extra: tarfile.TarInfo, leading: str = "", mode: str = "w") -> bytes:
    """A tar file of `files` under the folder `leading`, with members `extra` that have no content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(leading + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return buffer.getvalue()


def special(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def zip_of(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, os.urandom(64))
    return buffer.getvalue()


def released_files() -> dict[str, bytes]:
    archives = {path: tar_of(files, leading=f"{Path(path).stem}/") for path, (_, files) in LAYOUT.items()}
    return archives | {path: zip_of("archive/data.pkl", "archive/data/0") for path in WEIGHTS}


class Hub:
    """What huggingface_hub needs of the hub: /<repo>/resolve/<revision>/<file> redirects to a second server.

    files     path without revision -> content
    bodies    (file, Range header) of each transfer of content
    breaks    file -> byte counts: each next transfer breaks off after so many bytes
    status    file, or cdn/ and the file once its `breaks` are used up -> the status answered instead
    is_hub    False leaves the hub's own headers out
    """

    def __init__(self):
        self.files = released_files()
        self.bodies: list[tuple[str, str | None]] = []
        self.requests: list[str] = []
        self.breaks: dict[str, list[int]] = {}
        self.status: dict[str, int] = {}
        self.is_hub = True
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                hub.requests.append(self.path)
                hub.resolve(self)

            def do_GET(self):
                hub.requests.append(self.path)
                if self.path.startswith("/cdn/"):
                    hub.transfer(self)
                else:
                    hub.resolve(self)

            def log_message(self, *arguments):
                pass

        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
        self.endpoint, self.cdn = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        for server in self.servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def resolve(self, request: BaseHTTPRequestHandler):
        match = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", request.path)
        if not match:
            return answer(request, 404)
        repo, revision, name = match.groups()
        path = f"{repo}/{name}"
        commit = {"X-Repo-Commit": self.commit()}
        if path in self.status:
            return answer(request, self.status[path])
        if not any(file.startswith(f"{repo}/") for file in self.files):
            return answer(request, 404, {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", "v1"):
            return answer(request, 404, {"X-Error-Code": "RevisionNotFound"})
        if path not in self.files:
            return answer(request, 404, {"X-Error-Code": "EntryNotFound"} | commit)
        if not self.is_hub:
            return answer(request, 200)
        linked = {"X-Linked-ETag": etag(self.files[path]), "X-Linked-Size": str(len(self.files[path]))}
        return answer(request, 302, {"Location": f"{self.cdn}/cdn/{path}"} | linked | commit)

    def commit(self) -> str:
        """Another content is another commit, as the cache of huggingface_hub relies on."""
        digest = hashlib.sha1()
        for path, content in sorted(self.files.items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()

    def transfer(self, request: BaseHTTPRequestHandler):
        path, byte_range = request.path.removeprefix("/cdn/"), request.headers.get("Range")
        breaks = self.breaks.get(path)
        if not breaks and f"cdn/{path}" in self.status:
            return answer(request, self.status[f"cdn/{path}"])
        self.bodies.append((path, byte_range))
        content = self.files[path]
        start = int(re.fullmatch(r"bytes=(\d+)-", byte_range)[1]) if byte_range else 0
        request.send_response(206 if byte_range else 200)
        if byte_range:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("ETag", etag(content))
        request.end_headers()
        if breaks:
            request.wfile.write(content[start : start + breaks.pop(0)])
            request.wfile.flush()
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True
        else:
            request.wfile.write(content[start:])


def etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()}"'


def answer(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str] | None = None):
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", "0")
    request.end_headers()


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def start(hub, tmp_path):
    """Start the script on a root and a cache of this test."""

    def start(*arguments: str, preexec=None, **environment: str) -> subprocess.Popen:
        clean = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HF_", "HUGGING")) and not key.lower().endswith("_proxy")
        }
        clean |= {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), "--root", str(tmp_path / "root"), *arguments],
            env=clean | environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=preexec,
        )

    return start


@pytest.fixture
def download(start):
    """Run the script to its end."""

    def download(*arguments: str, preexec=None, **environment: str) -> subprocess.CompletedProcess:
        process = start(*arguments, preexec=preexec, **environment)
        output, errors = process.communicate(timeout=50)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    return download


@pytest.fixture(scope="session")
def script():
    """The script as a module, for what needs no hub."""
    spec = importlib.util.spec_from_file_location("lefusion_data_download", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under the folder, hidden ones and links too: path -> content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unpack(script, archive: bytes, folder: Path):
    """Unpack the archive as EMIDEC's healthy hearts, `folder / "Normal"`; nothing may lie beside it then."""
    source = folder / "Normal.tar"
    source.write_bytes(archive)
    try:
        script.unpack(source, script.RELEASES["emidec"][1], folder / "Normal")
    finally:
        source.unlink()
        assert {path.name for path in folder.iterdir()} <= {"Normal"}


def assert_failed(result: subprocess.CompletedProcess, *words: str) -> str:
    """The run ended with exit status 1 and one line of error that has all the words; returns the line."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1 and lines[0] == result.stderr.splitlines()[-1], result.stderr
    assert all(word in lines[0] for word in words), lines[0]
    return lines[0]


def expected(*names: str) -> dict[str, bytes]:
    """What must lie under the root after these names were fetched, apart from weights."""
    wanted = {"lidc": "data/LIDC/", "emidec": "data/EMIDEC/"}
    folders = tuple(wanted[name] for name in names)
    return {
        f"{target}/{name}": content
        for target, files in LAYOUT.values()
        if target.startswith(folders)
        for name, content in files.items()
    }


# ------------------------------------------------------------------------------------------------- layout


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


# -------------------------------------------------------------------------------------------- interruption


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


def test_old_python(script, monkeypatch, tmp_path):
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(script.DownloadError, match="update to 3.10.12"):
        unpack(script, tar_of({"images/a": b"a"}), tmp_path)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ refusals


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


# ------------------------------------------------------------------------------------------------- the hub


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


# ------------------------------------------------------------------------------------------------- command


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
