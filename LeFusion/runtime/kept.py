"""Which files of an earlier run are kept."""

from collections.abc import Sequence
from pathlib import Path

from LeFusion.dataset.scans import read_volume
from LeFusion.errors import UserError
from LeFusion.runtime.hashing import sha256_of_file


def is_whole(path: Path, sha256: str | None, shape: Sequence[int]) -> bool:
    """Whether a volume of an earlier run is the one that was written: the file with this SHA-256 or, where
    none was noted, at least a volume of this stored shape that can be read."""
    if sha256:
        return sha256_of_file(path) == sha256
    try:
        return read_volume(path).raw.shape == tuple(shape)
    except UserError:
        return False
