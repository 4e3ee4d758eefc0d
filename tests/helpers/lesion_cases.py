"""Cases of one lesion, as files."""

import nibabel
import numpy as np
import torch

from LeFusion.dataset.cases import Case, Layout
from LeFusion.dataset.dataset import LesionDataset
from tests.helpers.refusals import one_line_error

RELATIVE = Layout(lesion_labels=(1,), other_labels=(2,), reference_label=2)  # 2: healthy tissue


TWO_CLASSES = Layout(mask_names=(), lesion_labels=(3, 4), other_labels=(1, 2), depth_axis=2)


def make_case(folder, name="A", shape=(12, 20, 24), lesion=((3, 4, 5), (6, 9, 9)), label=1, seed=0):
    """A noisy CT-like case whose lesion is a block."""
    rng = np.random.default_rng(seed)
    image = rng.integers(-1100, 500, shape).astype(np.int16)
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(s, e) for s, e in zip(*lesion, strict=True))] = label
    return save_case(folder, name, image, mask)


def save_case(folder, name, image, mask, affine=None):
    affine = np.diag([1.5, 1.5, 2, 1]) if affine is None else affine
    case = Case(name, folder / f"{name}_Vol_1.nii.gz", folder / f"{name}_Mask_1.nii.gz")
    for path, array in ((case.image_path, image), (case.mask_path, mask)):
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return case


def same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        equal = (
            torch.equal(first[key], second[key]) if torch.is_tensor(first[key]) else first[key] == second[key]
        )
        if not equal:
            return False
    return True


def refused(case, *parts, layout=None, window=(-1000, 400), **options):
    with one_line_error(ValueError, *parts):
        LesionDataset([case], layout or Layout(), size=(8, 16, 16), window=window, **options)[0]
