"""How a script of data/ begins, with options that several have, and ends: with its exit status, and one line
for what went wrong."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def add_outline_and_split(parser: argparse.ArgumentParser, test_share: float, seed_of: str) -> None:
    """How outlines of LIDC count, and which patients are put into test.txt. test_share: the default."""
    parser.add_argument(
        "--with-outline", action="store_true", help="count the pixels on the outlines as nodule"
    )
    parser.add_argument(
        "--test-share",
        type=float,
        default=test_share,
        help="share of the patients for test.txt (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help=f"of {seed_of}")
    parser.add_argument("--test-txt", type=Path, help="a test.txt whose patients are put into the test part")


def finish(script: str, work: Callable[[], None]) -> int:
    """Do the work; returns the exit status: 0, 1 after a mistake of the user's or of the system's, 130 after
    Ctrl-C."""
    try:
        work()
    except (OSError, ValueError) as error:
        print(f"{script}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{script}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0
