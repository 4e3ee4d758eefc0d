"""Files that appear complete or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from LeFusion.dataset.temporary import remove, remove_leftovers, temporary_path
from LeFusion.errors import MissingFileError, StorageError, UserError


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`: what is written there appears at `path` complete or not at all.

    Makes missing folders. On a clean exit the file is synced and renamed; on any error or interrupt it is
    removed; what killed processes left is removed by the next that writes to the folder, see
    `remove_leftovers`. The temporary name starts with a dot (so no case finder takes it) and keeps the ending
    (so np.save and others do not add one). An OSError, such as a full disk, becomes an OSError of one line
    that names `path` and the reason.
    """
    with _temporary(Path(path)) as temporary:
        yield temporary
        _finish(temporary)
        os.replace(temporary, path)


@contextmanager
def atomic_files(path: str | os.PathLike) -> Iterator[Path]:
    """The same for a file that others belong to, such as a `.mhd` and its `.zraw`: give a temporary folder,
    whose files appear beside `path`, that of its name last. It is never there without the others."""
    path = Path(path)
    with _temporary(path) as temporary:
        temporary.mkdir()
        yield temporary
        others = sorted(entry for entry in temporary.iterdir() if entry.name != path.name)
        for file in (*others, temporary / path.name):
            _finish(file)
        if others:
            path.unlink(missing_ok=True)
        for file in (*others, temporary / path.name):
            os.replace(file, path.with_name(file.name))
        temporary.rmdir()


@contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """The same for a folder of files, which takes the place of one that is there."""
    path = Path(path)
    with _temporary(path) as temporary:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            _finish(file)
        old = None
        if path.exists():
            old = temporary_path(path.with_name(f"old.{path.name}"))
            os.replace(path, old)
        os.replace(temporary, path)
        if old is not None:
            remove(old)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A free path beside another; what is there afterwards is removed."""
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        remove(temporary)  # of a killed process that had this one's number
        yield temporary
    except BaseException as error:
        with suppress(OSError):
            remove(temporary)
        if isinstance(error, OSError) and not isinstance(error, UserError):
            raise StorageError(f"cannot write {path}: {error.strerror or one_line(error)}") from error
        raise


def _finish(file: Path) -> None:
    """Gives a file its usual rights, and the disk its content."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(file, 0o666 & ~umask)  # some libraries write files that only their owner may read
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())


def write_text(path: str | os.PathLike, text: str) -> None:
    """A UTF-8 text file, complete or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: object) -> None:
    """A JSON file, complete or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path, missing: str) -> object:
    """What a JSON file holds. MissingFileError that says `missing` where there is no such file, UserError for
    one that is not JSON; both name it."""
    if not path.is_file():
        raise MissingFileError(f"{path}: {missing}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: is not JSON ({error})") from error


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split())
