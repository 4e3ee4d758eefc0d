"""Lesion histograms as conditions: normalising, perturbing and comparing them.

A condition holds one histogram of `bins` equal bins over the intensity window for each lesion class, one
after the other, each of sum 1, or all zero for a class that the case does not have.
"""

from collections.abc import Sequence

import numpy as np
import scipy.interpolate
import scipy.special
import torch
from torch import Tensor

from LeFusion.diffusion import address_seed
from LeFusion.errors import UserError


def condition_from_counts(counts: Sequence[float], cond_dim: int, bins: int) -> Tensor:
    """The condition of a network from a histogram.

    Args:
        counts: of cond_dim bins, or shares: for each lesion class its bins over the window.
        cond_dim: bins of all classes together.
        bins: of each class.

    Returns:
        (cond_dim,) float32, the sum of each class 1.

    Raises:
        UserError: for another number of bins, and bins that are negative or all zero.
    """
    values = torch.tensor(counts, dtype=torch.float64)
    if values.shape != (cond_dim,):
        raise UserError(
            f"a texture histogram has {len(counts)} bins, the network takes {cond_dim}: {list(counts)}"
        )
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()) or float(values.sum()) == 0:
        raise UserError(f"a texture histogram must hold finite numbers >= 0, not all zero: {list(counts)}")
    return _normalise(values, bins).float()


def perturb(condition: Tensor, strength: float, bins: int, address: tuple) -> Tensor:
    """Each bin times an own factor in [1 - strength, 1 + strength], then normalised again.

    condition (cond_dim,); the factors are addressed, so that a case has its own draw whatever the order.
    """
    if not 0 <= strength < 1:
        raise UserError(f"histogram_perturbation={strength} must be in [0, 1)")
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


def lesion_histogram(image: Tensor, lesions: Tensor, bins: int = 16) -> Tensor:
    """Intensity histogram of each lesion class, one after the other.

    image: (1, D, H, W) in [-1, 1]. lesions: (K, D, H, W) bool. Returns (K * bins,) float32: equal bins over
    [-1, 1] (1 belongs to the last one), divided by the class's voxel count, so that each class sums to 1; all
    zeros for a class that is absent.
    """
    counts = torch.stack([torch.histc(image[0][lesion], bins, -1, 1) for lesion in lesions])
    return (counts / lesions.flatten(1).sum(1, keepdim=True).clamp(min=1)).flatten()


def mean_bin(histogram: Tensor) -> float:
    """The mean index of (bins,), not all 0."""
    return float((histogram * torch.arange(len(histogram), device=histogram.device)).sum() / histogram.sum())


def mean_intensity(histogram: np.ndarray | Tensor, bins: int, limits: tuple[float, float]) -> float:
    """Mean of a histogram (classes * bins,) over `limits`, averaged over the classes that it has."""
    classes = np.asarray(histogram, dtype=np.float64).reshape(-1, bins)
    classes = classes[classes.any(axis=1)]
    centres = limits[0] + (np.arange(bins) + 0.5) / bins * (limits[1] - limits[0])
    return float((classes @ centres / classes.sum(axis=1)).mean())


def refined(histogram: Tensor, parts: int = 8) -> Tensor:
    """Shares (bins,) -> (bins * parts,) float64: the same in each bin, but smooth across the bins.

    The cumulative histogram is interpolated monotonously (Fritsch & Carlson 1980), so that a narrow peak, as
    of soft tissue, stays a peak where even shares would make it as wide as its bins.
    """
    shares = histogram.double().cpu().numpy()
    below = np.concatenate([[0.0], np.cumsum(shares / shares.sum())])
    places = np.linspace(0, len(shares), len(shares) * parts + 1)
    fine = scipy.interpolate.PchipInterpolator(np.arange(len(below)), below)(places)
    return torch.from_numpy(np.diff(fine).clip(min=0))


def folded(histogram: Tensor, bins: int) -> Tensor:
    """Shares (..., bins * parts) -> (..., bins): the same in fewer bins."""
    return histogram.unflatten(-1, (bins, -1)).sum(dim=-1)


def match_intensities(values: Tensor, histogram: Tensor) -> Tensor:
    """Intensities (N,) remapped, in rank order, onto a histogram (bins,) over [-1, 1] that is not all zero.

    The darkest stays the darkest: its new value is the histogram's quantile at its rank, intensities being
    spread within a bin as the bins beside it suggest (see `refined`). On the device of `values`.
    """
    shares = refined(histogram).to(values.device, torch.float64)
    below = (shares / shares.sum()).cumsum(0)
    ranks = (torch.arange(len(values), device=values.device, dtype=torch.float64) + 0.5) / len(values)
    index = torch.searchsorted(below, ranks, right=True).clamp(max=len(shares) - 1)
    within = (ranks - (below - shares / shares.sum())[index]) / (shares / shares.sum())[index]
    quantiles = (index + within.clamp(0, 1)) * (2 / len(shares)) - 1
    matched = torch.empty_like(values)
    matched[torch.argsort(values, stable=True)] = quantiles.to(values.dtype)
    return matched


def shift_histogram(histogram: Tensor, shift: float, bins: int) -> Tensor:
    """The histogram (K * bins,) of the same intensities plus `shift` (network units), clamped to [-1, 1].

    A bin's share goes to the two bins that its shifted interval overlaps, by overlap.
    """
    places = (np.arange(bins) + 0.5 + shift * bins / 2).clip(0.5, bins - 0.5) - 0.5
    lower = np.floor(places).astype(int)
    upper = np.minimum(lower + 1, bins - 1)
    above = places - lower
    moved = torch.zeros_like(histogram.reshape(-1, bins))
    for source in range(bins):
        shares = histogram.reshape(-1, bins)[:, source]
        moved[:, lower[source]] += shares * (1 - above[source])
        moved[:, upper[source]] += shares * above[source]
    return moved.flatten()


def move_histograms(
    histograms: Tensor, slope: float, shift: float, bins: int, window: tuple[float, float] = (-1.0, 1.0)
) -> Tensor:
    """Histograms of the intensities slope * x + shift, clamped to [-1, 1]: (K, bins) over [-1, 1].

    histograms: (K, any) of x over `window`. slope: above 0. Intensities are spread within a bin as those
    beside it suggest (as in `refined`), so that moving widens no peak. An empty class stays empty.
    """
    places = np.linspace(*window, histograms.shape[1] + 1)
    wanted = (np.linspace(-1, 1, bins + 1)[1:-1] - shift) / slope
    moved = torch.zeros(len(histograms), bins)
    for row, shares in enumerate(histograms.double().numpy()):
        if shares.sum() > 0:
            below = np.concatenate([[0.0], np.cumsum(shares / shares.sum())])
            inner = scipy.interpolate.PchipInterpolator(places, below)(wanted.clip(*window))
            moved[row] = torch.from_numpy(np.diff(inner, prepend=0.0, append=1.0).clip(min=0)).float()
    return moved


def blend_histograms(first: Tensor, second: Tensor, share: float, bins: int) -> Tensor:
    """The histogram between two, (K * bins,): its quantiles are (1 - share) first's + share second's.

    A class that one of them lacks is taken from the other.
    """
    edges = np.linspace(-1, 1, bins + 1)
    ranks = (np.arange(1000) + 0.5) / 1000
    blended = []
    for one, other in zip(first.reshape(-1, bins), second.reshape(-1, bins), strict=True):
        if one.sum() == 0 or other.sum() == 0:
            blended.append(one + other)
            continue
        quantiles = [
            np.interp(ranks, np.concatenate([[0.0], np.cumsum((h / h.sum()).double().numpy())]), edges)
            for h in (one, other)
        ]
        mixed = (1 - share) * quantiles[0] + share * quantiles[1]
        blended.append(torch.from_numpy(np.histogram(mixed, edges)[0] / len(ranks)).float())
    return torch.cat(blended)
