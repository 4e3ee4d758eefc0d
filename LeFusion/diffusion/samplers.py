"""Samplers: plain functions that paint lesions into a known image.

Each takes

    denoise   a closure (x_t, t) -> the noise predicted in x_t; x_t (B, K, D, H, W), t (B,) on the CPU
    known     the lesion-free image, (B, 1, D, H, W) in [-1, 1]
    lesions   where lesion k is to be painted, (B, K, D, H, W) bool; known is kept outside all of them
    noise     a callable `like -> standard normal noise of that shape` (see AddressedNoise)
    schedule  the NoiseSchedule
    walk      the time levels to visit, from the noisiest down to -1. Where it goes up, the sample is noised
              again (a RePaint jump); see `repaint_times` and `walk_levels`

and returns x_0 (B, K, D, H, W), meaningful inside the lesions; `compose` puts it into the known image. At
every step, whatever the sampler, the region outside the lesions is the known image noised exactly to the
level of x_t.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from LeFusion.diffusion.schedule import NoiseSchedule
from LeFusion.errors import UserError

MOST_STEPS = 1_000_000  # of a walk, a thousand times the paper's
Denoise = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[Tensor], Tensor]


def repaint_times(num_steps: int, jump_length: int, jump_n_sample: int) -> list[int]:
    """The time levels that the walk of RePaint visits, ending at -1.

    The walk goes down from num_steps - 1. On first reaching a multiple of jump_length (those high up, less
    than jump_length + 1 below num_steps, excepted) it jumps jump_length levels up and comes down again,
    jump_n_sample - 1 times. (Lugmayr et al., "RePaint", CVPR 2022, section 4.2.)
    """
    if min(num_steps, jump_length, jump_n_sample) < 1:
        raise UserError(
            f"num_steps={num_steps}, jump_length={jump_length}, jump_n_sample={jump_n_sample}: "
            "each must be at least 1"
        )
    jumping = max(0, -(-(num_steps - jump_length) // jump_length))  # levels
    steps = num_steps + 2 * jump_length * (jump_n_sample - 1) * jumping
    if steps > MOST_STEPS:
        raise UserError(
            f"num_steps={num_steps}, jump_length={jump_length}, jump_n_sample={jump_n_sample}: a walk of "
            f"{steps:,} steps is longer than {MOST_STEPS:,}; choose smaller ones"
        )
    walk = []
    for level in range(num_steps - 1, -1, -1):
        walk.append(level)
        if level % jump_length == 0 and level < num_steps - jump_length:
            up_and_down = [
                *range(level + 1, level + jump_length + 1),
                *range(level + jump_length - 1, level - 1, -1),
            ]
            walk += up_and_down * (jump_n_sample - 1)
    return [*walk, -1]


SPACINGS = ("even", "trailing", "quadratic")


def spaced_levels(schedule_steps: int, num_steps: int, spacing: str = "even") -> list[int]:
    """`num_steps` of the levels 0..schedule_steps-1, ascending; the noisiest is always among them.

    even: evenly spread, from 0 on. trailing: evenly spread, but ending a step above the clean image instead
    of at level 0 (Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2024, table 2).
    quadratic: from 0 on, closer to each other where there is little noise (Song et al., "DDIM", 2021, D.2).
    """
    if not 1 <= num_steps <= schedule_steps:
        raise UserError(f"num_steps={num_steps} must be in 1..{schedule_steps}, the levels of the schedule")
    if spacing not in SPACINGS:
        raise UserError(f"spacing={spacing!r} must be one of {', '.join(SPACINGS)}")
    top = schedule_steps - 1
    if spacing == "trailing":
        step = schedule_steps / num_steps
        return [round(step * number) - 1 for number in range(1, num_steps + 1)]
    place = torch.linspace(1, 0, num_steps, dtype=torch.float64)
    if spacing == "quadratic":
        levels = (top * place.square()).round().long().flip(0).tolist()
        # Rounding puts neighbours near 0 on one level: each moves up to the next that is free
        for i in range(1, num_steps):
            levels[i] = max(levels[i], levels[i - 1] + 1)
        return levels
    return (top * place).round().long().flip(0).tolist()


def walk_levels(
    schedule_steps: int,
    num_steps: int,
    jump_length: int = 1,
    jump_n_sample: int = 1,
    spacing: str = "even",
) -> list[int]:
    """A walk over `num_steps` levels, see spaced_levels, with jumps counted in them; ends at -1. With all
    levels and no jumps: schedule_steps-1, ..., 0, -1."""
    grid = spaced_levels(schedule_steps, num_steps, spacing)
    return [grid[i] if i >= 0 else -1 for i in repaint_times(num_steps, jump_length, jump_n_sample)]


def compose(x_0: Tensor, known: Tensor, lesions: Tensor) -> Tensor:
    """Class k from channel k of x_0 (B, K, D, H, W) inside its lesions, known (B, 1, D, H, W) outside."""
    image = known.clone()
    for k in range(lesions.shape[1]):
        image = torch.where(lesions[:, k : k + 1], x_0[:, k : k + 1], image)
    return image


def repaint(
    denoise: Denoise,
    known: Tensor,
    lesions: Tensor,
    noise: Noise,
    schedule: NoiseSchedule,
    walk: Sequence[int],
) -> Tensor:
    """The ancestral walk of RePaint (Lugmayr et al. 2022, algorithm 1), as LeFusion uses it."""
    x = noise(_start(known, lesions))
    for t, s in pairwise(walk):
        if s > t:
            x = schedule.renoise(x, s, noise(x), t)
        else:
            x = repaint_step(denoise, x, t, s, known, lesions, schedule, noise(x), noise(x))
    return x


def repaint_step(
    denoise: Denoise,
    x_t: Tensor,
    t: int,
    s: int,
    known: Tensor,
    lesions: Tensor,
    schedule: NoiseSchedule,
    noise_known: Tensor,
    noise_step: Tensor,
) -> Tensor:
    """One reverse step from level t to s < t.

    noise_known noises the background, noise_step the sample.
    """
    x_t = _with_known(x_t, t, known, lesions, schedule, noise_known)
    x_0 = _predicted_x0(denoise, x_t, t, schedule)
    mean, _, log_variance = schedule.posterior(x_0, x_t, t, s)
    return mean if s < 0 else mean + (0.5 * log_variance).exp() * noise_step


def ddim(
    denoise: Denoise,
    known: Tensor,
    lesions: Tensor,
    noise: Noise,
    schedule: NoiseSchedule,
    walk: Sequence[int],
    eta: float = 0.0,
) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12). eta = 0: no noise on the way down; eta = 1: the ancestral variance."""
    x = noise(_start(known, lesions))
    for t, s in pairwise(walk):
        if s > t:
            x = schedule.renoise(x, s, noise(x), t)
            continue
        x = _with_known(x, t, known, lesions, schedule, noise(x))
        x_0 = _predicted_x0(denoise, x, t, schedule)
        (signal_t, noise_t), (signal_s, noise_s) = (schedule.signal_and_noise(v) for v in (t, s))
        direction = (x - float(signal_t) * x_0) / float(noise_t)
        spread = eta * float(noise_s / noise_t * (1 - (signal_t / signal_s) ** 2).sqrt())
        kept = max(0.0, float(noise_s) ** 2 - spread**2) ** 0.5
        x = float(signal_s) * x_0 + kept * direction
        if spread > 0:
            x = x + spread * noise(x)
    return x


def dpm_solver_pp_2m(
    denoise: Denoise,
    known: Tensor,
    lesions: Tensor,
    noise: Noise,
    schedule: NoiseSchedule,
    walk: Sequence[int],
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order from the previous step's x_0.

    First order where there is no previous step (at the start and after a jump) and for the step to level -1.
    """
    x = noise(_start(known, lesions))
    previous_x_0 = previous_h = None
    for t, s in pairwise(walk):
        if s > t:
            x = schedule.renoise(x, s, noise(x), t)
            previous_x_0 = None
            continue
        x = _with_known(x, t, known, lesions, schedule, noise(x))
        x_0 = _predicted_x0(denoise, x, t, schedule)
        if s < 0:
            x = x_0
            continue
        (signal_t, noise_t), (signal_s, noise_s) = (schedule.signal_and_noise(v) for v in (t, s))
        h = float((signal_s / noise_s).log() - (signal_t / noise_t).log())  # step in half log SNR
        target = x_0
        if previous_x_0 is not None:
            # No further than the previous change: where the steps in log SNR grow, as towards level 0, the
            # paper's factor h / (2 previous_h) overshoots, by 27 % in variance with 25 levels.
            target = x_0 + (x_0 - previous_x_0) * min(h / (2 * previous_h), 0.5)
        # e^-h = (noise_s signal_t) / (signal_s noise_t)
        x = float(noise_s / noise_t) * x + float(signal_s - noise_s * signal_t / noise_t) * target
        previous_x_0, previous_h = x_0, h
    return x


SAMPLERS = {"repaint": repaint, "ddim": ddim, "dpmpp": dpm_solver_pp_2m}


def _start(known: Tensor, lesions: Tensor) -> Tensor:
    """An empty sample (B, K, D, H, W) on the device of `known`, after a check of the shapes."""
    if known.ndim != 5 or known.shape[1] != 1:
        raise UserError(f"known must have shape (B, 1, D, H, W), got {tuple(known.shape)}")
    if lesions.dtype != torch.bool or lesions[:, :1].shape != known.shape:
        raise UserError(
            f"lesions must be bool and match known {tuple(known.shape)} but for the classes, "
            f"got {lesions.dtype} {tuple(lesions.shape)}"
        )
    return torch.empty_like(known).expand(lesions.shape)


def _predicted_x0(denoise: Denoise, x_t: Tensor, t: int, schedule: NoiseSchedule) -> Tensor:
    """The clean image in x_t as the network sees it. Its (B,) levels are on the CPU, where the schedule looks
    coefficients up: on a GPU every look would wait for all that is queued there."""
    noise = denoise(x_t, torch.full((len(x_t),), t))
    return schedule.predict_x0(x_t, t, noise).clamp(-1, 1)


def _with_known(
    x_t: Tensor, t: int, known: Tensor, lesions: Tensor, schedule: NoiseSchedule, noise: Tensor
) -> Tensor:
    """x_t inside any lesion, the known image noised to level t outside."""
    background = schedule.q_sample(known.expand_as(x_t), t, noise)
    return torch.where(lesions.any(dim=1, keepdim=True), x_t, background)
