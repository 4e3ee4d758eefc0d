"""In which order intensity guidance ranks the voxels of a layer: with as much fine structure as real lesions
have, as rough as the scan.

The network's x_0 is parted into smooth structure, what a Gaussian of SMOOTH voxels leaves of it, and fine
structure, what that takes off. Whole slices and columns, which are no grain, are taken out of the latter. In
each layer both are mixed again, in the proportion that real lesions have in such a scan; the fine structure
is blurred along axes along which the scan is smoother. In the rim, voxels on a line across it are ranked a
little alike, so that strands cross it.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = 1.0  # voxels: sd of the Gaussian that parts smooth from fine structure
# Shares of fine structure in a layer's variance: without noise, and the most with it
FINE, MOST = 0.2, 0.55
FINE_IN_LAYERS, MOST_IN_LAYERS = 0.3, 0.65  # of several: matching one by one takes some off again
ALONG = 0.1  # share of the variance in which the rim's voxels are ranked by what lies along their rays
FARTHEST = 3.0  # sd from the mean, for what lies beyond the rim and for fine structure
SHEETS, COLUMNS = 1.0, 0.5  # how much is taken of fine structure that is alike within slices, across them
ALIKE = 2.0  # voxels: sd of the Gaussian that tells what is alike
WIDTHS = np.linspace(0.0, 1.5, 31)  # voxels: of the Gaussians that fine structure is blurred with
LAGS = 8  # voxels: how far fine structure is compared with itself
LEAST_VOXELS = 100  # that tell how rough they are along each axis

# A layer: its voxels, (D, H, W) bool, and the histogram (bins,) over [-1, 1] that they are to have
Target = tuple[Tensor, Tensor]


def ordered(
    x_0: Tensor,
    targets: Sequence[Target],
    grain: Sequence[float],
    rays: Tensor | None = None,
    predicted: bool = True,
) -> Tensor:
    """Numbers by which the voxels of each layer are to be ranked: x_0 with as much fine structure as real
    lesions have, in the scan's own shape.

    A network that was trained on scans of all kernels paints as much of it into smooth scans as into noisy
    ones: there borders, whose histograms are wide, come out ragged; and as much across slices as within them,
    in scans that are smoother across. The fine structure gets FINE of a layer's variance and that of the
    noise, but at most MOST, of several layers more. (In 77 training nodules medians of the layers of
    textures.layers, sd over that of the layer, are from the border 0.49, 0.46, 0.52, 0.78, 0.71, 0.70.)

    Args:
        x_0: (D, H, W), the lesion as the network predicts it.
        grain: (sd of the scan's noise in [-1, 1], how rough it is along each axis); the latter may be
            missing, see textures.surroundings.Around.grain.
        rays: (2 * RAY + 1, voxels of the rim) int64, see textures.layers.rays_through; None: there is no rim.
        predicted: x_0 is the network's, not an image that was painted.

    Returns:
        (D, H, W), 0 outside the layers. Numbers of different layers mean nothing to each other.
    """
    inside = torch.stack([voxels for voxels, _ in targets]).any(dim=0)
    filled = inside.to(x_0.dtype)
    smooth, fine = _smooth_and_fine(x_0, filled)
    widths = _widths(fine, filled, grain[1:])
    if predicted and widths[0] > 0:
        fine = _without_sheets(fine, filled, min(1.0, widths[0]))
        widths = _widths(fine, filled, grain[1:])
    fine = _blurred_inside(fine, filled, widths)
    order = torch.zeros_like(x_0)
    least, most = (FINE, MOST) if len(targets) == 1 else (FINE_IN_LAYERS, MOST_IN_LAYERS)
    for voxels, histogram in targets:
        low, high = (_quantile(histogram, rank) for rank in (0.159, 0.841))
        share = min(most, least + (2 * grain[0] / max(high - low, 1e-6)) ** 2)
        mixed = (1 - share) ** 0.5 * _standardised(smooth[voxels])
        order[voxels] = _standardised(mixed + share**0.5 * _standardised(fine[voxels]))
    return order if rays is None else _with_strands(order, x_0, targets, inside, rays)


def _without_sheets(fine: Tensor, inside: Tensor, strength: float) -> Tensor:
    """Fine structure (D, H, W) without whole slices that are brighter or darker, and with half of what is
    alike across slices; with strength below 1 (the blur across slices, in voxels) less of both is taken.

    The network paints both into its first predictions. A blur across slices takes the grain off and leaves
    columns, which the network then goes on with: lesions come out striped. (Correlation of voxels 3 slices
    apart in the fine structure of 77 training nodules, deeper than 2 mm: 0.01; painted in the same scans
    0.26, so 0.14.)
    """
    for widths, share in (((0.0, ALIKE, ALIKE), SHEETS), ((ALIKE, 0.0, 0.0), COLUMNS)):
        fine = (fine - strength * share * _blurred_inside(fine, inside, widths)) * inside
    return fine


def _with_strands(
    order: Tensor, x_0: Tensor, targets: Sequence[Target], inside: Tensor, rays: Tensor
) -> Tensor:
    """The order, that of each voxel of the rim nearer to the mean along its ray.

    Layers are ranked one by one, but strands and tails cross them. A ray goes on into the lesion, and beyond
    the rim, where x_0 is the scan. order, x_0, inside: (D, H, W). Returns (D, H, W).
    """
    known = rays >= 0
    seen = torch.zeros_like(inside)
    seen.view(-1)[rays[known]] = True
    beyond = seen & ~inside
    if bool(beyond.any()):
        smooth = _blurred_inside(x_0, torch.ones_like(x_0), (SMOOTH,) * 3)
        scan = _standardised(smooth[beyond])
        order = order.masked_scatter(beyond, scan.clamp(-FARTHEST, FARTHEST))
    values = torch.where(known, order.flatten()[rays.clamp(min=0)], 0)
    mean, rim = torch.zeros_like(order), torch.zeros_like(inside)
    middle = rays[len(rays) // 2]
    mean.view(-1)[middle], rim.view(-1)[middle] = values.sum(dim=0) / known.sum(dim=0), True
    found = order.clone()
    for voxels, _ in targets:
        chosen = voxels & rim
        if bool(chosen.any()):
            along = _standardised(mean[chosen])
            found[chosen] = (1 - ALONG) ** 0.5 * order[chosen] + ALONG**0.5 * along
    return found


def smoothed_as(rough: Sequence[float], image: Tensor, inside: Tensor) -> Tensor:
    """The image, inside blurred to be as smooth along one axis to another as a scan.

    What lies beside it is blurred into it, as a scanner does (of itself alone, ends of lesions stay sharp);
    what lies beyond the array is not known and counts nothing.

    rough: of the scan along each axis, see textures.surroundings.Around. image: (D, H, W). inside: (D, H, W)
    bool. Returns (D, H, W), the same outside.
    """
    filled = inside.to(image.dtype)
    _, fine = _smooth_and_fine(image, filled)
    blurred = _blurred_inside(image, torch.ones_like(image), _widths(fine, filled, rough))
    return torch.where(inside, blurred, image)


def _quantile(histogram: Tensor, rank: float) -> float:
    """Of shares (bins,) over [-1, 1]: the intensity below which this share of the sum lies."""
    below = histogram.double().cpu().cumsum(0).numpy()
    edges = np.linspace(-1, 1, len(below) + 1)
    return float(np.interp(rank * below[-1], np.concatenate([[0.0], below]), edges))


def _standardised(values: Tensor) -> Tensor:
    """Of mean 0 and sd 1."""
    middle = values.mean()
    return (values - middle) / (values - middle).square().mean().sqrt().clamp(min=1e-6)


def _smooth_and_fine(x_0: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """x_0 (D, H, W) as smooth and fine structure: what a Gaussian of SMOOTH voxels over the lesion alone
    leaves, and what it takes off. inside: (D, H, W), 1 in the lesion and 0 outside."""
    smooth = _blurred_inside(x_0, inside, (SMOOTH,) * 3)
    return smooth, (x_0 - smooth) * inside


def _blurred_inside(volume: Tensor, inside: Tensor, widths: Sequence[float]) -> Tensor:
    """The volume (D, H, W) after a Gaussian of these sd in voxels, a mean of what is inside alone."""
    return _blurred(volume * inside, widths) / _blurred(inside, widths).clamp(min=1e-6)


def _widths(fine: Tensor, inside: Tensor, rough: Sequence[float]) -> list[float]:
    """How wide a Gaussian along each axis has to be for fine structure to be as smooth along one axis to
    another as the scan.

    The measure is the mean square of third differences of neighbouring voxels, over the variance of the
    structure, since a blur along one axis makes it less for all. Nothing is blurred along at least one axis;
    along none where the scan's roughness is not known, or that of the lesion, which has under LEAST_VOXELS.

    fine, inside: (D, H, W). Returns sd in voxels of depth, height and width.
    """
    if not rough or min(rough) <= 0 or inside.sum() < LEAST_VOXELS:
        return [0.0] * 3
    for axis in range(3):  # the rest is 0
        first, last = inside.amax(dim=[n for n in range(3) if n != axis]).nonzero().aminmax()
        fine, inside = (one.narrow(axis, int(first), int(last - first) + 1) for one in (fine, inside))
    limit = FARTHEST * 1.4826 * fine[inside > 0].abs().median()  # edges are no grain
    fine = fine.clamp(-limit, limit)
    differences, variances = _after_blur()
    ratios = []  # of each axis, (widths,): third differences after each blur, in units of the scan's
    for axis, wanted in enumerate(rough):
        covariances = np.array([_covariance(fine, inside, axis, lag) for lag in range(LAGS + 1)])
        ratios.append(differences @ covariances / np.maximum(variances @ covariances, 1e-12) / wanted**2)
    least = min(one[0] for one in ratios)
    return [float(WIDTHS[np.argmax(one <= least)] if one.min() <= least else WIDTHS[-1]) for one in ratios]


def _covariance(fine: Tensor, inside: Tensor, axis: int, lag: int) -> float:
    """Of voxels so many apart along an axis that both lie inside; 0 where there are none."""
    count = fine.shape[axis] - lag
    if count < 1:
        return 0.0
    both, pairs = (one.narrow(axis, lag, count) * one.narrow(axis, 0, count) for one in (fine, inside))
    return float(both.sum() / pairs.sum().clamp(min=1))


@cache
def _after_blur() -> tuple[np.ndarray, np.ndarray]:
    """Weights, (widths, LAGS + 1) each, with which covariances of voxels 0 to LAGS apart sum up to the mean
    square of third differences, and to the variance, after a Gaussian of each of WIDTHS."""
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
