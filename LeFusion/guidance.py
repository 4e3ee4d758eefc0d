"""Intensity guidance: a predicted lesion's intensities are moved to those that were asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from LeFusion.diffusion import NoiseSchedule
from LeFusion.textures.histograms import match_intensities
from LeFusion.textures.layers import Wanted, layers_of

GUIDED_SIGNAL = 0.95  # share of signal in the variance below which intensity guidance acts
LAYERED_SIGNAL = 0.99  # the same where it says in which layer of the lesion the intensities lie


@dataclass(frozen=True, eq=False)
class Guide:
    """Which voxels are to have which intensities.

    layer: (B, K, D, H, W) int64, of each lesion voxel; -1: not guided. histograms: of each sample, (K,
    layers, bins) over [-1, 1], as many layers and bins as it has; a layer of sum 0 is left alone.
    """

    layer: Tensor
    histograms: tuple[Tensor, ...]

    @classmethod
    def whole(cls, lesions: Tensor, histogram: Tensor) -> "Guide":
        """lesions (B, K, D, H, W) bool of one layer, histogram (B, K * bins)."""
        shares = histogram.unflatten(1, (lesions.shape[1], 1, -1))
        return cls(torch.where(lesions, 0, -1), tuple(shares))

    @classmethod
    def of(cls, lesions: Tensor, classes: Tensor, wanted: Wanted, spacing_mm: Sequence[float]) -> "Guide":
        """Of one sample: lesions (K, D, H, W) bool, classes (K, bins) their histograms."""
        if wanted.layers is None:
            return cls.whole(lesions[None], classes.flatten()[None])
        layer = torch.stack([layers_of(lesion, spacing_mm, wanted.depths_mm) for lesion in lesions])
        return cls(layer[None], (wanted.layers,))

    @classmethod
    def stack(cls, guides: Sequence["Guide"]) -> "Guide":
        """One batch of several."""
        return cls(
            torch.cat([guide.layer for guide in guides]),
            tuple(histograms for guide in guides for histograms in guide.histograms),
        )

    def rows(self, rows: slice) -> "Guide":
        return Guide(self.layer[rows], self.histograms[rows])

    def to(self, device: torch.device) -> "Guide":
        return Guide(self.layer.to(device), tuple(histograms.to(device) for histograms in self.histograms))


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
    brighter than which is the network's own throughout, and so is the texture in the last steps.

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
            for n in (n for n, given in enumerate(layers) if given):
                voxels = guide.layer[b, k] == n
                found = x_0[k][voxels]  # ranked before it is clamped: after that, most of it may be alike
                if not len(found):
                    continue
                matched, found = match_intensities(found, histograms[k, n]), found.clamp(-1, 1)
                moved = found + strength * (matched - found)
                guided[b, k][voxels] = (x_t[b, k][voxels] - signal[b] * moved) / spread[b]
    return guided
