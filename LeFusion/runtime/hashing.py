"""SHA-256 of files and scans."""

import hashlib
import os
from pathlib import Path

from LeFusion.dataset.scans import DETACHED, ending_of, read_volume, stem


def sha256_of_file(path: str | os.PathLike) -> str:
    """64 hexadecimal digits, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_scan(path: str | os.PathLike) -> str:
    """Of a scan in one file that of the file; of a header with voxels beside it that of both; of a series
    that of its numbers and their place. Raises UserError for a series that cannot be read."""
    path = Path(path)
    if not path.is_file():
        return read_volume(path).sha256
    beside = [path.with_name(stem(path.name) + ending) for ending in DETACHED.get(ending_of(path), ())]
    found = [sha256_of_file(file) for file in (path, *beside) if file.exists()]
    return hashlib.sha256(" ".join(found).encode()).hexdigest() if beside else found[0]
