"""Reading lesions and data sets: layouts, units, and what is refused."""

import argparse
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from evaluation_pipeline.fidelity.data_types import add_data_flags, data_type_of, training_cases
from evaluation_pipeline.fidelity.lesions import (
    background_difference,
    images_by_name,
    read_lesion,
    read_synthetic,
)
from LeFusion.data_types import load_data_type

LIDC, EMIDEC = load_data_type("lidc"), load_data_type("emidec")


def save(path: Path, array: np.ndarray, step: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([step, step, step, 1])), path)
    return path


@pytest.fixture
def pair(tmp_path):
    """-> write(image, mask) as A_Vol_1 / A_Mask_1 -> their paths."""

    def write(image: np.ndarray, mask: np.ndarray, mask_step: float = 1.0):
        return save(tmp_path / "A_Vol_1.nii.gz", image), save(tmp_path / "A_Mask_1.nii.gz", mask, mask_step)

    return write


def block(shape=(4, 50, 60), label=1) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[1:3, 20:23, 30:34] = label
    return mask


def flags(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_data_flags(parser)
    return parser.parse_args(argv)


def test_a_lesion_is_cut_out_with_its_surroundings(pair):
    image = np.random.default_rng(0).integers(-2000, 900, (4, 50, 60)).astype(np.int16)
    lesion, volume, labels = read_lesion(*pair(image, block()), LIDC, "A_Vol_1", 2)
    assert (lesion.case, lesion.patient, lesion.kind) == ("A_Vol_1", "A", 2)
    assert lesion.mask.shape == (4, 20 + 3 + 20, 20 + 4 + 20)
    cut = tuple(slice(o, o + n) for o, n in zip(lesion.origin, lesion.mask.shape, strict=True))
    assert np.array_equal(lesion.image, image[cut].clip(-1000, 400))
    assert np.array_equal(lesion.values, image[block() > 0].clip(-1000, 400))
    assert np.array_equal(labels, block())
    assert np.array_equal(volume.raw, image)


def test_hearts_are_scaled_by_their_range_and_healthy_myocardium(pair):
    labels = np.zeros((40, 40, 3), np.uint8)  # depth last
    labels[10:20, 10:20, 1], labels[20:25, 10:20, 1], labels[25:27, 10:12, 1] = 2, 3, 4
    image = np.select([labels == 2, labels == 3, labels == 4], [50, 200, 120], 0).astype(np.int16)
    image[0, 0, 0] = 250
    lesion, _, _ = read_lesion(*pair(image, labels), EMIDEC, "A", 0)
    assert lesion.mask.shape[0] == 3
    assert np.unique(lesion.values) == pytest.approx([(120 - 50) / 250, (200 - 50) / 250])
    assert lesion.reference == pytest.approx(50 / 250)


def test_a_case_without_the_chosen_labels_is_left_out(tmp_path, pair):
    data_type = data_type_of(flags("--data_type", "emidec", "--lesion_labels", "4"), tmp_path)
    assert data_type.layout.known_labels == (0, 4, 3, 1, 2)
    labels = np.moveaxis(block(label=3), 0, 2)
    image = np.random.default_rng(0).integers(0, 255, labels.shape).astype(np.int16)
    left_out = []
    lesions, _ = read_synthetic([("A", 1, *pair(image, labels))], data_type, [3, 4], None, left_out)
    assert (lesions, left_out) == ([], ["A (type 1)"])


def test_what_is_refused(pair):
    image = np.zeros((4, 50, 60), np.float32)
    with pytest.raises(ValueError, match="labels 7"):
        read_lesion(*pair(image, block(label=7)), LIDC, "A", 0)
    with pytest.raises(ValueError, match="is empty"):
        read_lesion(*pair(image, 0 * block()), LIDC, "A", 0)
    with pytest.raises(ValueError, match="shape"):
        read_lesion(*pair(image, block((4, 50, 61))), LIDC, "A", 0)
    with pytest.raises(ValueError, match="affine"):
        read_lesion(*pair(image, block(), mask_step=2.0), LIDC, "A", 0)
    image[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        read_lesion(*pair(image, block()), LIDC, "A", 0)


def test_background():
    source = np.arange(24.0).reshape(2, 3, 4)
    mask = np.zeros(source.shape, bool)
    mask[0] = True
    painted = np.where(mask, 500, source)
    same = background_difference("A", 1, painted, source, mask)
    assert (same.largest, same.mean, same.changed_voxels) == (0, 0, 0)
    painted[1, 0, 0] += 6
    changed = background_difference("A", 1, painted, source, mask)
    assert (changed.largest, changed.mean, changed.changed_voxels) == (6, 0.5, 1)
    assert background_difference("A", 1, painted, source, np.ones_like(mask)).largest == 0


def test_a_source_that_is_missing_or_lies_elsewhere(tmp_path, pair):
    image = np.zeros((4, 50, 60), np.int16)
    files = [("A_Vol_1", 1, *pair(image, block()))]
    with pytest.raises(ValueError, match="--source_dir has no image"):
        read_synthetic(files, LIDC, [1], {}, [])
    other = save(tmp_path / "s" / "A_Vol_1.nii.gz", image, 2.0)
    with pytest.raises(ValueError, match="affine"):
        read_synthetic(files, LIDC, [1], {"A_Vol_1": other}, [])


def test_the_source_of_an_image_painted_into_a_generated_mask(tmp_path, pair):
    image = np.zeros((4, 50, 60), np.int16)
    source = save(tmp_path / "s" / "A_CVol_2.nii.gz", image)
    files = [(f"A_CVol_2_GenMask_{n}", 1, *pair(image, block())) for n in (1, 12)]
    _, backgrounds = read_synthetic(files, LIDC, [1], {"A_CVol_2": source}, [])
    assert [(b.case, b.largest) for b in backgrounds] == [(name, 0) for name, *_ in files]


def test_images_by_name(tmp_path):
    for name in ("Image/x/A_CVol_1.nii.gz", "Image/B_0000.nii", "Mask/A_CMask_1.nii.gz", "Image/.C.nii"):
        save(tmp_path / name, np.zeros((2, 2, 2), np.int16))
    assert set(images_by_name(tmp_path, "Image")) == {"A_CVol_1", "B"}
    with pytest.raises(FileNotFoundError):
        images_by_name(tmp_path / "none", "Image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image"):
        images_by_name(tmp_path / "empty", "Image")


def test_data_types_are_told_by_their_folders(tmp_path):
    for folder, name in (("a/Image", "lidc"), ("b/images", "emidec"), ("c/imagesTr", "lidc")):
        (tmp_path / folder).mkdir(parents=True)
        assert data_type_of(flags(), tmp_path / folder.split("/")[0]).name == name
    (tmp_path / "c/dataset.json").write_text(json.dumps({"channel_names": {"0": "LGE MRI"}}))
    heart = data_type_of(flags(), tmp_path / "c")
    assert (heart.name, heart.layout.mask_folder, heart.layout.lesion_labels) == (
        "emidec",
        "labelsTr",
        (3, 4),
    )
    (tmp_path / "c/dataset.json").write_text("{")
    with pytest.raises(ValueError, match="dataset.json"):
        data_type_of(flags(), tmp_path / "c")
    with pytest.raises(ValueError, match="none of the folders"):
        data_type_of(flags(), tmp_path)
    with pytest.raises(FileNotFoundError):
        data_type_of(flags(), tmp_path / "none")


def test_flags_change_the_data_type(tmp_path):
    (tmp_path / "Image").mkdir()
    argv = ("--lesion_labels", "2", "--other_labels", "1", "--window", "-100", "250", "--depth_axis", "2")
    found = data_type_of(flags(*argv), tmp_path)
    assert (found.layout.known_labels, found.window, found.layout.depth_axis) == ((0, 2, 1), (-100, 250), 2)
    with pytest.raises(ValueError, match="--window"):
        data_type_of(flags("--window", "3", "3"), tmp_path)


def test_training_and_test_cases(lidc, tmp_path):
    train, test = training_cases(lidc / "Pathological", LIDC.layout, None)  # test.txt lies there
    assert [case.name for case in test] == ["P-0004_Vol_1"]
    assert len(train) == 3
    listed = tmp_path / "mine.txt"
    listed.write_text("P-0001_Vol_1\nP-0002_Vol_1\n")
    train, test = training_cases(lidc / "Pathological", LIDC.layout, listed)
    assert [case.name for case in train] == ["P-0003_Vol_1", "P-0004_Vol_1"]
    assert [len(part) for part in training_cases(lidc / "Normal", LIDC.layout, None)] == [3, 0]


def test_test_cases_of_nnunet(tmp_path):
    for name in (
        "imagesTr/A_0000",
        "imagesTr/B_0000",
        "labelsTr/A",
        "labelsTr/B",
        "imagesTs/C_0000",
        "labelsTs/C",
    ):
        save(tmp_path / f"{name}.nii.gz", np.ones((2, 2, 2), np.uint8))
    layout = data_type_of(flags(), tmp_path).layout
    train, test = training_cases(tmp_path, layout, None)
    assert [case.name for case in train] == ["A_0000", "B_0000"]
    assert [case.mask_path.name for case in test] == ["C.nii.gz"]
