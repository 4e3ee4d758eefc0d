"""Fetch the released data sets and weights from the Hugging Face hub into the folders that the project reads.

    python data/download.py lidc       # or emidec, weights, all; several names may be given

An item appears under its final name only when it is whole: archives are unpacked, and weights copied, beside
their place under a `.partial` name, then renamed. Nothing that is downloaded is executed or unpickled.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import posixpath
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

DATA_REPO = "YuheLiuu/LeFusion_Preprocessed_Data"
MODEL_REPO = "YuheLiuu/LeFusion_Pretrained_model"
AGAIN = "Run the command again with --overwrite to download it anew"
MAX_SAFETENSORS_HEADER = 100_000_000  # bytes; the limit of the format's own reader


@dataclass(frozen=True)
class Release:
    """One released file and its place: an archive becomes the folder `target`, weights the file `target`."""

    repo_id: str
    repo_type: str
    filename: str
    target: str  # relative to the root of the project
    contents: tuple[str, ...] = ()  # what the folder of an archive must hold

    @property
    def is_archive(self) -> bool:
        return self.filename.endswith(".tar")

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{'datasets/' if self.repo_type == 'dataset' else ''}{self.repo_id}"


def _data(filename: str, target: str, *contents: str) -> Release:
    return Release(DATA_REPO, "dataset", filename, target, contents)


def _weights(filename: str, folder: str) -> Release:
    return Release(MODEL_REPO, "model", filename, f"{folder}/{filename}")


RELEASES = {
    "lidc": (
        _data("LIDC-IDRI/Pathological.tar", "data/LIDC/Pathological", "Image", "Mask", "test.txt"),
        _data("LIDC-IDRI/Normal.tar", "data/LIDC/Normal", "Image", "Mask"),
        _data("LIDC-IDRI/Demo.tar", "data/LIDC/Demo", "Image", "Mask"),
    ),
    "emidec": (
        _data("EMIDEC/Pathological.tar", "data/EMIDEC/Pathological", "images", "labels"),
        _data("EMIDEC/Normal.tar", "data/EMIDEC/Normal", "images"),
    ),
    "weights": (
        _weights("lidc.pt", "LeFusion/LeFusion_Model/LIDC"),
        _weights("emidec.pt", "LeFusion/LeFusion_Model/EMIDEC"),
        _weights("diffmask.pt", "DiffMask/DiffMask_Model"),
    ),
}


class DownloadError(Exception):
    """What went wrong and what to do about it, in one line for the user."""


# ---------------------------------------------------------------------------------------------- download


def fetch(release: Release, target: Path, revision: str | None, overwrite: bool) -> Path:
    """Path of the file in the Hugging Face cache, downloaded if it is not there yet.

    Raises `DownloadError` when the hub does not deliver and the cache does not have the file.
    """
    where = {"repo_id": release.repo_id, "filename": release.filename, "repo_type": release.repo_type}
    url = hf_hub_url(**where, revision=revision)
    # The errors come from whichever HTTP client the installed huggingface_hub uses, hence `Exception`.
    try:
        # hf_hub_download retries for half a minute; this one request shows a dead network at once.
        size = get_hf_file_metadata(url).size
    except Exception as error:
        answered = isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError))
        cached = None if overwrite or answered else try_to_load_from_cache(**where, revision=revision)
        if not isinstance(cached, str):
            raise DownloadError(_explain(error, release, url, target, revision)) from error
        print(f"{release.filename}: {constants.ENDPOINT} did not deliver, using the copy in the cache")
        return Path(cached)
    print(f"{release.filename}: {_megabytes(size) if size else 'size not stated'}, from {url}", flush=True)
    try:
        return Path(hf_hub_download(**where, revision=revision, force_download=overwrite))
    except Exception as error:
        raise DownloadError(_explain(error, release, url, target, revision)) from error


def _explain(error: Exception, release: Release, url: str, target: Path, revision: str | None) -> str:
    """One line: what failed, where, and the way out."""
    while isinstance(error, (LocalEntryNotFoundError, ValueError)) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # "not in the cache either" and "could not force" hide the reason
    local = isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError))
    if local and error.errno is not None:  # network errors reach us wrapped, without errno
        return (
            f"cannot store {release.filename} in the cache {constants.HF_HUB_CACHE}: {error.strerror}. "
            "Free some space there, or set HF_HUB_CACHE to another folder"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        reason = "the repository asks for a login (`hf auth login`)"
    elif isinstance(error, RepositoryNotFoundError):
        reason = f"there is no repository {release.repo_id}, or it is private"
    elif isinstance(error, RevisionNotFoundError):
        reason = f"the repository has no revision {revision or 'main'!r}"
    elif isinstance(error, EntryNotFoundError) and status is not None:
        reason = "the repository has no such file (404)"
    elif isinstance(error, OfflineModeIsEnabled):
        reason = "HF_HUB_OFFLINE is set; unset it"
    elif isinstance(error, FileMetadataError):
        reason = "whatever answered is not a Hugging Face hub"
    elif status is not None:
        reason = f"the server answered {status}"
    else:
        reason = f"{type(error).__name__}: {error}"
    place = f"unpack it as {target}" if release.is_archive else f"put it at {target}"
    return (
        f"cannot fetch {url} ({reason.rstrip('.')}). Check the network, set HF_ENDPOINT to a mirror "
        f"(now {constants.ENDPOINT}), or download {release.filename} by hand from {release.page} and {place}"
    )


# ---------------------------------------------------------------------------------------------- archives


def unpack(archive: Path, release: Release, target: Path) -> None:
    """Unpack a tar file as the folder `target`, replacing what is there; all or nothing.

    Every member is checked before the first byte is written. Raises `DownloadError`.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        with tarfile.open(archive) as tar:
            plan = _plan(tar, release)
            needed, free = sum(member.size for member, _, _ in plan), shutil.disk_usage(target.parent).free
            if needed > free:
                raise DownloadError(
                    f"{target} needs {_megabytes(needed)}, but {target.parent} has {_megabytes(free)} free"
                )
            partial.mkdir()
            for member, path, link_source in tqdm(plan, desc=f"unpacking {target.name}", unit="file"):
                _write_member(tar, member, partial / path, link_source and partial / link_source)
        _put_in_place(_unwrapped(partial, release, archive), target)
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        problem = str(error).split("\n")[0].rstrip(":")
        raise DownloadError(f"{release.filename} is damaged ({problem}). {AGAIN}") from error
    except OSError as error:
        raise DownloadError(f"cannot unpack {release.filename} as {target}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _plan(tar: tarfile.TarFile, release: Release) -> list[tuple[tarfile.TarInfo, Path, Path | None]]:
    """What to write: (member, path within the target, path that a link copies or None); links come last.

    Links are not created: a link within the archive becomes a copy of its file. Raises `DownloadError` for
    members that would leave the target, for devices, and for links to anything but a file of the archive.
    """
    files, links = [], []
    for member in tar.getmembers():
        path = _inside(member.name, member, release)
        if any(part.startswith("._") or part in (".DS_Store", "__MACOSX") for part in path.parts):
            continue  # what macOS leaves in archives
        if member.isfile() or member.isdir():
            files.append((member, path, None))
        elif member.issym() or member.islnk():
            folder = posixpath.dirname(member.name) if member.issym() else ""
            link = posixpath.normpath(posixpath.join(folder, member.linkname))
            links.append((member, path, _inside(link, member, release)))
        else:
            raise DownloadError(
                f"{release.filename} holds a device, {member.name!r}: refused, nothing written"
            )
    # tarfile takes an archive cut between two members, or garbage after one, for a shorter archive.
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("the end of the archive is missing")
    known = {path for member, path, _ in files if member.isfile()}
    for member, path, link_source in links:
        if link_source not in known:
            raise DownloadError(
                f"{release.filename} holds a link to no file of its own, {member.name!r} -> "
                f"{member.linkname!r}: refused, nothing written"
            )
        known.add(path)
    return files + links


def _inside(name: str, member: tarfile.TarInfo, release: Release) -> Path:
    """The path of `name` within the target, without the archive's own leading folder."""
    path = PureWindowsPath(name)  # knows both separators, and drives
    if path.drive or path.root or ".." in path.parts or "\0" in name:
        arrow = f" -> {member.linkname!r}" if member.linkname else ""
        raise DownloadError(
            f"{release.filename} holds a path that leaves the target, {member.name!r}{arrow}: "
            "refused, nothing written"
        )
    leading = Path(release.filename).stem
    return Path(*path.parts[1:] if path.parts[:1] == (leading,) else path.parts)


def _write_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, link_source: Path | None
) -> None:
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if link_source:
        shutil.copyfile(link_source, path)
        return
    with tar.extractfile(member) as source, path.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def _unwrapped(folder: Path, release: Release, archive: Path) -> Path:
    """The folder that has the contents of the release: `folder`, or what lies in it in single folders."""
    inner = folder
    while _missing(inner, release):
        entries = list(inner.iterdir())
        if len(entries) != 1 or not entries[0].is_dir():
            found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
            raise DownloadError(
                f"{release.filename} has no {' and no '.join(_missing(folder, release))} (found: {found}). "
                f"Nothing was written; the file itself is {archive}"
            )
        inner = entries[0]
    return inner


def _missing(folder: Path, release: Release) -> list[str]:
    """Names of the contents that are not in `folder`; a folder without a file counts as missing."""
    return [name for name in release.contents if not _files(folder / name)]


def _put_in_place(new: Path, target: Path) -> None:
    """Rename the folder `new` to `target`; the folder that was there goes last, or comes back on failure."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(new, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


# ----------------------------------------------------------------------------------------------- weights


def place_weights(source: Path, release: Release, target: Path) -> None:
    """Copy a checkpoint to `target` in one step, once it looks like one. Raises `DownloadError`."""
    problem = weights_problem(source)
    if problem:
        raise DownloadError(
            f"{release.filename} from {constants.ENDPOINT} is not a checkpoint ({problem}): not put at "
            f"{target}. {AGAIN}, or download it by hand from {release.page}"
        )
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.copyfile(source, partial)
        os.replace(partial, target)
    except OSError as error:
        raise DownloadError(f"cannot write {target}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def weights_problem(path: Path) -> str | None:
    """Why the file cannot be a torch zip file or safetensors, or None. Reads headers, unpickles nothing."""
    size = path.stat().st_size
    if size == 0:
        return "the file is empty"
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            return f"a damaged zip file: {error}"
        return None if any(name.endswith("data.pkl") for name in names) else "a zip file, but not torch's"
    header_size = int.from_bytes(head[:8], "little")
    if head[8:] == b"{" and header_size <= min(size - 8, MAX_SAFETENSORS_HEADER):
        return None
    return f"{_megabytes(size)} that begin with {head!r}"


# ----------------------------------------------------------------------------------------------- command


def is_complete(release: Release, target: Path, overwrite: bool) -> bool:
    """Whether there is nothing to do; `DownloadError` where something else is in the way."""
    if not target.exists():
        return False
    if target.is_dir() != release.is_archive:
        raise DownloadError(f"{target} is a {'folder' if target.is_dir() else 'file'}: move it away first")
    if overwrite or (release.is_archive and all(path.name.startswith(".") for path in target.iterdir())):
        return False
    if release.is_archive:
        missing = _missing(target, release)
        problem = f"it has no {' and no '.join(missing)}" if missing else None
    else:
        problem = weights_problem(target)
    if problem:
        raise DownloadError(f"{target} exists, but {problem}: move it away, or replace it with --overwrite")
    return True


def get(release: Release, root: Path, revision: str | None, overwrite: bool) -> tuple[int, int]:
    """Bring one release to its place. Returns (files, bytes) written: (0, 0) if it was there already."""
    target = Path(os.path.realpath(root / release.target))  # the user may have linked folders to another disk
    if is_complete(release, target, overwrite):
        print(f"{release.target}: already there, skipped")
        return 0, 0
    source = fetch(release, target, revision, overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with only_writer(target.parent):
            if is_complete(release, target, overwrite):
                print(f"{release.target}: another run has just written it, skipped")
                return 0, 0
            (unpack if release.is_archive else place_weights)(source, release, target)
    except OSError as error:
        raise DownloadError(f"cannot write {target}: {error}") from error
    sizes = [path.stat().st_size for path in _files(target)]
    print(f"{release.target}: wrote {_count(len(sizes))}, {_megabytes(sum(sizes))}", flush=True)
    return len(sizes), sum(sizes)


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
    if path.is_dir():
        return [file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")]
    return [path] if path.is_file() else []


def _count(files: int) -> str:
    return f"{files} file{'' if files == 1 else 's'}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 50_000 else f"{size / 1e6:.3f} MB"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    width = max(len(release.filename) for releases in RELEASES.values() for release in releases)
    table = "\n".join(
        f"  {name:8} {release.filename:{width}}  ->  {release.target}"
        for name, releases in RELEASES.items()
        for release in releases
    )
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fetch the released data sets and weights of LeFusion from the Hugging Face hub.",
        epilog=f"""\
what goes where, under the root:
{table}

from:
  {RELEASES["lidc"][0].page}
  {RELEASES["weights"][0].page}

Needs network. Sizes are not known beforehand: they are printed as each download starts. Whatever is in its
place already is skipped, so after an interruption the same command goes on: files that were downloaded whole
are not downloaded again, and a connection that breaks is resumed while the command runs.

environment:
  HF_ENDPOINT    a mirror of the hub, if huggingface.co cannot be reached from where you are
  HF_HUB_CACHE   where the downloads are kept (now {constants.HF_HUB_CACHE});
                 data and weights take their space twice until you delete them from there""",
    )
    parser.add_argument("what", nargs="+", choices=[*RELEASES, "all"], help="what to fetch; see below")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(__file__).resolve().parents[1],
        metavar="DIR",
        help="the folder that holds data/, LeFusion/ and DiffMask/ (default: this project, %(default)s)",
    )
    parser.add_argument(
        "--revision",
        help="branch, tag or commit of the repositories (default: main); does not by itself replace files "
        "that are there",
    )
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
    written, files, size = 0, 0, 0
    try:
        releases = [release for name in names for release in RELEASES[name]]
        for release in releases:
            release_files, release_size = get(release, root, options.revision, options.overwrite)
            written, files, size = written + bool(release_files), files + release_files, size + release_size
    except DownloadError as error:
        print(f"download.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("download.py: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    print(
        f"done: {written} of {len(releases)} written ({_count(files)}, {_megabytes(size)}), "
        f"{len(releases) - written} already there, in {root}"
    )
    if written:
        print(
            f"the downloads also stay in the cache {constants.HF_HUB_CACHE}; delete them there to free space"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
