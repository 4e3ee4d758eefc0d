"""How a script of data/ ends: with its exit status, and one line for what went wrong."""

import sys
from collections.abc import Callable


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
