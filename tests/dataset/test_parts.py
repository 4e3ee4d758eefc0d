"""Lesions that do not fit into one box are parts of a case."""

import nibabel
import numpy as np
import pytest
import torch

from LeFusion.dataset.cases import Case, Layout
from LeFusion.dataset.loading import load_case
from LeFusion.errors import UserError

SHAPE = (20, 48, 40)
SIZE = (8, 16, 16)
NEAR, NEXT, FAR = (
    (slice(2, 5), slice(3, 8), slice(4, 8)),
    (6, 10, 9),
    (slice(15, 17), slice(40, 45), slice(30, 36)),
)


@pytest.fixture
def load(tmp_path):
    """-> load(mask, spacing_mm, **layout): the case of a mask (D, H, W)."""

    def loaded(mask, spacing_mm=None, **layout):
        image = np.random.default_rng(0).integers(-900, 300, mask.shape).astype(np.int16)
        for name, array in (("image", image), ("mask", mask)):
            nibabel.save(nibabel.Nifti1Image(array, np.diag([2, 1, 1, 1.0])), tmp_path / f"{name}.nii")
        case = Case("image", tmp_path / "image.nii", tmp_path / "mask.nii")
        return load_case(case, Layout(**layout), (-1000, 400), spacing_mm)

    return loaded


def mask_of(*lesions, dtype=np.uint8):
    """Lesion i has the value i."""
    mask = np.zeros(SHAPE, dtype)
    for number, place in enumerate(lesions, start=1):
        mask[place] = number
    return mask


def test_lesions_that_fit_one_box_are_one_part(load):
    loaded = load((mask_of(NEAR, NEXT) > 0).astype(np.uint8))
    (part,) = loaded.parts(SIZE)
    assert part is loaded.all_lesions
    assert torch.equal(part.lesions(loaded.whole), loaded.lesions_dhw)


@pytest.mark.parametrize("spacing_mm", [None, (1.5, 1, 1.25)])
def test_far_lesions_are_parts_that_share_no_voxel(load, spacing_mm):
    loaded = load((mask_of(NEAR, FAR, NEXT) > 0).astype(np.uint8), spacing_mm)
    first, second = loaded.parts(SIZE)
    assert first.stored.sum() == 60 + 1 and second.stored.sum() == 60
    whole = np.zeros(SHAPE, int)
    for part in (first, second):
        whole[part.stored_place.slices] += part.stored
        assert all(n <= most for n, most in zip(part.place.size, SIZE, strict=True))
    assert np.array_equal(whole, loaded.stored_lesion())
    together = first.lesions(loaded.whole) | second.lesions(loaded.whole)
    assert torch.equal(together, loaded.lesions_dhw)
    assert loaded.parts(SIZE)[1] is second  # made once
    assert len(loaded.parts(SHAPE if spacing_mm is None else loaded.shape)) == 1


def test_a_lesion_larger_than_the_box_is_a_part_that_no_box_holds(load):
    loaded = load(mask_of((slice(2, 4), slice(3, 40), slice(4, 6))))
    (part,) = loaded.parts(SIZE)
    with pytest.raises(UserError, match=r"the lesion spans \(2, 37, 2\) voxels"):
        loaded.region(SIZE, part)


def test_instances_are_lesions_even_where_they_touch(load):
    beside = (slice(2, 5), slice(8, 20), slice(4, 8))
    mask = mask_of(NEAR, beside, FAR)
    loaded = load(mask, instances=True)
    assert np.array_equal(loaded.labels_dhw, mask > 0) and np.array_equal(loaded.instances_dhw, mask)
    assert [int(part.stored.sum()) for part in loaded.parts(SIZE)] == [60, 3 * 12 * 4, 60]
    as_connected = load((mask > 0).astype(np.uint8))
    assert len(as_connected.parts(SIZE)) == 2
    loaded = load(mask_of(NEAR, beside, FAR, dtype=np.float32), instances=True)
    assert loaded.instances_dhw.max() == 3 and loaded.instances_dhw.dtype == np.uint8


@pytest.mark.parametrize("value", [0.5, 256, -1])
def test_what_numbers_no_lesion_is_refused(load, value):
    mask = mask_of(NEAR, dtype=np.float32)
    mask[0, 0, 0] = value
    with pytest.raises(UserError, match=f"mask.nii: holds the values {value}; with layout.instances=true"):
        load(mask, instances=True)
    with pytest.raises(UserError, match="mask.nii: has no lesion voxel"):
        load(mask_of(), instances=True)


@pytest.mark.parametrize("labels", [{"lesion_labels": (1, 2)}, {"other_labels": (2,)}])
def test_instances_of_several_labels_are_refused(labels):
    with pytest.raises(UserError, match="instances=true"):
        Layout(instances=True, **labels)
