"""Volumes that must not be read, commands that must not run."""

from contextlib import contextmanager

import pytest

from LeFusion.dataset.scans import read_volume


@contextmanager
def one_line_error(kind, *parts):
    """Expect an error of one line that holds all parts; fails where nothing is raised."""
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message


def refused(path, *parts):
    """Reading it is an error of one line that names it and holds all parts."""
    with one_line_error(ValueError, path, *parts):
        read_volume(path)


def assert_refused(result, *texts):
    """Exit code 1 and one line on stderr that holds these texts."""
    code, _, error = result
    lines = [line for line in error.replace("\r", "\n").split("\n") if line.startswith("error: ")]
    assert code == 1 and len(lines) == 1 and "Traceback" not in error, error
    assert error.rstrip().endswith(lines[0]), error
    for text in texts:
        assert str(text) in lines[0], lines[0]
