"""Noise of scans, and a lesion's histograms as they would be in a scan with other noise or other lung.

A lesion's histogram holds the noise of its own scan. Painted as it is into a scan with a sharper kernel, the
lesion is too smooth for it; into one with a smoother kernel, too grainy.
"""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d, generate_binary_structure
from torch import Tensor

from LeFusion.textures.histograms import folded, refined

# (3, 3, 3) bool: the six voxels that share a face with the one in the middle
BESIDE = generate_binary_structure(3, 1)
BESIDE[1, 1, 1] = False
LEAST_SHARE = 0.25  # of a layer's spread, below which less noise does not narrow it


def third_difference(image: np.ndarray, tissue: np.ndarray, least: int) -> float:
    """How rough tissue is along the first axis: the robust sd of third differences, which a slow trend does
    not change, over all rows of four voxels that lie in the tissue.

    image: (D, H, W), in any unit. tissue: (D, H, W) bool. least: number of rows below which the answer is 0.
    """
    rows = tissue[:-3] & tissue[1:-2] & tissue[2:-1] & tissue[3:]
    values = (image[3:] - image[:-3] - 3 * (image[2:-1] - image[1:-2]))[rows]
    return float(1.4826 * np.median(np.abs(values))) if len(values) >= least else 0.0


def under_noise(layers: Tensor, of: float, wanted: float) -> Tensor:
    """Histograms (layers, bins) over [-1, 1] of a scan with noise of this sd as under another; same sums.

    More noise is added as independent of what is there: the histogram is convolved with a Gaussian whose
    variance is the difference. Less takes that variance from each layer by drawing it together about its
    median.
    """
    variance = wanted**2 - of**2
    if variance == 0:
        return layers
    bins = layers.shape[-1]
    found = torch.zeros_like(layers)
    for n, layer in enumerate(layers):
        total = float(layer.sum())
        if total == 0:
            continue
        fine = refined(layer).numpy()
        if variance > 0:
            fine = gaussian_filter1d(fine, variance**0.5 * len(fine) / 2, mode="reflect")
        else:
            fine = _narrowed(fine, -variance)
        found[n] = folded(torch.from_numpy(fine), bins) * (total / fine.sum())
    return found


def under_lung(layers: Tensor, of: float, wanted: float, water: float) -> Tensor:
    """Histograms (layers, bins) over [-1, 1] of a nodule beside lung of this intensity as beside other lung;
    same sums.

    What is darker than water (0 HU) holds air as the lung does, at the border because voxels are shared with
    it: its distance from water grows with the lung's. (Medians of 97 nodules rise with the lung's, Theil-Sen,
    by 1.6 [1.0, 2.2] in the first mm from the border, by 0.5 in the third, not in the core; air held in
    proportion gives 0.7, 0.0, 0.0.) water: in network intensities.
    """
    factor = (wanted - water) / (of - water)
    edges = np.linspace(-1, 1, layers.shape[-1] + 1)
    origin = np.where(edges < water, water + (edges - water) / factor, edges)
    below = np.pad(layers.double().numpy().cumsum(axis=1), ((0, 0), (1, 0)))
    moved = np.stack([np.interp(origin, edges, row) for row in below])
    moved[:, 0] = 0
    return torch.from_numpy(np.diff(moved)).to(layers.dtype)


def _narrowed(shares: np.ndarray, variance: float) -> np.ndarray:
    """Shares (bins,) of sum 1 over [-1, 1] with so much less variance, about their median.

    Their spread is that of the middle 68 %, so that a few voxels of another tissue do not count.
    """
    edges = np.linspace(-1, 1, len(shares) + 1)
    below = np.concatenate([[0.0], np.cumsum(shares)])
    low, median, high = np.interp((0.159, 0.5, 0.841), below, edges)
    spread = max((high - low) / 2, 1e-6)
    factor = max(1 - variance / spread**2, LEAST_SHARE**2) ** 0.5
    moved = np.interp(median + (edges - median) / factor, edges, below, left=0.0, right=1.0)
    return np.diff(moved).clip(min=0)
