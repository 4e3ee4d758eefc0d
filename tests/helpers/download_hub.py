"""A stand-in for the Hugging Face hub on the loopback interface, and what `data/download.py` makes of it."""

from __future__ import annotations

import hashlib
import io
import os
import re
import socket
import subprocess
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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
