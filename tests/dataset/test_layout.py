"""Layouts of data sets: which labels and names they take."""

import numpy as np
import pytest

from LeFusion.dataset.cases import Layout
from LeFusion.errors import UserError
from tests.helpers.named_files import LIDC
from tests.helpers.refusals import one_line_error as refused


@pytest.mark.parametrize("labels", [[-1], [0], [65536], [1.5]])
def test_a_layout_takes_labels_that_a_label_map_can_hold(labels):
    with pytest.raises(UserError, match="whole numbers from 1 to 65535"):
        Layout(lesion_labels=labels)
    with pytest.raises(UserError, match="whole numbers from 1 to 65535"):
        Layout(other_labels=labels)
    assert Layout(other_labels=[255]).label_dtype == np.uint8
    assert Layout(other_labels=[257]).label_dtype == np.uint16


def test_layout_takes_lists_and_refuses_nonsense():
    listed = Layout(
        mask_names=[["_CVol_", "_CMask_"], ["_Vol_", "_Mask_"]], lesion_labels=[1], other_labels=[]
    )
    assert listed == LIDC and hash(listed) == hash(LIDC)
    for wrong in (
        {"lesion_labels": ()},
        {"lesion_labels": (0,)},
        {"lesion_labels": (1, 1)},
        {"other_labels": (1,)},
        {"depth_axis": 3},
        {"mask_names": [("_Vol_",)]},
        {"mask_names": [("", "_Mask_")]},
        {"mask_names": [("", "")]},
    ):
        with pytest.raises(ValueError):
            Layout(**wrong)


def test_instances_are_of_one_lesion_label_and_no_others():
    assert Layout(lesion_labels=[1], instances=True).instances
    for labels in ({"lesion_labels": [1, 2]}, {"lesion_labels": [1], "other_labels": [2]}):
        with refused(UserError, "layout.instances=true", "one lesion label and no others"):
            Layout(**labels, instances=True)


def test_a_layout_of_hearts_has_both_labels_and_a_reference():
    heart = {"lesion_labels": [3, 4], "other_labels": [1, 2]}
    layout = Layout(**heart, cavity_label=1, myocardium_label=2, reference_label=2)
    assert (layout.cavity_label, layout.myocardium_label, layout.reference_label) == (1, 2, 2)
    assert (LIDC.cavity_label, LIDC.myocardium_label, LIDC.reference_label) == (None, None, None)
    for wrong, *parts in (
        ({"cavity_label": 1}, "cavity_label", "myocardium_label", "1 and None"),
        ({"myocardium_label": 2}, "None and 2"),
        ({"cavity_label": 1, "myocardium_label": 1}, "1 and 1"),
        ({"cavity_label": 1, "myocardium_label": 3}, "1 and 3", "(1, 2)"),
        ({"cavity_label": 0, "myocardium_label": 2}, "0 and 2"),
        ({"reference_label": 3}, "reference_label 3", "(1, 2)"),
        ({"reference_label": 0}, "reference_label 0"),
    ):
        with refused(ValueError, *parts):
            Layout(**heart, **wrong)
