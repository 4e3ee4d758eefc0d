"""Volumes that must not be read, commands that must not run."""

import pytest

from LeFusion.dataset.scans import read_volume


def refused(path, *parts):
    """Reading it is an error of one line that names it and holds all parts."""
    with pytest.raises(ValueError) as caught:
        read_volume(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    for part in parts:
        assert part in message, message


def assert_refused(result, *texts):
    """Exit code 1 and one line on stderr that holds these texts."""
    code, _, error = result
    lines = [line for line in error.replace("\r", "\n").split("\n") if line.startswith("error: ")]
    assert code == 1 and len(lines) == 1 and "Traceback" not in error, error
    assert error.rstrip().endswith(lines[0]), error
    for text in texts:
        assert str(text) in lines[0], lines[0]
