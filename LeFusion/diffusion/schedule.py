"""The noise schedule: everything that depends on the time level t sits here.

A level t in 0..T-1 holds x_t = sqrt(alphas_cumprod[t]) x_0 + sqrt(1 - alphas_cumprod[t]) noise. Level -1 is
the clean image. Equation numbers are those of Ho et al., "Denoising Diffusion Probabilistic Models", 2020.
"""

import math
from typing import Any

import torch
from torch import Tensor

from LeFusion.errors import UserError

MOST_STEPS = 100_000
Levels = Tensor | int  # (B,) integers, a level for each sample, or one for all


class NoiseSchedule:
    """A discrete Gaussian diffusion of T levels.

    Coefficients are computed in float64 and rounded once, when they meet a tensor.

    Args:
        betas: (T,), each in (0, 1): the share of variance that noise replaces from one level to the next.
    """

    def __init__(self, betas: Tensor):
        if betas.ndim != 1 or len(betas) == 0 or not bool(((betas > 0) & (betas < 1)).all()):
            raise UserError("betas must be one-dimensional and not empty, each in (0, 1)")
        self._betas = betas.double()
        self._signal = torch.cumprod(1.0 - self._betas, dim=0)
        self._signal_from_clean = torch.cat([torch.ones(1, dtype=torch.float64), self._signal])

    @classmethod
    def cosine(cls, num_steps: int = 300, offset: float = 0.008, max_beta: float = 0.9999) -> "NoiseSchedule":
        """The schedule of Nichol & Dhariwal (2021), eq. 17. Betas are clipped at 0.9999 as in the released
        weights (the paper, and most libraries, clip at 0.999)."""
        if num_steps < 1:
            raise UserError(f"num_steps={num_steps} must be at least 1")
        time = torch.linspace(0, num_steps, num_steps + 1, dtype=torch.float64) / num_steps
        signal = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
        return cls((1 - signal[1:] / signal[:-1]).clamp(0, max_beta))

    @classmethod
    def of(cls, described: Any) -> "NoiseSchedule":
        """The one that a checkpoint's metadata describe, {kind: cosine, num_steps: ...}; UserError for any
        other."""
        known = described if isinstance(described, dict) else {}
        kind, num_steps = known.get("kind"), known.get("num_steps")
        if kind != "cosine" or type(num_steps) is not int or not 1 <= num_steps <= MOST_STEPS:
            raise UserError(
                f"its noise schedule is {described!r:.200}, which is unknown; it must be cosine, of 1 to "
                f"{MOST_STEPS} levels"
            )
        return cls.cosine(num_steps)

    @property
    def num_steps(self) -> int:
        return len(self._betas)

    @property
    def betas(self) -> Tensor:
        """(T,) float32."""
        return self._betas.float()

    @property
    def alphas_cumprod(self) -> Tensor:
        """(T,) float32: the share of the variance of x_t that is signal."""
        return self._signal.float()

    def q_sample(self, x_0: Tensor, t: Levels, noise: Tensor) -> Tensor:
        """x_t from x_0 and the noise (eq. 4). x_0, noise (B, ...)."""
        signal = _at(self._signal, t)
        return _scale(signal.sqrt(), x_0) + _scale((1 - signal).sqrt(), noise)

    def predict_x0(self, x_t: Tensor, t: Levels, noise: Tensor) -> Tensor:
        """x_0 from x_t and the noise in it: q_sample solved for x_0. Not clamped."""
        signal = _at(self._signal, t)
        return _scale((1 / signal).sqrt(), x_t) - _scale((1 / signal - 1).sqrt(), noise)

    def velocity(self, x_0: Tensor, t: Levels, noise: Tensor) -> Tensor:
        """sqrt(signal) noise - sqrt(1 - signal) x_0 (Salimans & Ho, "Progressive Distillation", 2022,
        section 4), which at the noisiest levels is the image itself."""
        signal, spread = self.signal_and_noise(t)
        return _scale(signal, noise) - _scale(spread, x_0)

    def noise_from_velocity(self, x_t: Tensor, t: Levels, velocity: Tensor) -> Tensor:
        """The noise in x_t that a velocity stands for."""
        signal, spread = self.signal_and_noise(t)
        return _scale(spread, x_t) + _scale(signal, velocity)

    def posterior(
        self, x_0: Tensor, x_t: Tensor, t: Levels, s: Levels | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and log variance of q(x_s | x_t, x_0) (eq. 6 and 7), s < t; s = t - 1 if None.

        The mean has the shape of x_t, the variances (B or 1, 1, ..., 1). The variance is 0 at s = -1; its
        logarithm is taken of at least 1e-20.
        """
        signal, signal_prev = _at(self._signal, t), self._signal_at(t - 1 if s is None else s)
        beta = _at(self._betas, t) if s is None else 1 - signal / signal_prev
        variance = beta * (1 - signal_prev) / (1 - signal)
        of_x_0 = beta * signal_prev.sqrt() / (1 - signal)
        of_x_t = (1 - signal_prev) * (1 - beta).sqrt() / (1 - signal)
        mean = _scale(of_x_0, x_0) + _scale(of_x_t, x_t)
        return mean, _expand(variance, x_t), _expand(variance.clamp(min=1e-20).log(), x_t)

    def renoise(self, x: Tensor, t: Levels, noise: Tensor, s: Levels | None = None) -> Tensor:
        """Forward from level s (t - 1 if None) to level t > s (eq. 2): the "undo" move of RePaint."""
        beta = _at(self._betas, t) if s is None else 1 - _at(self._signal, t) / self._signal_at(s)
        return _scale((1 - beta).sqrt(), x) + _scale(beta.sqrt(), noise)

    def signal_and_noise(self, t: Levels) -> tuple[Tensor, Tensor]:
        """Standard deviations of signal and noise at levels t, -1..T-1: two float64 tensors shaped like t."""
        signal = self._signal_at(t)
        return signal.sqrt(), (1 - signal).sqrt()

    def _signal_at(self, t: Levels) -> Tensor:
        return _at(self._signal_from_clean, t + 1)  # level -1 is the clean image, all signal


def _at(values: Tensor, t: Levels) -> Tensor:
    return values[t.cpu() if isinstance(t, Tensor) else t]


def _expand(values: Tensor, like: Tensor) -> Tensor:
    """values (B,), or one for all, as (B, 1, ..., 1), to broadcast against `like` (B, ...)."""
    return values.to(like.device, like.dtype).reshape(-1, *(1,) * (like.ndim - 1))


def _scale(values: Tensor, x: Tensor) -> Tensor:
    return _expand(values, x) * x
