"""Which files of an earlier run are kept."""

from collections.abc import Sequence
from pathlib import Path

from LeFusion.dataset.scans import read_volume, stem
from LeFusion.errors import UserError
from LeFusion.runtime.hashing import sha256_of_file

HEADERS = {".mhd": (".raw", ".zraw"), ".nhdr": (".raw", ".raw.gz")}  # of voxels in a file beside them


def is_whole(path: Path, sha256: str | None, shape: Sequence[int]) -> bool:
    """Whether a volume of an earlier run is the one that was written: with this `sha256_of_volume` or, where
    none was noted, at least one of this stored shape that can be read."""
    if sha256:
        return sha256_of_volume(path) == sha256
    try:
        return read_volume(path).raw.shape == tuple(shape)
    except UserError:
        return False


def sha256_of_volume(path: Path) -> str:
    """Of its file; where the voxels lie in another file beside it, of both, joined by a space."""
    beside = (path.with_name(stem(path.name) + ending) for ending in HEADERS.get(path.suffix, ()))
    return " ".join(sha256_of_file(file) for file in (path, *beside) if file.exists())
