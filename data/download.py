"""Fetch the released data sets and weights from the Hugging Face hub into the folders that the project reads.

    python data/download.py lidc       # or emidec, weights, all; several names may be given

An item appears under its final name only when it is whole: its SHA-256 is compared with the one that the hub
states, then archives are unpacked, and weights copied, beside their place under a `.partial` name, then
renamed. Nothing that is downloaded is executed or unpickled.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import constants, hf_hub_download, hf_hub_url

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

AGAIN = "Run the command again with --overwrite to download it anew"
MAX_SAFETENSORS_HEADER = 100_000_000  # bytes; the limit of the format's own reader


@dataclass(frozen=True)
class Release:
    """One released file and its place: an archive becomes the folder `target`, weights the file `target`."""

    filename: str
    target: str  # relative to the root of the project
    contents: tuple[str, ...] = ()  # what the folder of an archive must hold; weights have none

    @property
    def repo_id(self) -> str:
        return "YuheLiuu/LeFusion_" + ("Preprocessed_Data" if self.contents else "Pretrained_model")

    @property
    def repo_type(self) -> str:
        return "dataset" if self.contents else "model"

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{'datasets/' if self.contents else ''}{self.repo_id}"


RELEASES = {
    "lidc": (
        Release("LIDC-IDRI/Pathological.tar", "data/LIDC/Pathological", ("Image", "Mask", "test.txt")),
        Release("LIDC-IDRI/Normal.tar", "data/LIDC/Normal", ("Image", "Mask")),
        Release("LIDC-IDRI/Demo.tar", "data/LIDC/Demo", ("Image", "Mask")),
    ),
    "emidec": (
        Release("EMIDEC/Pathological.tar", "data/EMIDEC/Pathological", ("images", "labels")),
        Release("EMIDEC/Normal.tar", "data/EMIDEC/Normal", ("images",)),
    ),
    "weights": (
        Release("lidc.pt", "LeFusion/LeFusion_Model/LIDC/lidc.pt"),
        Release("emidec.pt", "LeFusion/LeFusion_Model/EMIDEC/emidec.pt"),
        Release("diffmask.pt", "DiffMask/DiffMask_Model/diffmask.pt"),
    ),
}


class DownloadError(Exception):
    """What went wrong and what to do about it, in one line for the user."""


def fetch(release: Release, target: Path, revision: str | None, overwrite: bool) -> Path:
    """Path of the file in the Hugging Face cache, downloaded if it is not there. Raises `DownloadError`."""
    where = {"repo_id": release.repo_id, "filename": release.filename, "repo_type": release.repo_type}
    url = hf_hub_url(**where, revision=revision)
    print(f"{release.filename}: from {url}", flush=True)
    try:
        return Path(hf_hub_download(**where, revision=revision, force_download=overwrite))
    except Exception as error:  # of huggingface_hub, and of whichever HTTP client it has
        reason = error
        while isinstance(reason.__cause__, Exception) and not getattr(reason, "response", None):
            reason = reason.__cause__  # "not in the cache either" hides what happened
        network = isinstance(reason, ConnectionError | TimeoutError) or not isinstance(reason, OSError)
        if not network and reason.errno is not None:
            raise DownloadError(
                f"cannot store {release.filename} in the cache {constants.HF_HUB_CACHE}: {reason.strerror}. "
                "Free some space there, or set HF_HUB_CACHE to another folder"
            ) from error
        place = f"unpack it as {target}" if release.contents else f"put it at {target}"
        raise DownloadError(
            f"cannot fetch {url} ({type(reason).__name__}: {' '.join(str(reason).split())}). Check the "
            f"network, set HF_ENDPOINT to a mirror (now {constants.ENDPOINT}), or download "
            f"{release.filename} by hand from {release.page} and {place}"
        ) from error


def check_hash(fetched: Path, release: Release) -> None:
    """Print the SHA-256 of a file in the cache; raise `DownloadError` unless the hub states the same.

    The cache names a large file by what the hub states (its ETag), so a disk that went wrong since is noticed
    as well. On systems without links the cache has no such names, and there is nothing to compare with.
    """
    digest = hashlib.sha256()
    with fetched.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    stated = fetched.resolve().name
    if re.fullmatch("[0-9a-f]{64}", stated) and digest.hexdigest() != stated:
        raise DownloadError(
            f"{release.filename} is damaged: its SHA-256 is {digest.hexdigest()}, the hub states {stated}. "
            f"{AGAIN}"
        )
    print(f"{release.filename}: SHA-256 {digest.hexdigest()}", flush=True)


def unpack(archive: Path, release: Release, target: Path) -> None:
    """Unpack a tar file as the folder `target`, replacing what is there; all or nothing. Raises
    `DownloadError`, for members that would leave the target, devices and symbolic links, too."""
    if not hasattr(tarfile, "data_filter"):
        raise DownloadError("this Python cannot unpack archives safely: update to 3.10.12, 3.11.4 or newer")
    partial, old = (target.with_name(f".{target.name}.{word}") for word in ("partial", "old"))
    try:
        for left_over in (partial, old):  # of a run that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        print(f"unpacking {target.name}", flush=True)
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter=_plain_files)
            # tarfile takes an archive cut between two members, or garbage after one, for a shorter archive
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("the end of the archive is missing")
        new = partial
        while missing := _missing(new, release):
            inner = list(new.iterdir()) if new.is_dir() else []
            if len(inner) != 1 or not inner[0].is_dir():
                raise DownloadError(f"{release.filename} has no {' and no '.join(missing)}: {archive}")
            new = inner[0]  # archives have a leading folder or two
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(new, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    except tarfile.FilterError as error:
        raise DownloadError(f"{release.filename}: {error}: refused, nothing written") from error
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise DownloadError(f"{release.filename} is damaged ({error}). {AGAIN}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def _plain_files(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """The filter "data", without symbolic links and without what macOS leaves in archives."""
    parts = PurePosixPath(member.name).parts
    if any(part.startswith("._") or part in (".DS_Store", "__MACOSX") for part in parts):
        return None
    if member.issym():
        raise tarfile.LinkOutsideDestinationError(member, member.linkname)
    return tarfile.data_filter(member, folder)


def _missing(folder: Path, release: Release) -> list[str]:
    """Names of the contents that are not in `folder`; a folder without a file counts as missing."""
    return [name for name in release.contents if not _files(folder / name)]


def place_weights(source: Path, release: Release, target: Path) -> None:
    """Copy a checkpoint to `target` in one step, once it looks like one. Raises `DownloadError`."""
    problem = weights_problem(source)
    if problem:
        raise DownloadError(
            f"{release.filename} is not a checkpoint ({problem}): not put at {target}. {AGAIN}"
        )
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.copyfile(source, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def weights_problem(path: Path) -> str | None:
    """Why the file cannot be a torch zip file or safetensors, or None. Reads headers, unpickles nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            torch_file = any(name.endswith("data.pkl") for name in archive.namelist())
        return None if torch_file else "a zip file, but not torch's"
    with path.open("rb") as file:
        head = file.read(9)
    header_size = int.from_bytes(head[:8], "little")
    if head[8:] == b"{" and header_size <= min(path.stat().st_size - 8, MAX_SAFETENSORS_HEADER):
        return None
    return f"{path.stat().st_size} bytes that begin with {head!r}"


def is_complete(release: Release, target: Path, overwrite: bool) -> bool:
    """Whether there is nothing to do; `DownloadError` where something else is in the way."""
    if not target.exists():
        return False
    if target.is_dir() != bool(release.contents):
        raise DownloadError(f"{target} is a {'folder' if target.is_dir() else 'file'}: move it away first")
    if overwrite or (target.is_dir() and not _files(target)):
        return False
    missing = " and no ".join(_missing(target, release))
    problem = weights_problem(target) if target.is_file() else missing and f"it has no {missing}"
    if problem:
        raise DownloadError(f"{target} exists, but {problem}: move it away, or replace it with --overwrite")
    return True


def get(release: Release, root: Path, revision: str | None, overwrite: bool) -> bool:
    """Bring one release to its place; False when it was there already."""
    target = Path(os.path.realpath(root / release.target))  # the user may have linked folders to another disk
    if is_complete(release, target, overwrite):
        print(f"{release.target}: already there, skipped")
        return False
    source = fetch(release, target, revision, overwrite)
    try:
        check_hash(source, release)
        target.parent.mkdir(parents=True, exist_ok=True)
        with only_writer(target.parent):
            if is_complete(release, target, overwrite):
                print(f"{release.target}: another run has just written it, skipped")
                return False
            (unpack if release.contents else place_weights)(source, release, target)
    except OSError as error:
        raise DownloadError(f"cannot write {target}: {error}") from error
    print(f"{release.target}: wrote {len(_files(target))} files", flush=True)
    return True


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Wait until no other run of this script writes into `folder`, where the system has such locks."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _files(path: Path) -> list[Path]:
    """The file, or the files in the folder, hidden ones left out."""
    files = path.rglob("*") if path.is_dir() else [path]
    return [file for file in files if file.is_file() and not file.name.startswith(".")]


def default_root() -> Path:
    """The clone; where there is none (an installed package), the folder that the command starts in."""
    clone = Path(__file__).resolve().parents[1]
    return clone if (clone / "pyproject.toml").is_file() else Path.cwd()


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    table = "\n".join(
        f"  {name:8} {release.filename:26}  ->  {release.target}"
        for name, releases in RELEASES.items()
        for release in releases
    )
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fetch the released data sets and weights of LeFusion from the Hugging Face hub.",
        epilog=f"""\
what goes where, under the root:
{table}

from {RELEASES["lidc"][0].page}
and {RELEASES["weights"][0].page}

Needs network. Whatever is in its place already is skipped, so the same command goes on after an interruption.

environment:
  HF_ENDPOINT    a mirror of the hub, if huggingface.co cannot be reached from where you are
  HF_HUB_CACHE   where the downloads are kept (now {constants.HF_HUB_CACHE});
                 data and weights take their space twice until you delete them from there""",
    )
    parser.add_argument("what", nargs="+", choices=[*RELEASES, "all"], help="what to fetch; see below")
    parser.add_argument(
        "--root",
        type=Path,
        default=default_root(),
        metavar="DIR",
        help="the folder that holds data/, LeFusion/ and DiffMask/ (default: this project, or where this "
        "starts if it was installed by pip: %(default)s)",
    )
    parser.add_argument("--revision", help="branch, tag or commit of the repositories (default: main)")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="download again, and replace folders and weights that exist, with whatever you put in them",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = parse_arguments(arguments)
    names = list(RELEASES) if "all" in options.what else list(dict.fromkeys(options.what))
    root = options.root.expanduser().resolve()
    releases = [release for name in names for release in RELEASES[name]]
    try:
        written = sum(get(release, root, options.revision, options.overwrite) for release in releases)
    except DownloadError as error:
        print(f"download.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("download.py: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    print(f"done: {written} of {len(releases)} written, the others were there, in {root}")
    if written:
        print(f"the downloads also stay in {constants.HF_HUB_CACHE}; delete them there to free space")
    return 0


if __name__ == "__main__":
    sys.exit(main())
