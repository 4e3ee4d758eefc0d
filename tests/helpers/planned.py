"""Scans for the plan of a run of DiffMask."""

import nibabel
import numpy as np
import pytest

from LeFusion.dataset.cases import Layout

CT = Layout(mask_names=(), output_mask_infix="", depth_axis=2)


SHAPE = (24, 40, 44)


SIZE, ONE_MM = (16, 16, 16), (1.0, 1.0, 1.0)


FLIPPED = np.array([[-0.8, 0, 0, 50.5], [0, -1.1, 0, 41.0], [0, 0, 2.0, -310.0], [0, 0, 0, 1]])


def lung_hu(lung_from=10):
    """(D, H, W): soft tissue, and lung from a column on."""
    hu = np.random.default_rng(0).normal(40, 20, SHAPE)
    hu[:, :, lung_from:] -= 890
    return hu.astype(np.int16)


def save(path, array_dhw, affine=None, depth_axis=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = np.moveaxis(array_dhw, 0, depth_axis)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4) if affine is None else affine), path)
    return path


def refused(kind, *parts):
    """pytest.raises for an error of one line with these parts in their order."""
    return pytest.raises(kind, match="(?s)^[^\\n]*" + "[^\\n]*".join(map(str, parts)) + "[^\\n]*$")
