"""The region of a heart, and its healthy tissue."""

import nibabel
import numpy as np
import pytest
import torch
from lesion_cases import RELATIVE, TWO_CLASSES, make_case, refused, save_case

from LeFusion.dataset.boxes import Box
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.dataset import LesionDataset
from LeFusion.dataset.loading import load_case

HEART = Layout(
    mask_names=(),
    lesion_labels=(3, 4),
    other_labels=(1, 2),
    cavity_label=1,
    myocardium_label=2,
    reference_label=2,
)


def heart_case(folder, size=14):
    """A heart of size x size voxels at (6, 30) of 7 x 64 x 80, with a lesion of 2 x 3 x 3 in its corner."""
    mask = np.zeros((7, 64, 80), np.uint8)
    mask[1:6, 6 : 6 + size, 30 : 30 + size] = 2
    mask[1:6, 9:12, 33:36] = 1
    mask[2:4, 6:9, 30:33] = 3
    image = np.random.default_rng(0).integers(0, 500, mask.shape).astype(np.int16)
    affine = np.array(
        [[0, -1.5, 0, 0], [0, 0, -2, 0], [1.5, 0, 0, 0], [0, 0, 0, 1]]
    )  # to superior, left, back
    return save_case(folder, "H", image, mask, affine)


def test_the_region_of_a_heart_is_centred_on_the_heart(tmp_path):
    case = heart_case(tmp_path)
    loaded = load_case(case, HEART, "minmax")
    box = loaded.region((7, 24, 24))
    assert box == Box((0, 1, 25), (7, 24, 24))  # heart: 6..20 and 30..44, centre 13 and 37
    no_heart = Layout(mask_names=(), lesion_labels=(3, 4), other_labels=(1, 2))
    assert load_case(case, no_heart, "minmax").region((7, 8, 8)) == Box(
        (0, 3, 27), (7, 8, 8)
    )  # on the lesion
    item = LesionDataset([case], HEART, size=(7, 24, 24), window="minmax")[0]
    assert torch.equal(item["image"][0], loaded.image(box)[0])
    assert loaded.region((7, 14, 14)) == Box((0, 6, 30), (7, 14, 14))  # just as large as the heart


def test_a_heart_larger_than_the_region_is_shown_around_its_lesion(tmp_path):
    case = heart_case(tmp_path, size=40)
    loaded = load_case(case, HEART, "minmax")
    assert loaded.region((7, 24, 24)) == Box((0, 0, 19), (7, 24, 24))  # lesion: 6..9 and 30..33
    with pytest.raises(ValueError, match="lesion spans"):
        loaded.region((1, 24, 24))


def test_the_region_of_a_resampled_heart(tmp_path):
    loaded = load_case(heart_case(tmp_path), HEART, "minmax", spacing_mm=(1.5, 0.75, 1))
    assert loaded.shape == loaded.image_dhw.shape == (7, 128, 160)
    start = loaded.region((7, 48, 48)).start
    assert start[0] == 0 and abs(start[1] - 2) <= 1 and abs(start[2] - 50) <= 1


def test_the_heart_in_a_box(tmp_path):
    case, box = heart_case(tmp_path), Box((-1, 4, 28), (7, 18, 8))
    organ = load_case(case, HEART, "minmax").organ_in(box)
    expected = torch.zeros(7, 18, 8, dtype=torch.bool)
    expected[2:7, 2:16, 2:] = True  # muscle, cavity and lesion
    assert torch.equal(organ, expected)
    assert load_case(case, TWO_CLASSES, "minmax").organ_in(box) is None
    fine = load_case(case, HEART, "minmax", spacing_mm=(1.5, 0.75, 1))
    doubled = expected.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(fine.organ_in(Box((-1, 8, 56), (7, 36, 16))), doubled)


def test_the_mean_of_healthy_tissue(tmp_path):
    case = heart_case(tmp_path)
    loaded = load_case(case, HEART, "minmax")
    myocardium = loaded.image_dhw.numpy()[loaded.labels_dhw == 2]
    assert loaded.reference_mean == pytest.approx(myocardium.mean(dtype=np.float64), abs=1e-5)
    assert load_case(case, TWO_CLASSES, "minmax").reference_mean is None
    item = LesionDataset([case], HEART, size=(7, 24, 24), window="minmax")[0]
    assert item["reference_mean"] == loaded.reference_mean


def test_a_case_without_healthy_tissue_is_refused_by_file(tmp_path):
    case = make_case(tmp_path)  # labels 0 and 1
    refused(case, case.mask_path, "no voxel of label 2", "reference_label", layout=RELATIVE)
    whole_heart = heart_case(tmp_path)
    image, mask = (nibabel.load(path).get_fdata() for path in (whole_heart.image_path, whole_heart.mask_path))
    mask[mask == 2] = 1
    case = save_case(tmp_path, "scar", image.astype(np.int16), mask.astype(np.uint8))
    refused(case, case.mask_path, "no voxel of label 2", layout=HEART, window="minmax")
