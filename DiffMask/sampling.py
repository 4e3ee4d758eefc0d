"""Soft lesion masks from spheres: the samplers of the core, with nothing to keep around the lesion."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from LeFusion.diffusion import SAMPLERS, AddressedNoise, NoiseSchedule, UNet3D, walk_levels
from LeFusion.diffusion.denoiser import Denoiser, by_rows
from LeFusion.errors import UserError


@torch.no_grad()
def sample_masks(
    network: UNet3D,
    schedule: NoiseSchedule,
    spheres: Tensor,
    addresses: Sequence[tuple],
    sampler: str = "repaint",
    num_steps: int | None = None,
    prediction: str = "noise",
) -> Tensor:
    """Samples one mask for each sphere.

    Args:
        spheres: (B, 1, D, H, W), in the encoding that the network was trained with (see encode_sphere).
        addresses: B addresses of the noise, e.g. (seed, case name, number of the mask).
        sampler: ddim, dpmpp, or repaint, which without surroundings is the plain ancestral sampler.
        num_steps: levels visited; None: all of the schedule's.
        prediction: what the network predicts, "noise" or "velocity".

    Returns:
        (B, 1, D, H, W) on the CPU, in [-1, 1]: above 0 is lesion.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"sampler {sampler!r} is unknown; choose one of {', '.join(SAMPLERS)}")
    device = next(network.parameters()).device
    spheres, denoiser = spheres.to(device), Denoiser(prediction=prediction)

    def predict(x_t: Tensor, t: Tensor, rows: slice) -> Tensor:
        return denoiser.noise_beside(network, x_t, t, [spheres[rows]], schedule)

    walk = walk_levels(schedule.num_steps, schedule.num_steps if num_steps is None else num_steps)
    everywhere = torch.ones_like(spheres, dtype=torch.bool)
    nothing = torch.zeros_like(spheres)
    noise = AddressedNoise(addresses)
    soft = SAMPLERS[sampler](partial(by_rows, predict), nothing, everywhere, noise, schedule, walk)
    return soft.clamp(-1, 1).cpu()
