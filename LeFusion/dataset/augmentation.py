"""What training changes at random: draw the parameters, then call the transform with them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch

from LeFusion.errors import UserError
from LeFusion.textures.histograms import match_intensities

STEEPEST = 1.6  # what histogram matching may stretch intensities by: more makes patterns out of noise
GAMMAS, REMAPPED = (0.3, 1.25), 0.7  # of remap_contrast, and how often it is applied
NOISE_LIMIT = 2.5  # standard deviations; what exceeds them is structure


@dataclass(frozen=True, eq=False)
class HistogramMatching:
    """Lesions that take on the intensities of others, in rank order, as a texture asks for in inference.

    Attributes:
        probability: how often a lesion does.
        histograms: (cond_dim,) each, that may be drawn besides those of the data set's lesions.
        reference: the mean of the reference label that `histograms` are stated for; None: absolute ones.
        like_size: draw among so many of the data set's lesions of nearest size; None: among all.
        of_size: (volume in mm3, generator) -> a histogram of a lesion of like size, drawn half of the time.
    """

    probability: float = 0.0
    histograms: Sequence[torch.Tensor] = ()
    reference: float | None = None
    like_size: int | None = None
    of_size: Callable[[float, torch.Generator], torch.Tensor] | None = None

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise UserError(f"histogram_matching={self.probability} must be a probability, 0 to 1")
        if self.like_size is not None and self.like_size < 1:
            raise UserError(f"like_size={self.like_size} must be at least 1")


@dataclass(frozen=True, eq=False)
class Augmentation:
    """What changes from draw to draw of a training sample, besides its place.

    Attributes:
        flips: each axis with probability 0.5.
        turns: by right angles in the plane of the slices, for square boxes.
        lesion_contrast: (lowest, highest) factor of remap_contrast; None: none. The histogram follows, and so
            varies apart from size and surroundings: a network cannot guess it and has to obey it.
        matching: with the histograms of other lesions.
    """

    flips: bool = False
    turns: bool = False
    lesion_contrast: Sequence[float] | None = None
    matching: HistogramMatching = HistogramMatching()

    def __post_init__(self):
        contrast = self.lesion_contrast
        if contrast is not None and not 0 < contrast[0] <= contrast[1]:
            raise UserError(f"lesion_contrast {list(contrast)} must be (lowest, highest), above 0")


def flip(*volumes: torch.Tensor, axes: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """Mirror volumes (C, D, H, W) together; its own inverse. axes: of 0, 1, 2."""
    if not axes:
        return volumes
    return tuple(channels.flip([axis + 1 for axis in axes]) for channels in volumes)


def turn(*volumes: torch.Tensor, quarters: int) -> tuple[torch.Tensor, ...]:
    """Volumes (C, D, H, W) turned together by so many right angles in the plane of the slices."""
    if not quarters:
        return volumes
    return tuple(volume.rot90(quarters, (2, 3)) for volume in volumes)


def remap_contrast(image: torch.Tensor, lesion: torch.Tensor, factor: float, gamma: float) -> torch.Tensor:
    """Lesion intensities remapped relative to the dark surroundings: brighter or fainter, sharper or softer.

    A lesion voxel at a height u above the surroundings (1 = the lesion's 95th percentile) goes to
    factor * u ** gamma. gamma < 1 fills the soft border, gamma > 1 widens it. The surroundings' intensity is
    the 10th percentile of the image; what is not above it stays. The factor is held down so that the 95th
    percentile does not rise above 0.65 (150 HU in CT), unless it is there already.

    image (1, D, H, W) in [-1, 1]; lesion (D, H, W) bool, not empty.
    """
    surroundings = float(quantile(image.flatten()[::4], 0.1))
    peak = float(quantile(image[0][lesion], 0.95)) - surroundings
    if peak <= 0 or (factor, gamma) == (1.0, 1.0):
        return image
    factor = min(factor, max(1.0, (0.65 - surroundings) / peak))
    height = (image - surroundings) / peak
    remapped = (surroundings + factor * peak * height.clamp(min=0) ** gamma).clamp(-1, 1)
    return torch.where(lesion[None] & (height > 0), remapped, image)


def match_histogram(image: torch.Tensor, lesions: torch.Tensor, histogram: torch.Tensor) -> torch.Tensor:
    """Lesion intensities remapped towards another histogram, in rank order, with the scan's noise as it was.

    The noise is taken off first (see `scan_noise`) and put back afterwards, and no contrast is stretched by
    more than STEEPEST: the inside of a large solid nodule is flat, and ranking its noise would make it
    grainy. So the result has not quite that histogram; take its own as the condition.

    image (1, D, H, W) in [-1, 1]; lesions (K, D, H, W) bool; histogram (K * bins,). A class without histogram
    or without voxels keeps its intensities.
    """
    matched = image.clone()
    noise = scan_noise(image)
    for lesion, shares in zip(lesions, histogram.reshape(len(lesions), -1), strict=True):
        if bool(lesion.any()) and float(shares.sum()) > 0:
            values = (image - noise)[0][lesion]
            mapped = _limit_slope(values, match_intensities(values, shares))
            matched[0][lesion] = (mapped + noise[0][lesion]).clamp(-1, 1)
    return matched


def scan_noise(image: torch.Tensor) -> torch.Tensor:
    """(1, D, H, W): what a Gaussian of one voxel takes off an image, at most NOISE_LIMIT standard deviations.

    Of normal noise a tenth is below 0.1257 standard deviations, whatever edges there are besides.
    """
    fine = image - torch.from_numpy(scipy.ndimage.gaussian_filter(image.numpy(), (0, 1, 1, 1)))
    limit = NOISE_LIMIT * float(quantile(fine.abs().flatten(), 0.1)) / 0.1257
    return fine.clamp(-limit, limit)


def _limit_slope(values: torch.Tensor, mapped: torch.Tensor) -> torch.Tensor:
    """A rising map values -> mapped, both (N,), with no slope above STEEPEST and the same median."""
    order = torch.argsort(values, stable=True)
    steps = torch.diff(values[order].double()) * STEEPEST
    rises = torch.minimum(torch.diff(mapped[order].double()), steps)
    limited = torch.cat([rises.new_zeros(1), rises.cumsum(0)])
    limited += mapped.double().median() - limited[(len(limited) - 1) // 2]
    result = torch.empty_like(values)
    result[order] = limited.to(values.dtype)
    return result


def quantile(values: torch.Tensor, q: float) -> torch.Tensor:
    """torch.quantile of values (N,) float32 on the CPU, bit-equal, for any N (that ends at 16 million)."""
    rank = torch.tensor(q, dtype=values.dtype) * (len(values) - 1)
    below, above = math.floor(rank), min(math.ceil(rank), len(values) - 1)
    placed = np.partition(values.numpy(), (below, above))
    return torch.lerp(torch.tensor(placed[below]), torch.tensor(placed[above]), rank - below)


def draw_contrast(generator: torch.Generator, bounds: Sequence[float]) -> tuple[float, float]:
    """Factor (log-uniform within bounds) and gamma (uniform within GAMMAS) for remap_contrast, for a share
    of REMAPPED; else 1, 1."""
    applied, first, second = torch.rand(3, generator=generator).tolist()
    if applied >= REMAPPED:
        return 1.0, 1.0
    low, high = (math.log(bound) for bound in bounds)
    return math.exp(low + (high - low) * first), GAMMAS[0] + (GAMMAS[1] - GAMMAS[0]) * second


def draw_flip_axes(generator: torch.Generator) -> tuple[int, ...]:
    """The axes to flip this time: each of depth, height and width on its own with probability 0.5."""
    chosen = torch.rand(3, generator=generator) < 0.5
    return tuple(axis for axis in range(3) if chosen[axis])
