"""Painting a batch of lesions with a network: the samplers of the core, joined to histograms and devices."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from LeFusion.diffusion import (
    AddressedNoise,
    NoiseSchedule,
    UNet3D,
    compose,
    ddim,
    dpm_solver_pp_2m,
    repaint,
    walk_levels,
)

SAMPLERS = {"repaint": repaint, "ddim": ddim, "dpmpp": dpm_solver_pp_2m}


@dataclass(frozen=True)
class SamplerSettings:
    """How to walk from noise to a lesion.

    name: repaint, ddim or dpmpp. num_steps: levels visited (None: all of the schedule's). jump_length,
    jump_n_sample: RePaint's resampling, counted in visited levels; 1, 1 for none. guidance_scale: 1 for the
    condition as trained; above it, classifier-free guidance (Ho & Salimans 2022, eq. 6 with 1 + w).
    """

    name: str = "repaint"
    num_steps: int | None = None
    jump_length: int = 1
    jump_n_sample: int = 1
    guidance_scale: float = 1.0

    def __post_init__(self):
        if self.name not in SAMPLERS:
            raise ValueError(f"sampler {self.name!r} is unknown; choose one of {', '.join(SAMPLERS)}")

    def walk(self, schedule: NoiseSchedule) -> list[int]:
        steps = schedule.num_steps if self.num_steps is None else self.num_steps
        return walk_levels(schedule.num_steps, steps, self.jump_length, self.jump_n_sample)

    def network_calls(self, schedule: NoiseSchedule) -> int:
        """Calls a sample costs: one a step down, two with guidance."""
        walk = self.walk(schedule)
        down = sum(later < earlier for earlier, later in zip(walk, walk[1:], strict=False))
        return down * (1 if self.guidance_scale == 1 else 2)


@torch.no_grad()
def paint(
    network: UNet3D,
    schedule: NoiseSchedule,
    settings: SamplerSettings,
    image: Tensor,
    lesions: Tensor,
    histogram: Tensor | None,
    addresses: Sequence[tuple],
) -> Tensor:
    """Paints lesions into a batch of images.

    Args:
        image: (B, 1, D, H, W) in [-1, 1].
        lesions: (B, K, D, H, W) bool.
        histogram: (B, K * bins), or None for a network without condition.
        addresses: B addresses of the noise, e.g. (seed, case name, texture type).

    Returns:
        (B, 1, D, H, W): painted inside the lesions, `image` outside, on the CPU.
    """
    parameter = next(network.parameters())
    device = parameter.device
    image, lesions = image.to(device), lesions.to(device)
    histogram = None if histogram is None else histogram.to(device)

    def predict(x_t: Tensor, t: Tensor, rows: slice) -> Tensor:
        condition = None if histogram is None else histogram[rows]
        noise = network(x_t, t, condition).float()
        if settings.guidance_scale == 1:
            return noise
        unconditional = network(x_t, t, None).float()
        return unconditional + settings.guidance_scale * (noise - unconditional)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        if device.type != "cpu":
            return predict(x_t, t, slice(None))
        # One sample at a time: a CPU gains nothing from batches, and matrix products of another size round
        # differently, so that a sample would depend on the batch that it is in.
        rows = [slice(i, i + 1) for i in range(len(x_t))]
        return torch.cat([predict(x_t[row], t[row], row) for row in rows])

    sample = SAMPLERS[settings.name]
    x_0 = sample(denoise, image, lesions, AddressedNoise(addresses), schedule, settings.walk(schedule))
    return compose(x_0, image, lesions).cpu()
