"""Intensity guidance: a predicted lesion's intensities are moved to those that were asked for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from LeFusion.diffusion import NoiseSchedule
from LeFusion.ordering import blurred_as, ordered
from LeFusion.textures.histograms import match_intensities
from LeFusion.textures.layers import Wanted, layers_of, rays_through, rim_layers_of, without_brightest

GUIDED_SIGNAL = 0.95  # share of signal in the variance below which whole lesions are guided
TURNS = 3  # of blurring and matching


@dataclass(frozen=True, eq=False)
class Guide:
    """Which voxels are to have which intensities.

    layer: (B, K, D, H, W) int64, of each lesion voxel; -1: not guided. histograms: of each sample, (K,
    layers, bins) over [-1, 1], as many layers and bins as it has; a layer of sum 0 is left alone. noise: of
    each sample, that of its scan as in Wanted, see LeFusion.ordering; None: not known. rays: of each sample,
    those of its rim, see rays_through; None: it has none.
    """

    layer: Tensor
    histograms: tuple[Tensor, ...]
    noise: tuple[tuple[float, ...] | None, ...]
    rays: tuple[Tensor | None, ...]

    @classmethod
    def whole(cls, lesions: Tensor, histogram: Tensor) -> "Guide":
        """lesions (B, K, D, H, W) bool of one layer, histogram (B, K * bins)."""
        shares = histogram.unflatten(1, (lesions.shape[1], 1, -1))
        return cls(torch.where(lesions, 0, -1), tuple(shares), *((None,) * len(shares),) * 2)

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
        layers, rays = wanted.layers, None
        if rim is not None and wanted.rim is not None:
            pairs = zip(lesions, rim, strict=True)
            around, outer = torch.stack([rim_layers_of(*pair, spacing_mm) for pair in pairs]), wanted.rim
            if vessels is not None:
                counts = (around[..., None] == torch.arange(len(outer))).flatten(0, 3)
                seen = counts[(rim & vessels).flatten()].sum(dim=0) / counts.sum(dim=0).clamp(min=1)
                outer, rim = without_brightest(outer, seen), rim & ~vessels
            layer = torch.where(rim, around + layers.shape[1], layer)
            rays = rays_through(lesions.any(dim=0), rim.any(dim=0), spacing_mm)
            layers = torch.cat([layers, outer.expand(len(layers), -1, -1)], dim=1)
        return cls(layer[None], (layers,), (wanted.noise,), (rays,))

    @classmethod
    def stack(cls, guides: Sequence["Guide"]) -> "Guide":
        """One batch of several."""
        return cls(
            torch.cat([guide.layer for guide in guides]),
            tuple(histograms for guide in guides for histograms in guide.histograms),
            tuple(noise for guide in guides for noise in guide.noise),
            tuple(rays for guide in guides for rays in guide.rays),
        )

    def layers(self, sample: int, lesion: int) -> list[tuple[Tensor, Tensor]]:
        """The voxels, (D, H, W) bool, and the histogram of each layer that has both."""
        histograms = self.histograms[sample][lesion]
        found = [(self.layer[sample, lesion] == n, wanted) for n, wanted in enumerate(histograms)]
        return [(voxels, wanted) for voxels, wanted in found if bool(voxels.any() and wanted.sum() > 0)]

    def rows(self, rows: slice) -> "Guide":
        return Guide(self.layer[rows], self.histograms[rows], self.noise[rows], self.rays[rows])

    def to(self, device: torch.device) -> "Guide":
        histograms = tuple(histograms.to(device) for histograms in self.histograms)
        rays = tuple(None if rays is None else rays.to(device) for rays in self.rays)
        return Guide(self.layer.to(device), histograms, self.noise, rays)


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

    The intensities of x_0 are remapped in rank order (see match_intensities), layer by layer; where a lesion
    has no layers, only while signal is less than max_signal of the variance: until then the lesion's overall
    intensities are being decided, and a network that was not trained for long settles on usual ones. Which
    voxels of a layer are brighter than which is the network's own throughout (where the scan's noise is
    known, see LeFusion.ordering).

    Args:
        noise, x_t: (B, K, D, H, W). t: (B,).
        strength: 0 to 1, how far intensities are moved.
        max_signal: None: GUIDED_SIGNAL, for samples with several layers to the end.
    """
    levels = schedule.signal_and_noise(t)
    squares = levels[0].square().tolist()
    signal, spread = (v.to(x_t.device, x_t.dtype) for v in levels)
    guided = noise.clone()
    for b, histograms in enumerate(guide.histograms):
        until = GUIDED_SIGNAL if histograms.shape[1] == 1 else math.inf
        if squares[b] >= (until if max_signal is None else max_signal):
            continue
        x_0 = (x_t[b] - spread[b] * noise[b]) / signal[b]
        for k in range(len(histograms)):
            layers, scan = guide.layers(b, k), guide.noise[b]
            order = x_0[k] if scan is None or not layers else ordered(x_0[k], layers, scan, guide.rays[b])
            wanted = _matched(x_0[k], order, layers, strength)
            for voxels, _ in layers:
                guided[b, k][voxels] = (x_t[b, k] - signal[b] * wanted)[voxels] / spread[b]
    return guided


def as_the_scan(painted: Tensor, guide: Guide, strength: float = 1.0) -> Tensor:
    """painted (1, D, H, W), guide of one sample -> the same, as smooth along one axis to another as the scan.

    A scan that was blurred across slices has soft borders there, too. Blurring narrows a layer's histogram,
    and so it is matched again, which roughens a little: in TURNS. Nothing changes where the noise of the scan
    is not known along each axis. strength: 0 to 1, how far intensities are moved.
    """
    rough = (guide.noise[0] or ())[1:]
    layers = list(filter(None, (guide.layers(0, k) for k in range(len(guide.histograms[0])))))
    if not rough or min(rough) <= 0 or not layers:
        return painted
    inside = torch.stack([voxels for one in layers for voxels, _ in one]).any(dim=0)
    found = painted[0]
    for _ in range(TURNS):
        found = blurred_as(rough, found, inside)
        for one in layers:
            found = _matched(found, ordered(found, one, guide.noise[0]), one, 1.0)
    return painted + strength * (found - painted)


def _matched(x_0: Tensor, order: Tensor, layers: Sequence[tuple[Tensor, Tensor]], strength: float) -> Tensor:
    """x_0 (D, H, W) with the intensities of each layer, (D, H, W) bool, moved to its histogram in this order.
    Intensities are clamped after they are ranked: most of them may be alike then."""
    found = x_0.clone()
    for voxels, histogram in layers:
        own = x_0[voxels].clamp(-1, 1)
        found[voxels] = own + strength * (match_intensities(order[voxels], histogram) - own)
    return found
