"""Which voxels of a layer are the brighter ones: as much fine structure as in real lesions, as rough as the
scan."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = 1.0  # voxels: sd of the Gaussian that parts smooth from fine structure
FINE, MOST = 0.2, 0.55  # shares of a lesion's variance
FINE_IN_LAYERS, MOST_IN_LAYERS = 0.3, 0.65  # of several: matching one by one takes some off again
ALONG = 0.1  # share of the variance in which the rim's voxels are ranked by what lies along their rays
FARTHEST = 3.0  # sd from the mean, for what lies beyond the rim and for fine structure
WIDTHS = np.linspace(0.0, 1.5, 31)  # voxels: of the Gaussians that fine structure is blurred with
LAGS = 8  # voxels: how far fine structure is compared with itself
LEAST_VOXELS = 100  # that tell how rough they are along each axis


def ordered(
    x_0: Tensor,
    layers: Sequence[tuple[Tensor, Tensor]],
    scan: Sequence[float],
    rays: Tensor | None = None,
) -> Tensor:
    """x_0 (D, H, W) of a lesion -> (D, H, W), of which voxels of the same layer are to be ranked.

    With as much fine structure as real lesions have, in the scan's own shape. A network that was trained on
    scans of all kernels paints as much of it into smooth scans as into noisy ones: there borders, whose
    histograms are wide, come out ragged; and as much across slices as within them, in scans that are
    smoother across. The fine structure gets FINE of a layer's variance and that of the noise, but at most
    MOST, of several layers more. (In 77 training nodules medians of the layers of textures.layers, sd over
    that of the layer, are from the border 0.49, 0.46, 0.52, 0.78, 0.71, 0.70.)

    Args:
        layers: the voxels of each, (D, H, W) bool, and its histogram (bins,) over [-1, 1].
        scan: its noise and, perhaps, how rough that is along each axis, see textures.noise.Around.grain.
        rays: see textures.layers.rays_through; None: no voxel has one.
    """
    inside = torch.stack([voxels for voxels, _ in layers]).any(dim=0)
    filled = inside.to(x_0.dtype)
    smooth, fine = _parts(x_0, filled)
    fine = _within(fine, filled, _widths(fine, filled, scan[1:]))
    order = torch.zeros_like(x_0)
    least, most = (FINE, MOST) if len(layers) == 1 else (FINE_IN_LAYERS, MOST_IN_LAYERS)
    for voxels, histogram in layers:
        low, high = (_quantile(histogram, rank) for rank in (0.159, 0.841))
        share = min(most, least + (2 * scan[0] / max(high - low, 1e-6)) ** 2)
        mixed = (1 - share) ** 0.5 * _standard(smooth[voxels]) + share**0.5 * _standard(fine[voxels])
        order[voxels] = _standard(mixed)
    return order if rays is None else _along(order, x_0, layers, inside, rays)


def _along(
    order: Tensor, x_0: Tensor, layers: Sequence[tuple[Tensor, Tensor]], inside: Tensor, rays: Tensor
) -> Tensor:
    """The order with that of the rim nearer to its mean along each voxel's ray, on into the lesion and beyond
    the rim, where the network sees the scan: layers are ranked one by one, strands and tails cross them."""
    seen = torch.zeros_like(inside)
    seen.view(-1)[rays[rays >= 0]] = True
    beyond = seen & ~inside
    if bool(beyond.any()):
        around = _standard(_within(x_0, torch.ones_like(x_0), (SMOOTH,) * 3)[beyond])
        order = order.masked_scatter(beyond, around.clamp(-FARTHEST, FARTHEST))
    known = rays >= 0
    values = torch.where(known, order.flatten()[rays.clamp(min=0)], 0)
    mean, rim = torch.zeros_like(order), torch.zeros_like(inside)
    middle = rays[len(rays) // 2]
    mean.view(-1)[middle], rim.view(-1)[middle] = values.sum(dim=0) / known.sum(dim=0), True
    found = order.clone()
    for voxels, _ in layers:
        chosen = voxels & rim
        if bool(chosen.any()):
            along = _standard(mean[chosen])
            found[chosen] = (1 - ALONG) ** 0.5 * order[chosen] + ALONG**0.5 * along
    return found


def _quantile(histogram: Tensor, rank: float) -> float:
    """Of shares (bins,) over [-1, 1]."""
    below = histogram.double().cpu().cumsum(0).numpy()
    edges = np.linspace(-1, 1, len(below) + 1)
    return float(np.interp(rank * below[-1], np.concatenate([[0.0], below]), edges))


def _standard(values: Tensor) -> Tensor:
    middle = values.mean()
    return (values - middle) / (values - middle).square().mean().sqrt().clamp(min=1e-6)


def blurred_as(rough: Sequence[float], image: Tensor, inside: Tensor) -> Tensor:
    """image (D, H, W), of which what is inside, (D, H, W) bool, is blurred to be as smooth along one axis to
    another as a scan that is so rough, see textures.noise.Around.

    What lies beside it is blurred into it, as the scanner does (of itself alone, ends of lesions stay sharp);
    what lies beyond the array is not known and counts nothing.
    """
    filled = inside.to(image.dtype)
    _, fine = _parts(image, filled)
    blurred = _within(image, torch.ones_like(image), _widths(fine, filled, rough))
    return torch.where(inside, blurred, image)


def _parts(x_0: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """x_0 (D, H, W) as smooth and fine structure, what a Gaussian of SMOOTH voxels over the lesion leaves and
    takes off, as in textures.noise. inside: (D, H, W), 1 in the lesion and 0 outside."""
    smooth = _within(x_0, inside, (SMOOTH,) * 3)
    return smooth, (x_0 - smooth) * inside


def _within(volume: Tensor, inside: Tensor, widths: Sequence[float]) -> Tensor:
    """Blurred by the Gaussians of these sd in voxels, of what is inside alone."""
    return _blurred(volume * inside, widths) / _blurred(inside, widths).clamp(min=1e-6)


def _widths(fine: Tensor, inside: Tensor, rough: Sequence[float]) -> list[float]:
    """By how much a Gaussian along each axis must blur fine structure (D, H, W), for third differences along
    one axis to be to those along another as in the scan; nothing along at least one axis, and nothing at all
    where one of the scan's is not known, or of less than LEAST_VOXELS. Those of the lesion are over its own
    variance, since a blur along one axis makes it less for all."""
    if not rough or min(rough) <= 0 or inside.sum() < LEAST_VOXELS:
        return [0.0] * 3
    for axis in range(3):  # the rest is 0
        first, last = inside.amax(dim=[n for n in range(3) if n != axis]).nonzero().aminmax()
        fine, inside = (one.narrow(axis, int(first), int(last - first) + 1) for one in (fine, inside))
    limit = FARTHEST * 1.4826 * fine[inside > 0].abs().median()  # edges are no grain
    fine = fine.clamp(-limit, limit)
    differences, variances = _after_blur()
    ratios = []
    for axis, wanted in enumerate(rough):
        alike = np.array([_alike(fine, inside, axis, lag) for lag in range(LAGS + 1)])
        ratios.append(differences @ alike / np.maximum(variances @ alike, 1e-12) / wanted**2)
    least = min(one[0] for one in ratios)
    return [float(WIDTHS[np.argmax(one <= least)] if one.min() <= least else WIDTHS[-1]) for one in ratios]


def _alike(fine: Tensor, inside: Tensor, axis: int, lag: int) -> float:
    """The covariance of voxels so many apart that both lie inside; 0 where there are none."""
    count = fine.shape[axis] - lag
    if count < 1:
        return 0.0
    both, pairs = (one.narrow(axis, lag, count) * one.narrow(axis, 0, count) for one in (fine, inside))
    return float(both.sum() / pairs.sum().clamp(min=1))


@cache
def _after_blur() -> tuple[np.ndarray, np.ndarray]:
    """Both (widths, LAGS + 1): by these, covariances of voxels so many apart sum up to the mean square of
    third differences, and to the variance, after a Gaussian of each of WIDTHS."""
    rows = []
    for kernel in ([1.0, -3.0, 3.0, -1.0], [1.0]):
        for width in WIDTHS:
            taps = np.convolve(kernel, _gaussian(float(width)))
            lags = np.correlate(taps, taps, "full")[len(taps) - 1 :]
            lags = np.pad(lags, (0, max(0, LAGS + 1 - len(lags))))[: LAGS + 1]
            rows.append(lags * np.array([1.0] + [2.0] * LAGS))
    return np.stack(rows[: len(WIDTHS)]), np.stack(rows[len(WIDTHS) :])


def _gaussian(width: float) -> np.ndarray:
    """Of sum 1, to four sd on each side."""
    reach = math.ceil(4 * width)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(width, 1e-6)) ** 2)
    return weights / weights.sum()


def _blurred(volume: Tensor, widths: Sequence[float]) -> Tensor:
    """(D, H, W) after a Gaussian of these sd in voxels; beyond the array is 0."""
    for axis, width in enumerate(widths):
        if width == 0:
            continue
        weights = torch.from_numpy(_gaussian(width)).to(volume)
        rows = volume.movedim(axis, 2)
        padding = len(weights) // 2
        blurred = functional.conv1d(rows.flatten(0, 1)[:, None], weights[None, None], padding=padding)
        volume = blurred[:, 0].unflatten(0, rows.shape[:2]).movedim(2, axis)
    return volume
