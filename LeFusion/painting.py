"""Painting a batch of lesions with a network: the samplers of the core, joined to histograms and devices."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from LeFusion.diffusion import (
    SAMPLERS,
    SPACINGS,
    AddressedNoise,
    NoiseSchedule,
    UNet3D,
    compose,
    walk_levels,
)
from LeFusion.diffusion.denoiser import Denoiser, by_rows
from LeFusion.errors import UserError
from LeFusion.guidance import Guide, guide_intensity

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # of the key precision


@dataclass(frozen=True)
class SamplerSettings:
    """How to walk from noise to a lesion.

    Attributes:
        name: repaint, ddim or dpmpp.
        num_steps: levels visited; None: all of the schedule's.
        jump_length: of RePaint's resampling, in visited levels; 1 for none.
        jump_n_sample: how often RePaint resamples; 1 for none.
        guidance_scale: 1 for the condition as trained; above it classifier-free guidance (Ho & Salimans 2022,
            eq. 6 with 1 + w).
        intensity_guidance: 0 to 1, how far the intensities of a predicted lesion are moved to those of the
            histogram asked for, see `guide_intensity`; 0 is the paper's sampling.
        spacing: how the levels are spread, see `spaced_levels`.
        eta: of ddim, 0 to 1: how much noise is added on the way down.
        guided_signal: until when intensities are guided, max_signal of `guide_intensity`.
    """

    name: str = "repaint"
    num_steps: int | None = None
    jump_length: int = 1
    jump_n_sample: int = 1
    guidance_scale: float = 1.0
    intensity_guidance: float = 0.0
    spacing: str = "even"
    eta: float = 0.0
    guided_signal: float | None = None

    def __post_init__(self):
        if self.name not in SAMPLERS:
            raise UserError(f"sampler {self.name!r} is unknown; choose one of {', '.join(SAMPLERS)}")
        if not 0 <= self.intensity_guidance <= 1:
            raise UserError(f"intensity_guidance={self.intensity_guidance} must be in 0 to 1")
        if self.spacing not in SPACINGS:
            raise UserError(f"spacing={self.spacing!r} must be one of {', '.join(SPACINGS)}")
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta={self.eta} must be in 0 to 1")
        if self.eta and self.name != "ddim":
            raise UserError(f"eta={self.eta} is for sampler=ddim; {self.name} has none, set eta=0")

    def walk(self, schedule: NoiseSchedule) -> list[int]:
        steps = schedule.num_steps if self.num_steps is None else self.num_steps
        return walk_levels(schedule.num_steps, steps, self.jump_length, self.jump_n_sample, self.spacing)

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
    denoiser: Denoiser = Denoiser(),  # noqa: B008 (frozen)
    edit: Tensor | None = None,
    guide: Guide | None = None,
) -> Tensor:
    """Paints lesions into a batch of images.

    Args:
        image: (B, 1, D, H, W) in [-1, 1].
        lesions: (B, K, D, H, W) bool.
        histogram: (B, K * bins), or None: without condition.
        addresses: B addresses of the noise, e.g. (seed, case name, texture type).
        denoiser: what the network sees and predicts.
        edit: (B, K, D, H, W) bool, what is painted, see `edit_masks`; None: the lesions.
        guide: where intensity guidance wants which intensities; None: the histogram anywhere in a lesion.

    Returns:
        (B, 1, D, H, W): painted inside the edit masks, `image` outside, on the CPU.
    """
    if histogram is not None and bool(histogram.isnan().any()):
        row = int(histogram.isnan().any(dim=1).nonzero()[0])
        raise UserError(f"the histogram for {addresses[row]} holds NaN; give None for no condition")
    device = next(network.parameters()).device
    image, lesions = image.to(device), lesions.to(device)
    edit = lesions if edit is None else edit.to(device)
    histogram = None if histogram is None else histogram.to(device)

    if guide is not None:
        guide = guide.to(device)
    elif histogram is not None:
        guide = Guide.whole(lesions, histogram)

    def predict(x_t: Tensor, t: Tensor, rows: slice) -> Tensor:
        condition = None if histogram is None else histogram[rows]
        given = (image[rows], lesions[rows], schedule)
        noise = denoiser.noise(network, x_t, t, condition, *given, edit=edit[rows])
        if settings.guidance_scale != 1:
            unconditional = denoiser.noise(network, x_t, t, None, *given, edit=edit[rows])
            noise = unconditional + settings.guidance_scale * (noise - unconditional)
        if settings.intensity_guidance and condition is not None:
            strength = settings.intensity_guidance
            noise = guide_intensity(
                noise, x_t, t, guide.rows(rows), schedule, strength, settings.guided_signal
            )
        return noise

    sample = SAMPLERS[settings.name]
    options = {"eta": settings.eta} if settings.name == "ddim" else {}
    noise = AddressedNoise(addresses)
    denoise, walk = partial(by_rows, predict), settings.walk(schedule)
    x_0 = sample(denoise, image, edit, noise, schedule, walk, **options)
    return compose(x_0, image, edit).cpu()
