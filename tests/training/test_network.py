"""The network that both trainings start with."""

import pytest
import torch

from LeFusion.errors import UserError
from LeFusion.training.network import new_network

SMALL = {"dim": 8, "dim_mults": [1, 2], "in_channels": 2, "out_channels": 1}


def weights(seed: int) -> torch.Tensor:
    network = new_network(SMALL, (2, 8, 8), seed, None)
    return torch.cat([part.flatten() for part in network.parameters()])


def test_it_depends_on_its_seed_alone():
    first = weights(3)
    torch.rand(5)
    assert torch.equal(weights(3), first) and not torch.equal(weights(4), first)


def test_sizes_that_it_cannot_halve_are_refused():
    with pytest.raises(UserError, match=r"\[2, 8, 7\] must be multiples of 2"):
        new_network(SMALL, [2, 8, 7], 0, None)
