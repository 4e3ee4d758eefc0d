"""A data set of one's own, described by one YAML, through the commands of the evaluation."""

import json

import nibabel
import numpy as np
import pytest
import torch

from evaluation_pipeline import evaluate_synthesis, prepare_real_dataset, run_segmentation_training
from evaluation_pipeline.baselines import copy_paste
from evaluation_pipeline.cases.evaluation import label_scheme
from evaluation_pipeline.cases.nnunet_layout import read_dataset
from evaluation_pipeline.cases.synthetic import find_synthetic

YAML = """
defaults: [custom]
window: [-100, 250]
layout: {image_folder: scans, mask_folder: outlines, mask_names: [[_img, _seg]], output_mask_infix: _seg}
"""


@pytest.fixture
def livers(tmp_path):
    """A YAML file and six livers (label 1) with a tumour (2), (x, y, z); two are for testing."""
    rng = np.random.default_rng(0)
    for number in range(6):
        labels = np.zeros((24, 24, 12), np.uint8)
        labels[3:21, 3:21, 2:10] = 1
        labels[6 + number : 12 + number, 8:14, 4:8] = 2
        hu = np.select([labels == 1, labels == 2], [100, 30], -900) + rng.normal(0, 10, labels.shape)
        for folder, part, array in (("scans", "img", hu.astype(np.int16)), ("outlines", "seg", labels)):
            path = tmp_path / f"livers/{folder}/L{number}_{part}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([1.5, 1.5, 3, 1])), path)
    (tmp_path / "livers/test.txt").write_text("L4_img\nL5_img\n")
    (tmp_path / "liver.yaml").write_text(YAML)
    return tmp_path


def prepare(root, data_type):
    folder, real = root / "livers", root / "real"
    given = {"source_image_dir": folder / "scans", "source_mask_dir": folder / "outlines"}
    given |= {"test_txt_path": folder / "test.txt", "output_dir": real, "data_type": data_type}
    prepare_real_dataset.main([part for key, value in given.items() for part in (f"--{key}", str(value))])
    return real


def test_the_data_set_keeps_window_lesions_and_names(livers):
    real = prepare(livers, livers / "liver.yaml")
    content = json.loads((real / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert content["channel_names"] == {"0": "CT"}
    data = read_dataset(real)
    assert (data.window, data.lesion_labels, data.label_values) == ((-100, 250), [2], [0, 1, 2])
    assert data.layout.output_mask_infix == "_seg"
    assert label_scheme(real / "imagesTs", real / "labelsTs").lesions == {"tumour": 2}


def test_custom_by_its_name(livers):
    for folder, part, new in (("scans", "_img", "_0000"), ("outlines", "_seg", "")):
        for path in (livers / "livers" / folder).iterdir():
            path.rename(path.with_name(path.name.replace(part, new)))
    (livers / "livers/test.txt").write_text("L5_0000\n")
    real = prepare(livers, "custom")
    assert json.loads((real / "dataset.json").read_text())["lefusion"] == {
        "lesion_labels": [2],
        "window": [-100, 250],
    }


def test_a_baseline_a_training_and_a_report(livers):
    real, folder, made = prepare(livers, livers / "liver.yaml"), livers / "livers", livers / "made"
    data_type = ["--data_type", str(livers / "liver.yaml")]
    copy_paste.main(
        [
            *("--dataset_root_dir", str(folder), "--lesions_from", str(folder), "--types", "1", *data_type),
            *("--target_img_path", str(made / "Image"), "--target_label_path", str(made / "Mask")),
        ]
    )
    masks = sorted((made / "Mask/Mask_1").iterdir())
    assert [path.name for path in masks] == [f"L{number}_seg.nii.gz" for number in range(4)]
    with pytest.raises(FileNotFoundError, match="its mask"):
        find_synthetic([made])  # of the released data sets' names

    best = livers / "model"
    run_segmentation_training.main(
        [
            *("--real_data_dir", str(real), "--synthetic_data_dir", str(made), "--fold", "all"),
            *("--model_name", "UNet", "--model_size", "small", "--patch_size", "16", "16", "8"),
            *("--max_epochs", "1", "--steps_per_epoch", "1", "--device", "cpu", "--num_folds", "2"),
            *("--output_model_dir", str(best)),
        ]
    )
    stored = torch.load(best / "best_model.pt", weights_only=True)
    assert stored["preprocessing"]["window"] == [-100, 250]
    assert stored["metadata"]["lesions"] == ["tumour"] and stored["metadata"]["synthetic_cases"] == 4

    report = livers / "report"
    evaluate_synthesis.main(
        [
            *("--real_dir", str(folder), "--synthetic_dir", str(made), "--source_dir", str(folder)),
            *("--output_dir", str(report), *data_type),
        ]
    )
    found = json.loads((report / "report.json").read_text())
    assert (found["data_type"], found["scale"], found["unit"]) == ("liver", [-100, 250], "HU")
    assert found["lesions"]["synthetic"] == 4 and found["sections"]["background"]["max"] == 0
