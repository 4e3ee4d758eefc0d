"""Soft lesion masks from spheres: the samplers of the core, with nothing to keep around the lesion."""

from collections.abc import Sequence

import torch
from torch import Tensor

from LeFusion.diffusion import SAMPLERS, AddressedNoise, NoiseSchedule, UNet3D, walk_levels
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
    spheres = spheres.to(device)

    def predict(x_t: Tensor, t: Tensor, rows: slice) -> Tensor:
        output = network(torch.cat([x_t, spheres[rows]], dim=1), t.to(device)).float()
        return schedule.noise_from_velocity(x_t, t, output) if prediction == "velocity" else output

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        if device.type != "cpu":
            return predict(x_t, t, slice(None))
        # One sample at a time on a CPU, so that a mask does not depend on its batch (as in painting).
        rows = [slice(i, i + 1) for i in range(len(x_t))]
        return torch.cat([predict(x_t[row], t[row], row) for row in rows])

    walk = walk_levels(schedule.num_steps, schedule.num_steps if num_steps is None else num_steps)
    everywhere = torch.ones_like(spheres, dtype=torch.bool)
    nothing = torch.zeros_like(spheres)
    soft = SAMPLERS[sampler](denoise, nothing, everywhere, AddressedNoise(addresses), schedule, walk)
    return soft.clamp(-1, 1).cpu()
