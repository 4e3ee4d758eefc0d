"""Intensity guidance: a predicted lesion's intensities are moved to those that were asked for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from LeFusion.diffusion import NoiseSchedule
from LeFusion.textures.histograms import match_intensities
from LeFusion.textures.layers import Wanted, layers_of, rim_layers_of, without_brightest

GUIDED_SIGNAL = 0.95  # share of signal in the variance below which intensity guidance acts
SMOOTH = 1.0  # voxels: sd of the Gaussian that parts smooth from fine structure
OWN, LEAST_BLUR = 0.5, 0.25  # voxels
FINE, MOST = 0.2, 0.55  # shares of a layer's variance
LAYERED_SIGNAL = 0.99  # the same where it says in which layer of the lesion the intensities lie


@dataclass(frozen=True, eq=False)
class Guide:
    """Which voxels are to have which intensities.

    layer: (B, K, D, H, W) int64, of each lesion voxel; -1: not guided. histograms: of each sample, (K,
    layers, bins) over [-1, 1], as many layers and bins as it has; a layer of sum 0 is left alone. noise: of
    each sample, that of its scan as in Wanted, see `_order`; None: not known.
    """

    layer: Tensor
    histograms: tuple[Tensor, ...]
    noise: tuple[tuple[float, ...] | None, ...]

    @classmethod
    def whole(cls, lesions: Tensor, histogram: Tensor) -> "Guide":
        """lesions (B, K, D, H, W) bool of one layer, histogram (B, K * bins)."""
        shares = histogram.unflatten(1, (lesions.shape[1], 1, -1))
        return cls(torch.where(lesions, 0, -1), tuple(shares), (None,) * len(shares))

    @classmethod
    def of(
        cls,
        lesions: Tensor,
        classes: Tensor,
        wanted: Wanted,
        spacing_mm: Sequence[float],
        solid: Tensor | None = None,
        rim: Tensor | None = None,
        vessels: Tensor | None = None,
    ) -> "Guide":
        """Of one sample: lesions (K, D, H, W) bool, classes (K, bins) their histograms. solid: see
        layers_of. rim: (K, D, H, W) bool, what is painted around them and is guided where wanted.rim is, but
        for vessels (D, H, W) bool, which are the brightest of it already."""
        if wanted.layers is None:
            return cls.whole(lesions[None], classes.flatten()[None])
        layer = torch.stack([layers_of(one, spacing_mm, wanted.depths_mm, solid) for one in lesions])
        layers = wanted.layers
        if rim is not None and wanted.rim is not None:
            pairs = zip(lesions, rim, strict=True)
            around, outer = torch.stack([rim_layers_of(*pair, spacing_mm) for pair in pairs]), wanted.rim
            if vessels is not None:
                counts = (around[..., None] == torch.arange(len(outer))).flatten(0, 3)
                seen = counts[(rim & vessels).flatten()].sum(dim=0) / counts.sum(dim=0).clamp(min=1)
                outer, rim = without_brightest(outer, seen), rim & ~vessels
            layer = torch.where(rim, around + layers.shape[1], layer)
            layers = torch.cat([layers, outer.expand(len(layers), -1, -1)], dim=1)
        return cls(layer[None], (layers,), (wanted.noise,))

    @classmethod
    def stack(cls, guides: Sequence["Guide"]) -> "Guide":
        """One batch of several."""
        return cls(
            torch.cat([guide.layer for guide in guides]),
            tuple(histograms for guide in guides for histograms in guide.histograms),
            tuple(noise for guide in guides for noise in guide.noise),
        )

    def rows(self, rows: slice) -> "Guide":
        return Guide(self.layer[rows], self.histograms[rows], self.noise[rows])

    def to(self, device: torch.device) -> "Guide":
        histograms = tuple(histograms.to(device) for histograms in self.histograms)
        return Guide(self.layer.to(device), histograms, self.noise)


def guide_intensity(
    noise: Tensor,
    x_t: Tensor,
    t: Tensor,
    guide: Guide,
    schedule: NoiseSchedule,
    strength: float = 1.0,
    max_signal: float | None = None,
) -> Tensor:
    """Predicted noise, changed so that each lesion's implied x_0 has the intensities of its histogram.

    The intensities of x_0 are remapped in rank order (see match_intensities), layer by layer, and only while
    signal is less than max_signal of the variance: until then the lesion's overall intensities are being
    decided, and a network that was not trained for long settles on usual ones. Which voxels of a layer are
    brighter than which is the network's own throughout (where the scan's noise is known, see `_order`), and
    so is the texture in the last steps.

    Args:
        noise, x_t: (B, K, D, H, W). t: (B,).
        strength: 0 to 1, how far intensities are moved.
        max_signal: None: GUIDED_SIGNAL, for samples with several layers LAYERED_SIGNAL.
    """
    levels = schedule.signal_and_noise(t)
    squares = levels[0].square().tolist()
    signal, spread = (v.to(x_t.device, x_t.dtype) for v in levels)
    guided = noise.clone()
    for b, histograms in enumerate(guide.histograms):
        until = GUIDED_SIGNAL if histograms.shape[1] == 1 else LAYERED_SIGNAL
        if squares[b] >= (until if max_signal is None else max_signal):
            continue
        x_0 = (x_t[b] - spread[b] * noise[b]) / signal[b]
        for k, layers in enumerate((histograms.sum(dim=-1) > 0).tolist()):
            scan = guide.noise[b]
            smooth, fine = _parts(x_0[k], guide.layer[b, k], scan[1:]) if scan else (None, None)
            for n in (n for n, given in enumerate(layers) if given):
                voxels = guide.layer[b, k] == n
                ranked = x_0[k][voxels]  # before it is clamped: after that, most of it may be alike
                if not len(ranked):
                    continue
                found = ranked.clamp(-1, 1)
                if smooth is not None:
                    ranked = _order(smooth[voxels], fine[voxels], histograms[k, n], scan[0])
                moved = found + strength * (match_intensities(ranked, histograms[k, n]) - found)
                guided[b, k][voxels] = (x_t[b, k][voxels] - signal[b] * moved) / spread[b]
    return guided


def _order(smooth: Tensor, fine: Tensor, histogram: Tensor, noise: float) -> Tensor:
    """(N,) by which the voxels of a layer are ranked: with as much fine structure as real lesions have.

    A network that was trained on scans of all kernels paints as much of it into smooth scans as into noisy
    ones: there borders, whose histograms are wide, come out ragged. In 77 training nodules the fine structure
    of a layer has FINE of its variance and that of the noise, but at most MOST (medians of the layers of
    textures.layers, from the border: sd over that of the layer 0.49, 0.46, 0.52, 0.78, 0.71, 0.70).
    """
    low, high = (_quantile(histogram, rank) for rank in (0.159, 0.841))
    share = min(MOST, FINE + (2 * noise / max(high - low, 1e-6)) ** 2)
    return (1 - share) ** 0.5 * _standard(smooth) + share**0.5 * _standard(fine)


def _quantile(histogram: Tensor, rank: float) -> float:
    """Of shares (bins,) over [-1, 1]."""
    below = histogram.double().cpu().cumsum(0).numpy()
    edges = np.linspace(-1, 1, len(below) + 1)
    return float(np.interp(rank * below[-1], np.concatenate([[0.0], below]), edges))


def _standard(values: Tensor) -> Tensor:
    middle = values.mean()
    return (values - middle) / (values - middle).square().mean().sqrt().clamp(min=1e-6)


def _parts(x_0: Tensor, layer: Tensor, blur: Sequence[float] = (0, 0, 0)) -> tuple[Tensor, Tensor]:
    """x_0 (D, H, W) as smooth and fine structure, what a Gaussian of SMOOTH voxels over the lesion leaves and
    takes off, as in textures.noise; the fine structure as blurred as the scan's noise is along each axis, as
    far as it is not (the network's own blur is about OWN). layer: -1 outside the lesion."""
    inside = (layer >= 0).to(x_0.dtype)

    def within(volume: Tensor, widths: Sequence[float]) -> Tensor:
        return _blurred(volume * inside, widths) / _blurred(inside, widths).clamp(min=1e-6)

    smooth = within(x_0, (SMOOTH,) * 3)
    more = [max(0.0, width**2 - OWN**2) ** 0.5 for width in blur]
    return smooth, within(x_0 - smooth, more)


def _blurred(volume: Tensor, widths: Sequence[float]) -> Tensor:
    """(D, H, W) after a Gaussian of these sd in voxels; beyond the array is 0."""
    for axis, width in enumerate(widths):
        if width < LEAST_BLUR:
            continue
        reach = math.ceil(4 * width)
        weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=volume.device) / width) ** 2)
        weights = (weights / weights.sum()).to(volume.dtype)
        rows = volume.movedim(axis, 2)
        blurred = functional.conv1d(rows.flatten(0, 1)[:, None], weights[None, None], padding=reach)
        volume = blurred[:, 0].unflatten(0, rows.shape[:2]).movedim(2, axis)
    return volume
