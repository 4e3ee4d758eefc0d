"""A lesion's intensities layer by layer: how they depend on the distance from its border.

One histogram of a whole lesion says that some of it is dark, but not that this is its rim. A large solid
nodule is flat inside; painted after the histogram alone, it is mottled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

DEPTHS_MM = (1.0, 2.0, 3.0, 4.0, 6.0)  # where one layer ends and the next begins; the last has no end


@dataclass(frozen=True, eq=False)
class Wanted:
    """What lesions are to look like.

    histogram: (cond_dim,), zero for classes that they lack. layers: (K, layers, bins), the same in each layer
    (see layers_of, depths_mm), perhaps in finer bins; None: the histogram may lie anywhere in the lesion.
    drawn: the number, in its table, of the real lesion that they are after; None: of none.
    """

    histogram: Tensor
    layers: Tensor | None = None
    depths_mm: Sequence[float] = ()
    drawn: int | None = None


def layers_of(lesion: Tensor, spacing_mm: Sequence[float], depths_mm: Sequence[float] = DEPTHS_MM) -> Tensor:
    """(D, H, W) bool -> int64: the layer of each lesion voxel, 0 at the border; -1 outside.

    By the distance in mm from the voxel's centre to the nearest centre outside; beyond the array is outside.
    """
    distance = distance_transform_edt(np.pad(lesion.numpy(), 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    layers = np.digitize(distance - 1e-6, depths_mm, right=False)
    return torch.from_numpy(np.where(lesion.numpy(), layers, -1))


def layer_shares(lesion: Tensor, spacing_mm: Sequence[float], depths_mm: Sequence[float]) -> Tensor:
    """(D, H, W) bool -> (layers,) float32 of sum 1: the share of the voxels in each layer."""
    layers = layers_of(lesion, spacing_mm, depths_mm)[lesion]
    return torch.bincount(layers, minlength=len(depths_mm) + 1).float() / max(len(layers), 1)


def layered_histogram(
    image: Tensor,
    lesions: Tensor,
    spacing_mm: Sequence[float],
    bins: int = 16,
    depths_mm: Sequence[float] = DEPTHS_MM,
) -> Tensor:
    """image (1, D, H, W) in [-1, 1], lesions (K, D, H, W) bool -> (K, layers, bins) float32.

    Summed over the layers it is `lesion_histogram`: each class sums to 1, one that is absent is zero.
    """
    found = []
    for lesion in lesions:
        layers = layers_of(lesion, spacing_mm, depths_mm)
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
