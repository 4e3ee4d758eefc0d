"""Intensities: a volume's units <-> the network's [-1, 1]."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from LeFusion.errors import UserError

Array = np.ndarray | torch.Tensor
HOT_SHARE, MOST_HOT = 1e-4, 100  # of the voxels of a volume, and in all: so few may be hot (or cold)
JUDGED = 1000  # voxels; smaller volumes are taken as they are
HOT = 1.5  # times as far from the other end of the range as all others; in EMIDEC the farthest is at 1.33
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

        window: (low, high) in the image's units, "minmax" for the volume's own range without hot voxels, see
            `range_of`, or {"percentiles": (low, high)} for percentiles of the volume, in 0 to 100.
        Raises ValueError for another window and for a range that is empty.
        """
        if window == "minmax":
            low, high = range_of(np.asarray(volume_values() if callable(volume_values) else volume_values))
            if low == high:
                raise UserError(
                    f"minmax: every voxel is {low:g}, so there is no range to map to [-1, 1]; is it the "
                    "image?"
                )
            return cls(low, high)
        if isinstance(window, Mapping) and set(window) == {"percentiles"}:
            shares = window["percentiles"]
            pair = isinstance(shares, Sequence) and [type(share) in (int, float) for share in shares]
            if pair != [True, True] or not 0 <= shares[0] < shares[1] <= 100:
                raise UserError(f"window percentiles {shares} must be two numbers, 0 <= low < high <= 100")
            shares = [float(share) for share in shares]
            values = volume_values() if callable(volume_values) else volume_values
            low, high = (float(v) for v in np.percentile(np.asarray(values), shares))
            if low == high:
                raise UserError(
                    f"percentiles {shares} are both {low:g}, so there is no range to map to [-1, 1]; is it "
                    "the image?"
                )
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


def range_of(values: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest value of a volume without its hot and cold voxels.

    These are the few that lie HOT times as far out as all others do, such as one spike of a scanner at ten
    times the maximum, which would leave the image itself a tenth of the range. Without such it is the range.
    """
    values = values.ravel()
    low, high = float(values.min()), float(values.max())
    if values.size < JUDGED:
        return low, high
    few = min(max(1, int(values.size * HOT_SHARE)), MOST_HOT)
    inner = np.partition(values, [few, values.size - 1 - few])[[few, -1 - few]].astype(np.float64)
    lowest, highest = inner[1] - HOT * (inner[1] - inner[0]), inner[0] + HOT * (inner[1] - inner[0])
    if inner[0] == inner[1] or (low >= lowest and high <= highest):
        return low, high
    kept = values[(values >= lowest) & (values <= highest)]
    return float(kept.min()), float(kept.max())


def same_units(window: Window, trained: Window) -> bool:
    """Whether weights that were trained on one window may see another: the same, or both of each volume's own
    range or percentiles."""
    fixed = [isinstance(given, list | tuple) for given in (window, trained)]
    return list(window) == list(trained) if all(fixed) else not any(fixed)
