"""Which files of an earlier run are kept."""

from collections.abc import Sequence
from pathlib import Path

from LeFusion.dataset.scans import read_volume
from LeFusion.errors import UserError
from LeFusion.runtime.hashing import sha256_of_scan


def is_whole(path: Path, sha256: str | None, shape: Sequence[int]) -> bool:
    """Whether a volume of an earlier run is the one that was written: with this `sha256_of_scan` or, where
    none was noted, at least one of this stored shape that can be read."""
    try:
        return sha256_of_scan(path) == sha256 if sha256 else read_volume(path).raw.shape == tuple(shape)
    except UserError:
        return False
