"""A CT that is not in HU is refused; any CT that is passes."""

import nibabel
import numpy as np
import pytest

from LeFusion.dataset.hounsfield import refuse_other_units
from LeFusion.dataset.scans import read_volume
from LeFusion.errors import UserError

LUNG, LIVER = (-1000, 400), (-100, 250)


def scan(tmp_path, values, dtype=np.float32):
    nibabel.save(nibabel.Nifti1Image(np.asarray(values).astype(dtype), np.eye(4)), tmp_path / "ct.nii")
    return read_volume(tmp_path / "ct.nii")


def chest(air=0.0):
    """(20, 20, 20) HU: lung with a wall of soft tissue, fat and rib, and a share of air outside."""
    values = np.random.default_rng(0).normal(-850, 30, (20, 20, 20))
    values[:, :5], values[:, 5:7], values[:, 2, ::5] = values[:, :5] + 890, values[:, 5:7] + 750, 600
    values[: int(20 * air)] = -1000
    return values


def abdomen():
    values = np.random.default_rng(0).normal(60, 20, (20, 20, 20))
    values[:4], values[4:7], values[8, 8] = -1000, -100, 500
    return values


@pytest.mark.parametrize("padding", [None, -1024, -2000, -3024])
@pytest.mark.parametrize("values, window", [(chest(), LUNG), (chest(0.3), LUNG), (abdomen(), LIVER)])
def test_hounsfield_units_pass(tmp_path, values, window, padding):
    values = values.copy()
    if padding is not None:
        values[:, :, :5] = padding
    refuse_other_units(scan(tmp_path, values), window)
    refuse_other_units(scan(tmp_path, np.full((4, 4, 4), 60.0)), LIVER)  # within the organ


def test_a_ct_that_is_mostly_padding_passes(tmp_path):
    """Dark in the middle of its values, but with bone; an intercept taken twice leaves nothing so bright."""
    values = chest()
    values[8:] = -3024
    refuse_other_units(scan(tmp_path, values), LUNG)
    with pytest.raises(UserError, match="too dark"):
        refuse_other_units(scan(tmp_path, values - 1024), LUNG)


@pytest.mark.parametrize("values, window", [(chest(), LUNG), (chest(0.3), LUNG), (abdomen(), LIVER)])
@pytest.mark.parametrize(
    "change",
    [
        lambda hu: np.maximum(hu + 1024, 0),
        lambda hu: hu - 1024,
        lambda hu: (hu + 1000) / 1400,
        lambda hu: np.clip(hu / 700 - 1, -1, 1),
    ],
)
def test_other_units_are_refused(tmp_path, values, window, change):
    with pytest.raises(UserError, match="ct.nii: its values, .* are not in HU"):
        refuse_other_units(scan(tmp_path, change(values)), window)


def test_raw_values_with_padding_and_pictures_are_refused(tmp_path):
    padded = np.maximum(chest() + 1024, 0)
    padded[:, :, :5] = -2000
    for values, reason in (
        (padded, "as dark as air"),
        (np.clip((chest() + 1000) / 1400 * 255, 0, 255), "a picture of 8 bits"),
    ):
        with pytest.raises(UserError, match=reason):
            refuse_other_units(scan(tmp_path, values, np.int16), LUNG)


@pytest.mark.parametrize("window", ["minmax", {"percentiles": [1, 99]}, (0, 3000)])
def test_what_is_no_ct_passes(tmp_path, window):
    refuse_other_units(scan(tmp_path, abdomen() + 1024), window)


@pytest.mark.parametrize("labels", [(0, 1), (0, 255), (0, 1, 2, 3), (1, 2)])
def test_a_mask_is_called_one(tmp_path, labels):
    values = np.random.default_rng(0).choice(labels, (20, 20, 20))
    listed = ", ".join(map(str, labels))
    with pytest.raises(UserError, match=rf"ct.nii: holds nothing but {listed}, so it is a mask and no scan"):
        refuse_other_units(scan(tmp_path, values, np.uint8), LUNG)
