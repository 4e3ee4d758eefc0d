"""The training of a segmenter that is killed at its worst moments goes on to the same weights."""

import csv

import kills
import nibabel
import numpy as np
import pytest
import torch

from evaluation_pipeline.cases.nnunet_layout import description, file_names, write_description
from evaluation_pipeline.run_segmentation_training import main
from evaluation_pipeline.segmentation.checkpoint import read_checkpoint

pytestmark = pytest.mark.usefixtures("fresh_process_state")

MOMENTS = {
    "between the temporary file and its name": lambda: kills.at_rename("best_model.pt"),
    "between the best weights and the state": lambda: kills.at_rename("best_model.pt", after=True),
    "while the state is written": lambda: kills.half_saved("last_model.pt"),
    "between the state and the curves": lambda: kills.at_rename("last_model.pt", after=True),
}


@pytest.fixture
def train(tmp_path):
    """-> train(folder): two epochs on three patients, one of them for validation, and one test patient."""
    rng = np.random.default_rng(0)
    for name in ("P0_Vol_1", "P1_Vol_1", "P2_Vol_1", "T0_Vol_1"):
        mask = np.zeros((16, 16, 16), np.uint8)
        mask[4:10, 5:11, 6:12] = 1
        image = (rng.normal(-800, 60, mask.shape) + 800.0 * mask).astype(np.int16)
        split = "Ts" if name.startswith("T") else "Tr"
        for part, file_name, array in zip(("images", "labels"), file_names(name), (image, mask), strict=True):
            (tmp_path / "real" / f"{part}{split}").mkdir(parents=True, exist_ok=True)
            image_file = nibabel.Nifti1Image(array, np.eye(4))
            nibabel.save(image_file, tmp_path / "real" / f"{part}{split}" / file_name)
    write_description(tmp_path / "real", description("CT", {"nodule": 1}, 3))

    def call(folder):
        arguments = [
            *("--real_data_dir", tmp_path / "real", "--model_name", "UNet", "--output_model_dir", folder),
            *("--fold", "0", "--max_epochs", "2", "--num_folds", "3", "--model_size", "small"),
            *("--device", "cpu", "--steps_per_epoch", "2", "--val_every", "1", "--batch_size", "1"),
        ]
        main([str(argument) for argument in arguments])

    return call


def curves(folder):
    with open(folder / "curves.csv", newline="") as file:
        return [row | {"seconds": ""} for row in csv.DictReader(file)]


def test_a_killed_training_goes_on_to_the_same_weights(train, tmp_path, in_child, files):
    train(tmp_path / "unbroken")
    names = {name for name in files(tmp_path / "unbroken") if not name.startswith("tensorboard")}
    for moment, folder in kills.each_resumed(MOMENTS, train, tmp_path, in_child):
        assert {name for name in files(folder) if not name.startswith("tensorboard")} == names, moment
        for name in ("best_model.pt", "last_model.pt"):
            first, second = (
                read_checkpoint(tmp_path / run / name)["weights"] for run in ("unbroken", folder)
            )
            assert first.keys() == second.keys()
            assert all(torch.equal(first[key], second[key]) for key in first), (moment, name)
        assert curves(folder) == curves(tmp_path / "unbroken"), moment
