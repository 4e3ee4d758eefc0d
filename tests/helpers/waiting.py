"""What may not wait for ever."""

import threading
from queue import Queue


def in_time(work, seconds=60):
    """What `work()` gives, or raises; fails where it waits for ever."""
    done = Queue()

    def run():
        try:
            done.put((work(), None))
        except Exception as error:
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    found, error = done.get(timeout=seconds)
    if error is not None:
        raise error
    return found
