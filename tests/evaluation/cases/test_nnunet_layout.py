import json

import nibabel
import numpy as np
import pytest

from evaluation_pipeline.cases.nnunet_layout import (
    check_labels,
    description,
    file_names,
    read_dataset,
    write_description,
)


@pytest.fixture
def folder(tmp_path):
    for split, names in (("Tr", ("A_Vol_1", "B_Vol_1")), ("Ts", ("C_Vol_1",))):
        for name in names:
            for part, file_name in zip(("images", "labels"), file_names(name), strict=True):
                path = tmp_path / f"{part}{split}" / file_name
                path.parent.mkdir(exist_ok=True)
                nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)
    write_description(tmp_path, description("CT", {"nodule": 1}, 2))
    return tmp_path


def test_a_data_set_is_read_back(folder):
    data = read_dataset(folder)
    assert [case.name for case in data.train] == ["A_Vol_1", "B_Vol_1"]
    assert data.train[0].image.name == "A_Vol_1_0000.nii.gz" and data.train[0].label.name == "A_Vol_1.nii.gz"
    assert [case.name for case in data.test] == ["C_Vol_1"]
    assert (data.modality, data.labels, data.lesion_labels, data.label_values) == (
        "CT",
        {"nodule": 1},
        [1],
        [0, 1],
    )


def test_anatomy_is_no_lesion_and_other_channels_are_mr(folder):
    labels = {"cavity": 1, "myocardium": 2, "infarct": 3, "no-reflow": 4}
    write_description(folder, description("LGE", labels, 2))
    data = read_dataset(folder)
    assert data.lesion_labels == [3, 4] and data.label_values == [0, 1, 2, 3, 4] and data.modality == "MR"


def test_nnunets_ignore_label_is_no_class(folder):
    labels = {"nodule": 1, "Ignore": 2}
    write_description(folder, description("CT", labels, 2))
    data = read_dataset(folder)
    assert (data.ignore, data.classes, data.lesion_labels) == (2, {"nodule": 1}, [1])
    assert data.label_values == [0, 1, 2]
    with pytest.raises(ValueError, match="--labels ignore nodule: ignore must have the highest value"):
        check_labels({"ignore": 1, "nodule": 2})


def test_labels_are_described_in_the_order_of_their_values():
    content = description("CT", {"tumour": 2, "liver": 1}, 3)
    assert list(content["labels"].items()) == [("background", 0), ("liver", 1), ("tumour", 2)]
    with pytest.raises(ValueError, match="infarct=3: the values must be 1, 2, 3"):
        check_labels({"infarct": 3})
    with pytest.raises(ValueError, match="all are anatomy"):
        check_labels({"cavity": 1, "myocardium": 2})


def test_incomplete_data_sets_are_refused(folder):
    (folder / "labelsTr/A_Vol_1.nii.gz").rename(folder / "kept.nii.gz")
    with pytest.raises(FileNotFoundError, match="A_Vol_1_0000.nii.gz: has no counterpart in .*labelsTr"):
        read_dataset(folder)
    (folder / "imagesTr/A_Vol_1_0000.nii.gz").unlink()
    with pytest.raises(ValueError, match="says numTraining 2 but imagesTr has 1"):
        read_dataset(folder)
    (folder / "kept.nii.gz").rename(folder / "labelsTr/A_Vol_1.nii.gz")
    with pytest.raises(FileNotFoundError, match="A_Vol_1.nii.gz: has no counterpart in .*imagesTr"):
        read_dataset(folder)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"channel_names": {"0": "CT", "1": "PET"}}, "has 2 channels"),
        ({"file_ending": ".nrrd"}, "of .nrrd files"),
        ({"labels": {"background": 0, "infarct": 3}}, "dataset.json: --labels infarct=3"),
        ({"labels": None}, "no dataset.json of nnU-Net v2"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(folder, change, message):
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_dataset(folder)


def test_a_missing_or_damaged_description_is_refused(folder):
    (folder / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match="no dataset.json of nnU-Net v2"):
        read_dataset(folder)
    (folder / "dataset.json").unlink()
    with pytest.raises(FileNotFoundError, match="make the data set with prepare_real_dataset.py"):
        read_dataset(folder)


def test_an_image_without_channel_suffix_is_refused(folder):
    (folder / "imagesTr/A_Vol_1_0000.nii.gz").rename(folder / "imagesTr/A_Vol_1.nii.gz")
    with pytest.raises(ValueError, match="must be called <case>_0000.nii.gz"):
        read_dataset(folder)
