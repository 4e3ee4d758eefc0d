"""Names of temporary files and folders that no two writers share, on whichever machines they run."""

import hashlib
import os
import platform
import re
import shutil
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

WRITER = re.compile(r"\.([0-9a-f]{8})-([0-9a-f]{8})\.")  # how the name of a temporary file starts
OLD = 24 * 3600  # seconds without a change, after which nobody is writing


def temporary_path(path: Path) -> Path:
    """Beside `path`: `.<machine>-<process>.<name>`, both of 8 hexadecimal digits."""
    return path.with_name(f".{_machine()}-{os.getpid():08x}.{path.name}")


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files and folders in a folder of killed processes.

    Those are: of this machine, of a process that runs no more; of another machine, whose processes cannot be
    seen from here, if they are OLD.
    """
    with os.scandir(folder) as entries:
        found = [match for entry in entries if (match := WRITER.match(entry.name))]
    for writer in found:
        left = folder / writer.string
        with suppress(OSError):
            here = writer[1] == _machine() and not _runs(int(writer[2], 16))
            if here or time.time() - left.lstat().st_mtime > OLD:
                remove(left)


def remove(path: Path) -> None:
    """A file or a folder with all that is in it, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@cache
def _machine() -> str:
    """8 hexadecimal digits of the host, and of the container on it, in which process numbers are unique."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/etc/machine-id").read_text())
    with suppress(OSError):
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    if process == 0:
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
