"""Intensities of lesions relative to the healthy tissue of their heart, so that another heart can have them.

MR has no units, and hearts differ in contrast and in noise. Between the 44 training hearts of EMIDEC, the
median of an infarct above that of remote muscle varies by a factor of exp(0.39) (sd of the logarithm) in
shares of the range, by exp(0.40) in the contrast of blood to muscle, and by exp(0.28) in the geometric mean
of that contrast and of the muscle's own spread; the sd in an infarct by exp(0.37), exp(0.45) and exp(0.28).
So that mean is the unit here, and the median of remote muscle is 0.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from LeFusion.dataset.loading import LoadedCase
from LeFusion.textures.histograms import move_histograms

FAR = 3.5  # voxels in the plane from a lesion, beyond which muscle is remote
DEEP = 1.5  # voxels in the plane from the wall, beyond which blood is not mixed with muscle
LEAST_VOXELS = 50  # of remote muscle; where there are fewer, all muscle counts
WINDOW, BINS = (-4.0, 8.0), 60  # of histograms in units of the tissue; no training lesion reaches beyond


class Tissue(NamedTuple):
    """Of one heart, in network intensities: the level and the unit of the file's top."""

    level: float
    unit: float


def tissue_of(loaded: LoadedCase) -> Tissue | None:
    """None where the blood is not brighter than the muscle, or one of them is missing or all alike."""
    layout, labels, image = loaded.layout, loaded.labels_dhw, _network_values(loaded)
    lesion = np.isin(labels, layout.lesion_labels)
    muscle, blood = labels == layout.myocardium_label, labels == layout.cavity_label
    remote = muscle & (_distance(lesion) > FAR)
    remote = remote if remote.sum() >= LEAST_VOXELS else muscle
    deep = blood & (_distance(muscle | lesion) > DEEP)
    blood = deep if deep.any() else blood
    if not remote.any() or not blood.any():
        return None
    level, spread = float(np.median(image[remote])), float(image[remote].std())
    contrast = float(np.median(image[blood])) - level
    return Tissue(level, float(np.sqrt(contrast * spread))) if contrast > 0 and spread > 0 else None


def relative_histograms(loaded: LoadedCase, tissue: Tissue) -> Tensor:
    """(K, BINS) over WINDOW: the case's own lesions, each class of sum 1 or all zero."""
    image = (_network_values(loaded) - tissue.level) / tissue.unit
    rows = []
    for label in loaded.layout.lesion_labels:
        values = image[loaded.labels_dhw == label].clip(*WINDOW)
        rows.append(np.histogram(values, BINS, WINDOW)[0] / max(len(values), 1))
    return torch.from_numpy(np.stack(rows)).float()


def in_heart(histograms: Tensor, tissue: Tissue, bins: int) -> Tensor:
    """Relative histograms (K, BINS) as the lesions would look in a heart: (K * bins,) over [-1, 1]."""
    return move_histograms(histograms, tissue.unit, tissue.level, bins, WINDOW).flatten()


def _network_values(loaded: LoadedCase) -> np.ndarray:
    """(D, H, W) in [-1, 1] of the stored grid, where the labels are."""
    return loaded.intensity_map.to_network(loaded.axes.to_dhw(loaded.volume.values))


def _distance(mask: np.ndarray) -> np.ndarray:
    """(D, H, W): voxels in the plane to the nearest voxel of the mask in the same slice."""
    found = np.full(mask.shape, np.inf)
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        found[z] = ndimage.distance_transform_edt(~mask[z])
    return found
