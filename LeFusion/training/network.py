"""The network that a training starts with."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from LeFusion.diffusion import UNet3D, start_from
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import given_path


def new_network(
    config: Mapping[str, Any], size: Sequence[int], seed: int, init_weights: str | None
) -> UNet3D:
    """A network for boxes of `size` (depth, height, width), random by its seed or with the weights of a file.

    config: arguments of UNet3D. Raises UserError for sizes that it cannot halve, and weights that do not fit.
    """
    torch.manual_seed(seed)
    network = UNet3D(**config)
    if init_weights:
        start_from(network, given_path(init_weights))
    if any(length % network.plane_multiple for length in size[1:]):
        raise UserError(f"height and width of {size} must be multiples of {network.plane_multiple}")
    return network
