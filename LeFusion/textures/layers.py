"""A lesion's intensities layer by layer: how they depend on the depth below its border.

One histogram of a whole lesion says that some of it is dark, but not that this is its rim. A large solid
nodule is flat inside; painted after the histogram alone, it is mottled. So a lesion is parted into layers by
depth, from the border inwards, and its rim (what is painted around it) by distance, from the border outwards.
The functions here say which voxel lies in which layer, count histograms of layers, and change these for
another lesion or scan.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor
from torch.nn import functional

BRIGHTEST = 0.99  # share of a lesion's voxels that are no specks
# Of a small lesion at its deepest, as of the smallest nodules (90 mm3), though the Gaussian takes that off
DEEPEST_MM = 0.6
# sd, along each axis, of the Gaussian that rounds a mask's steps and corners off: readers draw slice by slice
SMOOTH_MM = (1.5, 1.0, 1.0)
# Where one layer ends and the next begins; corners of a mask lie outside its smooth border, below 0
DEPTHS_MM = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

NEAR_BORDER = 9  # the deepest layer that is near the border, to 3 mm
# Of [-1, 1]: how much brighter it may be than what is deeper, and how much the wall of a cavity is. In whole
# bins: of 64 over 1,400 HU one (22 HU) and four (88 HU)
BRIGHTER, CAVITY = 0.027, 0.14

RIM_MM = (1.0, 2.0, 3.0, 4.0)  # the same around a lesion, by the distance from that border
RAY, INSIDE_MM = 3, 1.0  # voxels to each side along a ray; how deep in a lesion it ends
LEAST_VOXELS = 20  # of a layer around a lesion, whose histogram is known then


def depth_below_border(mask: Tensor, spacing_mm: Sequence[float]) -> np.ndarray:
    """Mask (D, H, W) bool -> (D, H, W) float64: how deep each voxel's centre lies, in mm below the smooth
    border of the mask; negative outside.

    The signed distance from the mask, smoothed by a Gaussian of SMOOTH_MM: it rounds off the steps and
    corners of a mask drawn slice by slice, which the lesion under it does not have. Beyond the array is
    outside.
    """
    filled = mask.numpy()
    reach = [math.ceil(4 * sd / mm) for sd, mm in zip(SMOOTH_MM, spacing_mm, strict=True)]
    filled = np.pad(filled, [(n, n) for n in reach])
    half = min(spacing_mm) / 2
    inside, outside = (distance_transform_edt(part, sampling=spacing_mm) for part in (filled, ~filled))
    widths = [sd / mm for sd, mm in zip(SMOOTH_MM, spacing_mm, strict=True)]
    depth = gaussian_filter(np.where(filled, inside - half, half - outside), widths)
    return depth[tuple(slice(n, -n) for n in reach)]


def layers_of(
    lesion: Tensor,
    spacing_mm: Sequence[float],
    depths_mm: Sequence[float] = DEPTHS_MM,
    walls: Tensor | None = None,
) -> Tensor:
    """The layer of each lesion voxel, by its depth below the border.

    Of the variance of the HU in 77 nodules these layers tell 63 % (median, each voxel left out in turn),
    layers by distance from the mask itself 44 %. A lesion that is nowhere DEEPEST_MM deep is moved there, so
    that it has a core.

    Args:
        lesion: (D, H, W) bool.
        depths_mm: where each layer but the innermost ends, rising.
        walls: (D, H, W) bool, tissue at which a lesion has no border; None: there is none.

    Returns:
        (D, H, W) int64: 0 at the border to len(depths_mm) in the core; -1 outside the lesion.
    """
    depth = depth_below_border(lesion if walls is None else lesion | walls, spacing_mm)
    if bool(lesion.any()):
        depth = depth + max(0.0, DEEPEST_MM - float(depth[lesion.numpy()].max()))
    return torch.from_numpy(np.where(lesion.numpy(), np.digitize(depth, depths_mm), -1))


def rim_layers_of(depth: np.ndarray, rim: Tensor) -> Tensor:
    """The layer of each voxel of the rim around a lesion, by its distance from the lesion's border, see
    RIM_MM.

    depth: (D, H, W), `depth_below_border` of the lesion. rim: (D, H, W) bool. Returns (D, H, W) int64: 0 next
    to the lesion to len(RIM_MM); -1 outside the rim.
    """
    return torch.from_numpy(np.where(rim.numpy(), np.digitize(-depth, RIM_MM), -1))


def rays_through(depth: np.ndarray, rim: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Rays across the rim around a lesion: for each of its voxels those on the line through it that is
    normal to the lesion's border.

    Args:
        depth: (D, H, W), `depth_below_border` of the lesion.
        rim: (D, H, W) bool.

    Returns:
        (2 * RAY + 1, voxels of the rim) int64: indices into the flattened array, from outside inwards, the
        rim's voxel itself in the middle row; -1 beyond the array and deeper than INSIDE_MM in the lesion.
    """
    inwards = np.zeros((3, *depth.shape))
    for axis in (axis for axis, size in enumerate(depth.shape) if size > 1):
        inwards[axis] = np.gradient(depth, spacing_mm[axis], axis=axis)
    own = np.stack(np.nonzero(rim.numpy()))
    inwards = inwards[:, rim.numpy()]
    step = inwards / np.linalg.norm(inwards, axis=0).clip(min=1e-6)
    step *= min(spacing_mm) / np.array(spacing_mm)[:, None]
    most = np.array(depth.shape)[:, None] - 1
    found = []
    for n in range(-RAY, RAY + 1):
        there = np.rint(own + n * step).astype(int)
        within = ((there >= 0) & (there <= most)).all(axis=0)
        there = np.ravel_multi_index(tuple(there.clip(0, most)), depth.shape)
        found.append(np.where(within & ((depth.flat[there] <= INSIDE_MM) | (n == 0)), there, -1))
    return torch.from_numpy(np.stack(found))


def rim_histograms(
    image: Tensor, lesion: Tensor, rim: Tensor, spacing_mm: Sequence[float], bins: int
) -> Tensor:
    """The histogram of each layer of the rim around a lesion.

    image: (1, D, H, W) in [-1, 1]. lesion, rim: (D, H, W) bool. Returns (rim layers, bins), of sum 1 each; 0
    for layers of under LEAST_VOXELS voxels.
    """
    layers = rim_layers_of(depth_below_border(lesion, spacing_mm), rim)
    counts = torch.stack([torch.histc(image[0][layers == n], bins, -1, 1) for n in range(len(RIM_MM) + 1)])
    held = counts.sum(dim=1, keepdim=True)
    return torch.where(held >= LEAST_VOXELS, counts / held.clamp(min=1), 0)


def layer_shares(
    lesion: Tensor, spacing_mm: Sequence[float], depths_mm: Sequence[float], walls: Tensor | None = None
) -> Tensor:
    """The share of a lesion's voxels in each of its layers, (layers,) float32 of sum 1; see `layers_of`."""
    layers = layers_of(lesion, spacing_mm, depths_mm, walls)[lesion]
    return torch.bincount(layers, minlength=len(depths_mm) + 1).float() / max(len(layers), 1)


def layered_histogram(
    image: Tensor,
    lesions: Tensor,
    spacing_mm: Sequence[float],
    bins: int = 16,
    depths_mm: Sequence[float] = DEPTHS_MM,
    walls: Tensor | None = None,
) -> Tensor:
    """The histograms of the layers of each lesion class, see `layers_of`.

    image: (1, D, H, W) in [-1, 1]. lesions: (K, D, H, W) bool. Returns (K, layers, bins) float32 over
    [-1, 1]. Summed over the layers it is `lesion_histogram`: each class sums to 1, one that is absent to 0.
    """
    found = []
    for lesion in lesions:
        layers = layers_of(lesion, spacing_mm, depths_mm, walls)
        counts = [torch.histc(image[0][layers == n], bins, -1, 1) for n in range(len(depths_mm) + 1)]
        found.append(torch.stack(counts) / lesion.sum().clamp(min=1))
    return torch.stack(found)


def with_shares(layers: Tensor, shares: Tensor) -> Tensor:
    """Histograms (layers, bins) of one lesion for another, whose layers hold these shares (layers,) of it.

    A layer that the first lesion lacks looks like the nearest that it has. The sum is that of the shares.
    """
    held = layers.sum(dim=1)
    has = held.nonzero().flatten()
    nearest = [int(has[(has - n).abs().argmin()]) for n in range(len(layers))]
    return layers[nearest] / held[nearest, None] * shares[:, None]


def without_bright_border(layers: Tensor) -> Tensor:
    """Histograms (layers, bins) over [-1, 1] of a real lesion, in which no layer near the border is brighter
    than what is deeper by more than BRIGHTER: not its brightest voxels, not any other share; same sums.

    What is brighter there is not the lesion: its mask took in a vessel or a rib, or a sharp kernel overshot.
    In another scan it would be a white shell. A layer whose median is brighter by more than CAVITY, the wall
    of a cavity, stays as it is.
    """
    found, bins = layers.clone(), layers.shape[1]
    brighter, wall = (round(step / 2 * bins) for step in (BRIGHTER, CAVITY))
    for n in range(min(NEAR_BORDER, len(layers) - 2), -1, -1):
        total, deeper = found[n].sum(), found[n + 1 :].sum(dim=0)
        if total == 0 or deeper.sum() == 0 or _bin_at(found[n], 0.5) > _bin_at(deeper, 0.5) + wall:
            continue
        least = functional.pad(deeper.cumsum(dim=0) / deeper.sum(), (brighter, 0))[:bins]
        below = torch.maximum(found[n].cumsum(dim=0) / total, least)
        found[n] = torch.diff(below, prepend=below.new_zeros(1)).clamp(min=0) * total
    return found


def no_darker_than(layers: Tensor, darkest: float) -> Tensor:
    """Histograms (layers, bins) over [-1, 1] with what is darker in the bin of `darkest`; same sums.

    A real lesion has as good as no voxel darker than the lung around it. One that was drawn from a scan with
    darker lungs would have black specks at its border.
    """
    bins = layers.shape[1]
    lowest = min(bins - 1, max(0, int((darkest + 1) / 2 * bins)))
    found = layers.clone()
    found[:, lowest] += found[:, :lowest].sum(dim=1)
    found[:, :lowest] = 0
    return found


def without_brightest(layers: Tensor, shares: Tensor) -> Tensor:
    """Histograms (layers, bins) without their brightest voxels, of each layer this share (layers,), 0 to 1;
    the same sums, but 0 where nothing is left."""
    total = layers.sum(dim=1, keepdim=True)
    below = torch.minimum(layers.cumsum(dim=1), (1 - shares[:, None]) * total)
    kept = torch.diff(below, dim=1, prepend=torch.zeros_like(total))
    return kept / (1 - shares[:, None]).clamp(min=1e-6)


def brightest_of(histogram: Tensor) -> float:
    """The upper end of the bin of (bins,) over [-1, 1] below which BRIGHTEST of the voxels end."""
    return 2 * (_bin_at(histogram, BRIGHTEST) + 1) / len(histogram) - 1


def _bin_at(shares: Tensor, rank: float) -> int:
    """The bin of (bins,), not all 0, that holds this share of the sum with those before it."""
    return int((shares.cumsum(dim=0) < rank * shares.sum()).sum())
