"""Intensities: a volume's units <-> the network's [-1, 1]."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from LeFusion.errors import UserError

Array = np.ndarray | torch.Tensor
Window = str | Sequence[float] | Mapping[str, Sequence[float]]  # see IntensityMap.of


@dataclass(frozen=True)
class IntensityMap:
    """Linear map of the window [low, high], in the image's units, onto [-1, 1]."""

    low: float
    high: float

    def __post_init__(self):
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(f"intensity window ({self.low}, {self.high}) must be two numbers, low below high")

    @classmethod
    def of(cls, volume_values: Array | Callable[[], Array], window: Window) -> "IntensityMap":
        """The map for one volume, whose values, or a function that gives them, are asked for where needed.

        window: (low, high) in the image's units, "minmax" for the volume's own range, or
            {"percentiles": (low, high)} for percentiles of the volume, in 0 to 100.
        Raises ValueError for another window and for a range that is empty.
        """
        if window == "minmax":
            window = {"percentiles": (0, 100)}
        if isinstance(window, Mapping) and set(window) == {"percentiles"}:
            shares = window["percentiles"]
            pair = isinstance(shares, Sequence) and [type(share) in (int, float) for share in shares]
            if pair != [True, True] or not 0 <= shares[0] < shares[1] <= 100:
                raise UserError(f"window percentiles {shares} must be two numbers, 0 <= low < high <= 100")
            shares = [float(share) for share in shares]
            values = volume_values() if callable(volume_values) else volume_values
            low, high = (float(v) for v in np.percentile(np.asarray(values), shares))
            if low == high:
                what = "minmax: every voxel is" if shares == [0, 100] else f"percentiles {shares} are both"
                raise UserError(f"{what} {low:g}, so there is no range to map to [-1, 1]; is it the image?")
            return cls(low, high)
        if not isinstance(window, Sequence) or isinstance(window, str) or len(window) != 2:
            raise UserError(
                f"window {window!r} must be 'minmax', {{percentiles: [low, high]}} or two numbers [low, high]"
            )
        return cls(float(window[0]), float(window[1]))

    def to_network(self, values: Array) -> Array:
        """Clamp to the window and scale: any shape and number type -> same shape, float32 in [-1, 1]."""
        if isinstance(values, torch.Tensor):
            return self._scale(values.double().clamp(self.low, self.high)).float()
        return self._scale(np.clip(np.asarray(values, np.float64), self.low, self.high)).astype(np.float32)

    def to_source(self, x: Array) -> Array:
        """Inverse of `to_network` within the window: any shape -> same shape, float64 in image units."""
        wide = x.double() if isinstance(x, torch.Tensor) else np.asarray(x, np.float64)
        return (wide + 1) / 2 * (self.high - self.low) + self.low

    def _scale(self, clamped: Array) -> Array:
        return (clamped - self.low) / (self.high - self.low) * 2 - 1
