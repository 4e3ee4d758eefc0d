"""Every training starts as in a new process."""

import pytest
import torch
from training_runs import LOSS_FN, METADATA, Noise

from LeFusion.diffusion import UNet3D
from LeFusion.training.settings import TrainingSettings
from LeFusion.training.trainer import train


@pytest.fixture
def start(tiny_model):
    """-> start(folder, **settings): trains a new network of fixed initial weights in a folder."""

    def call(
        folder,
        loss_fn=LOSS_FN,
        metadata=METADATA,
        sample_sheet=None,
        dim=8,
        validate=None,
        dtype=torch.float32,
        dataset=None,
        **settings,
    ):
        defaults = {
            "train_num_steps": 6,
            "batch_size": 2,
            "gradient_accumulate_every": 1,
            "train_lr": 1e-3,
            "save_and_sample_every": 100,
            "num_workers": 0,
            "device": "cpu",
        }
        torch.manual_seed(1)
        network = UNet3D(in_channels=1, cond_dim=16, **tiny_model | {"dim": dim}).to(dtype)
        settings = TrainingSettings(**defaults | settings)
        return train(network, loss_fn, dataset or Noise(), settings, folder, metadata, sample_sheet, validate)

    return call


@pytest.fixture(autouse=True)
def as_in_a_new_process(fresh_process_state):
    pass
