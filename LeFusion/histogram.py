"""Lesion histograms as conditions: normalising, perturbing and comparing them.

A condition holds one histogram of `bins` equal bins over the intensity window for each lesion class, one
after the other, each of sum 1, or all zero for a class that the case does not have.
"""

from collections.abc import Sequence

import numpy as np
import scipy.special
import torch
from torch import Tensor

from LeFusion.diffusion import address_seed


def condition_from_counts(counts: Sequence[float], cond_dim: int, bins: int) -> Tensor:
    """Counts (or shares) of cond_dim bins -> (cond_dim,) float32, each class of sum 1."""
    values = torch.tensor(counts, dtype=torch.float64)
    if values.shape != (cond_dim,):
        raise ValueError(
            f"a texture histogram has {len(counts)} bins, the network takes {cond_dim}: {list(counts)}"
        )
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()) or float(values.sum()) == 0:
        raise ValueError(f"a texture histogram must hold finite numbers >= 0, not all zero: {list(counts)}")
    return _normalise(values, bins).float()


def perturb(condition: Tensor, strength: float, bins: int, address: tuple) -> Tensor:
    """Each bin times an own factor in [1 - strength, 1 + strength], then normalised again.

    condition (cond_dim,); the factors are addressed, so that a case has its own draw whatever the order.
    """
    if not 0 <= strength < 1:
        raise ValueError(f"histogram_perturbation={strength} must be in [0, 1)")
    generator = torch.Generator().manual_seed(address_seed(*address))
    factors = 1 + strength * (2 * torch.rand(condition.shape, generator=generator, dtype=torch.float64) - 1)
    return _normalise(condition.double() * factors, bins).float()


def wasserstein_distance(first: Tensor, second: Tensor, bins: int, window: tuple[float, float]) -> float:
    """Wasserstein-1 distance of two conditions (cond_dim,) in the units of the window, averaged over classes.

    Between binned distributions: the area between their cumulative sums. A class that both lack is left out;
    NaN if none is left or one of the two lacks a class.
    """
    pair = _present_in_both(first, second, bins)
    if pair is None:
        return float("nan")
    first, second = pair
    gap = np.abs(np.cumsum(first - second, axis=1)).sum(axis=1)
    return float(gap.mean() * (window[1] - window[0]) / bins)


def jensen_shannon(first: Tensor, second: Tensor, bins: int) -> float:
    """Jensen-Shannon divergence of two conditions (cond_dim,), base 2, averaged over classes.

    0: equal; 1: no bin in common. Classes as in wasserstein_distance. Its square root is the distance of that
    name.
    """
    pair = _present_in_both(first, second, bins)
    if pair is None:
        return float("nan")
    shares = [values / values.sum(axis=1, keepdims=True) for values in pair]
    middle = (shares[0] + shares[1]) / 2
    entropies = [scipy.special.entr(values).sum(axis=1) / np.log(2) for values in (middle, *shares)]
    divergence = entropies[0] - (entropies[1] + entropies[2]) / 2
    return float(divergence.mean().clip(0, 1))


def _present_in_both(first: Tensor, second: Tensor, bins: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The classes, (classes, bins) float64, that at least one has; None without such or if one lacks one."""
    first, second = (np.asarray(v, dtype=np.float64).reshape(-1, bins) for v in (first, second))
    has_first, has_second = first.sum(axis=1) > 0, second.sum(axis=1) > 0
    if not has_first.any() or (has_first != has_second).any():
        return None
    return first[has_first], second[has_second]


def _normalise(values: Tensor, bins: int) -> Tensor:
    classes = values.reshape(-1, bins)
    return (classes / classes.sum(dim=1, keepdim=True).clamp(min=1e-12)).flatten()
