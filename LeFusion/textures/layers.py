"""A lesion's intensities layer by layer: how they depend on the distance from its border.

One histogram of a whole lesion says that some of it is dark, but not that this is its rim. A large solid
nodule is flat inside; painted after the histogram alone, it is mottled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

BRIGHTEST = 0.99  # share of a layer's voxels below which a layer nearer to the border ends
# Of a small lesion at its deepest, as of the smallest nodules (90 mm3), though the Gaussian takes that off
DEEPEST_MM = 0.6
# sd, along each axis, of the Gaussian that rounds a mask's steps and corners off: readers draw slice by slice
SMOOTH_MM = (1.5, 1.0, 1.0)
# Where one layer ends and the next begins; corners of a mask lie outside its smooth border, below 0
DEPTHS_MM = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

RIM_MM = (1.0, 2.0, 3.0, 4.0)  # the same around a lesion, by the distance from that border
RAY, INSIDE_MM = 3, 1.0  # voxels to each side along a ray; how deep in a lesion it ends
LEAST_VOXELS = 20  # of a layer around a lesion, whose histogram is known then


@dataclass(frozen=True, eq=False)
class Wanted:
    """What lesions are to look like.

    histogram: (cond_dim,), zero for classes that they lack. layers: (K, layers, bins), the same in each layer
    (see layers_of, depths_mm), perhaps in finer bins; None: the histogram may lie anywhere in the lesion.
    drawn: the number, in its table, of the real lesion that they are after; None: of none. noise: of
    the scan around them: sd, in network intensities, and perhaps how rough it is along each axis, see
    textures.noise.Around; None: not known. darkest: of what is painted, so far as the scan is not darker
    there; None: any. solid: thick tissue beside lesions that is brighter is a wall, at which a lesion has no
    border and which stays as it is, see textures.noise; None: there is none. rim: (rim layers, bins) of sum
    1, or 0 where it is not known, what is around the lesions to look like, where it is painted, see
    rim_layers_of; None: not known. brightest: of what is painted there, so far as the scan is not brighter;
    None: any.
    """

    histogram: Tensor
    layers: Tensor | None = None
    depths_mm: Sequence[float] = ()
    drawn: int | None = None
    noise: tuple[float, ...] | None = None
    darkest: float | None = None
    solid: float | None = None
    rim: Tensor | None = None
    brightest: float | None = None


def layers_of(
    lesion: Tensor,
    spacing_mm: Sequence[float],
    depths_mm: Sequence[float] = DEPTHS_MM,
    solid: Tensor | None = None,
) -> Tensor:
    """(D, H, W) bool -> int64: the layer of each lesion voxel, 0 at the border; -1 outside.

    By the depth in mm below the border, a Gaussian of SMOOTH_MM having rounded off the steps and corners of
    a mask drawn slice by slice, which the lesion under it does not have: of the variance of the HU in 77
    nodules the layers tell 63 % (median, each voxel left out in turn), by distance from the mask itself 44 %.
    Beyond the array is outside. A lesion that is nowhere DEEPEST_MM deep is moved there, to have a core.
    solid: (D, H, W) bool, what is not: at a wall a lesion has no border.
    """
    depth = _depth(lesion if solid is None else lesion | solid, spacing_mm)
    if bool(lesion.any()):
        depth = depth + max(0.0, DEEPEST_MM - float(depth[lesion.numpy()].max()))
    return torch.from_numpy(np.where(lesion.numpy(), np.digitize(depth, depths_mm), -1))


def rim_layers_of(lesion: Tensor, rim: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Both (D, H, W) bool -> int64: the layer of each voxel of the rim around a lesion, 0 next to it; -1
    elsewhere. By the distance in mm from the same smooth border, see RIM_MM."""
    return torch.from_numpy(np.where(rim.numpy(), np.digitize(-_depth(lesion, spacing_mm), RIM_MM), -1))


def rays_through(lesion: Tensor, rim: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Both (D, H, W) bool -> (2 * RAY + 1, voxels of the rim) int64: for each those on the normal of the
    smooth border through it, itself in the middle, as numbers in the flattened array; -1 beyond the array and
    beyond INSIDE_MM in the lesion."""
    depth = _depth(lesion, spacing_mm)
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
    """image (1, D, H, W) in [-1, 1] -> (rim layers, bins) of sum 1; 0 for layers of under LEAST_VOXELS."""
    layers = rim_layers_of(lesion, rim, spacing_mm)
    counts = torch.stack([torch.histc(image[0][layers == n], bins, -1, 1) for n in range(len(RIM_MM) + 1)])
    held = counts.sum(dim=1, keepdim=True)
    return torch.where(held >= LEAST_VOXELS, counts / held.clamp(min=1), 0)


def _depth(filled: Tensor, spacing_mm: Sequence[float]) -> np.ndarray:
    """(D, H, W) bool -> of each voxel's centre in mm below the smooth border, above it negative."""
    filled = filled.numpy()
    reach = [math.ceil(4 * sd / mm) for sd, mm in zip(SMOOTH_MM, spacing_mm, strict=True)]
    filled = np.pad(filled, [(n, n) for n in reach])
    half = min(spacing_mm) / 2
    inside, outside = (distance_transform_edt(part, sampling=spacing_mm) for part in (filled, ~filled))
    widths = [sd / mm for sd, mm in zip(SMOOTH_MM, spacing_mm, strict=True)]
    depth = gaussian_filter(np.where(filled, inside - half, half - outside), widths)
    return depth[tuple(slice(n, -n) for n in reach)]


def layer_shares(
    lesion: Tensor, spacing_mm: Sequence[float], depths_mm: Sequence[float], solid: Tensor | None = None
) -> Tensor:
    """(D, H, W) bool -> (layers,) float32 of sum 1: the share of the voxels in each layer."""
    layers = layers_of(lesion, spacing_mm, depths_mm, solid)[lesion]
    return torch.bincount(layers, minlength=len(depths_mm) + 1).float() / max(len(layers), 1)


def layered_histogram(
    image: Tensor,
    lesions: Tensor,
    spacing_mm: Sequence[float],
    bins: int = 16,
    depths_mm: Sequence[float] = DEPTHS_MM,
    solid: Tensor | None = None,
) -> Tensor:
    """image (1, D, H, W) in [-1, 1], lesions (K, D, H, W) bool -> (K, layers, bins) float32.

    Summed over the layers it is `lesion_histogram`: each class sums to 1, one that is absent is zero.
    """
    found = []
    for lesion in lesions:
        layers = layers_of(lesion, spacing_mm, depths_mm, solid)
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


def without_bright_rim(layers: Tensor) -> Tensor:
    """Histograms (layers, bins) of a drawn lesion whose rim is nowhere brighter than its inside; same sums.

    What is brighter there, than BRIGHTEST of each deeper layer, is not the lesion: a mask took in a vessel or
    a rib, or a sharp kernel overshot. In a lesion in free lung it would be a white ring. Its voxels are given
    the deeper layers' brightest bin. A layer that is brighter than the next one as a whole, the wall of a
    cavity, stays as it is.
    """
    found, brightest, deeper = layers.clone(), -1, -1
    for n in range(len(layers) - 1, -1, -1):
        if found[n].sum() == 0:
            continue
        middle = _quantile(found[n], 0.5)
        if deeper >= middle:
            found[n, brightest] += found[n, brightest + 1 :].sum()
            found[n, brightest + 1 :] = 0
        brightest, deeper = max(brightest, _quantile(found[n], BRIGHTEST)), middle
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
    """Histograms (layers, bins) without these shares (layers,) of their brightest voxels; the same sums,
    but 0 where nothing is left."""
    total = layers.sum(dim=1, keepdim=True)
    below = torch.minimum(layers.cumsum(dim=1), (1 - shares[:, None]) * total)
    kept = torch.diff(below, dim=1, prepend=torch.zeros_like(total))
    return kept / (1 - shares[:, None]).clamp(min=1e-6)


def brightest_of(histogram: Tensor) -> float:
    """The upper end of the bin of (bins,) over [-1, 1] below which BRIGHTEST of the voxels end."""
    return 2 * (_quantile(histogram, BRIGHTEST) + 1) / len(histogram) - 1


def _quantile(shares: Tensor, rank: float) -> int:
    """The bin of (bins,), not all 0, that holds this share of the sum with those before it."""
    return int((shares.cumsum(dim=0) < rank * shares.sum()).sum())
