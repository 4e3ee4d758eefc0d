"""Tiny trainings, and what they left in a folder."""

import csv
import os

import numpy as np
import torch

from LeFusion.diffusion import NoiseSchedule
from LeFusion.losses import LesionLoss
from LeFusion.training.state import STATE_FILE

SCHEDULE = NoiseSchedule.cosine(10)
METADATA = {"data_type": "lidc", "schedule": {"kind": "cosine", "num_steps": 10}, "git_commit": "abc"}
LOSS_FN = LesionLoss(SCHEDULE, seed=0, cond_dropout=0.3)


class Noise(torch.utils.data.Dataset):
    """Five items whose content depends on their index and on the draw."""

    def __len__(self):
        return 5

    def __getitem__(self, address):
        index, draw = address
        rng = np.random.default_rng((index, draw))
        lesions = torch.zeros(1, 4, 8, 8, dtype=torch.bool)
        lesions[:, 1:3, 2:7, index : index + 3] = True
        return {
            "image": torch.from_numpy(rng.uniform(-1, 1, (1, 4, 8, 8)).astype(np.float32)),
            "lesions": lesions,
            "histogram": torch.from_numpy(rng.dirichlet(np.ones(16)).astype(np.float32)),
            "name": f"item {index}",
        }


def at_call(number, action, loss_fn=LOSS_FN):
    """loss_fn, with an action before call `number` (from 1)."""
    calls = 0

    def counting(network, batch):
        nonlocal calls
        calls += 1
        if calls == number:
            action()
        return loss_fn(network, batch)

    return counting


def send(number):
    return lambda: os.kill(os.getpid(), number)


def state_of(folder):
    return torch.load(folder / STATE_FILE, weights_only=True)


def rows_of(folder):
    with open(folder / "loss.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_equal(first, second, where=""):
    """Bit-equal, at any depth of dicts and lists."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for i, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_equal(one, other, f"{where}/{i}")
    else:
        assert torch.equal(first, second) if torch.is_tensor(first) else first == second, where


def assert_same_run(first, second):
    """Weights, moving average, optimizer, and the losses on the way are those of the other folder."""
    assert_equal(state_of(first), state_of(second))
    losses = [
        [(row["step"], row["loss"], row["learning_rate"]) for row in rows_of(f)] for f in (first, second)
    ]
    assert losses[0] == losses[1]
    assert [int(row["step"]) for row in rows_of(first)] == list(range(1, 1 + state_of(first)["step"]))
