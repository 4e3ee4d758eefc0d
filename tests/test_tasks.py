"""Boxes of one size are painted together, those that overlap one after the other."""

from LeFusion.dataset.boxes import Box
from LeFusion.tasks import rounds


def test_boxes_that_overlap_are_painted_one_after_the_other():
    first, second, third = (Box((start, 0, 0), (4, 4, 4)) for start in (0, 3, 6))
    far = Box((0, 20, 0), (4, 4, 4))
    assert rounds([first]) == [[0]]
    assert rounds([first, far, second, third]) == [[0, 1], [2], [3]]
    assert rounds([first, third, second]) == [[0, 1], [2]]
