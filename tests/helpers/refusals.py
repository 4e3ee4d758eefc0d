"""A volume that must not be read."""

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
