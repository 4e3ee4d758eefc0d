"""SHA-256 of files."""

import hashlib
import os


def sha256_of_file(path: str | os.PathLike) -> str:
    """64 hexadecimal digits, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
