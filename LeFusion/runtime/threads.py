"""How threads of torch wait for each other."""

import os


def spin_briefly() -> None:
    """Sets GOMP_SPINCOUNT, which torch's OpenMP reads when it is loaded, where it is not set.

    Threads that spin while they wait are dear on cores that other programs use (docs/performance.md).
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as setup_env.sh
