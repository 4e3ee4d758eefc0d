"""What clients of the server may use. Imports nothing, so that the flags of serve.py show these defaults."""

from dataclasses import dataclass

LOOPBACK = ("127.0.0.1", "localhost", "::1")  # names of this machine
UNPACKED = 4  # times the size of an upload that its arrays may take
DRAINED = 4  # times that size: what is read of one that is too large, so that its client sees the answer


@dataclass(frozen=True)
class Limits:
    """What one client, or all together, may use. See the flags of serve.py."""

    upload_bytes: int = 64_000_000
    upload_seconds: float = 60.0
    voxels: int = 8_000_000
    job_seconds: float = 600.0
    waiting: int = 16
    kept_seconds: float = 300.0
    kept: int = 32
