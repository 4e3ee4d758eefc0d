"""Intensity guidance: a predicted lesion's intensities are moved to those that were asked for.

How the voxels of a lesion come about: at each level of the walk the network predicts the noise in x_t, and so
the clean lesion x_0. Before the sampler goes on, `guide_intensity` corrects that prediction.

1. The voxels of the lesion are parted into layers by their depth below its border, and those of the rim (what
   is painted around it) by their distance from the border: a `Guide`, made from the Look that was asked for.
2. The voxels of each layer are ranked by x_0, changed so that it is as rough as the scan (LeFusion.ordering).
3. The voxel of rank r gets the r-th intensity of the histogram that its layer is to have.

So the network says which voxel is brighter than which, and the look says how bright. After the last level,
`as_the_scan` brings what was painted to the scan's roughness; LeFusion.mending does the rest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from LeFusion.diffusion import NoiseSchedule
from LeFusion.ordering import Target, ordered, smoothed_as
from LeFusion.textures.histograms import match_intensities
from LeFusion.textures.layers import (
    depth_below_border,
    layers_of,
    rays_through,
    rim_layers_of,
    without_brightest,
)
from LeFusion.textures.look import Look

GUIDED_SIGNAL = 0.95  # share of signal in the variance below which whole lesions are guided
TURNS = 3  # of blurring and matching


@dataclass(frozen=True, eq=False)
class Guide:
    """Which voxels of a batch are to have which intensities. B: samples, K: lesion classes.

    Attributes:
        layers: (B, K, D, H, W) int64, the layer that each voxel lies in: first those of the lesion, from the
            border inwards, then those of the rim, from the border outwards; -1: not guided.
        histograms: of each sample, (K, layers, bins) over [-1, 1], what each layer is to have; as many layers
            and bins as the sample has. A layer of sum 0 is left alone.
        grain: of each sample, the noise of its scan, see textures.surroundings.Around.grain; None: not known.
        rays: of each sample, those through its rim, see textures.layers.rays_through; None: it has none.
    """

    layers: Tensor
    histograms: tuple[Tensor, ...]
    grain: tuple[tuple[float, ...] | None, ...]
    rays: tuple[Tensor | None, ...]

    @classmethod
    def whole(cls, lesions: Tensor, histogram: Tensor) -> "Guide":
        """Lesions (B, K, D, H, W) bool of one layer each; histogram (B, K * bins) over [-1, 1]."""
        shares = histogram.unflatten(1, (lesions.shape[1], 1, -1))
        unknown = (None,) * len(shares)
        return cls(torch.where(lesions, 0, -1), tuple(shares), unknown, unknown)

    @classmethod
    def of(
        cls,
        lesions: Tensor,
        classes: Tensor,
        look: Look,
        spacing_mm: Sequence[float],
        walls: Tensor | None = None,
        rim: Tensor | None = None,
        vessels: Tensor | None = None,
    ) -> "Guide":
        """A batch of one sample.

        Args:
            lesions: (K, D, H, W) bool.
            classes: (K, bins) over [-1, 1], the histogram of each class; used where the look has no layers.
            walls: (D, H, W) bool, where lesions have no border; None: there are none.
            rim: (K, D, H, W) bool, what is painted around the lesions. It is guided where look.rim is known.
            vessels: (D, H, W) bool, those of the scan. In the rim they stay as they are, and the other voxels
                of a layer get its histogram without the brightest voxels, which the vessels are.
        """
        if look.layers is None:
            return cls.whole(lesions[None], classes.flatten()[None])
        layers = torch.stack([layers_of(one, spacing_mm, look.depths_mm, walls) for one in lesions])
        if rim is None or look.rim is None:
            return cls(layers[None], (look.layers,), (look.grain,), (None,))
        depth, of_rim = depth_below_border(lesions.any(dim=0), spacing_mm), look.rim
        rim_layers = rim_layers_of(depth, rim.any(dim=0))
        if vessels is not None:
            taken, all_ = (
                torch.bincount(rim_layers[where.any(dim=0)], minlength=len(of_rim))
                for where in (rim & vessels, rim)
            )
            of_rim, rim = without_brightest(of_rim, taken / all_.clamp(min=1)), rim & ~vessels
        layers = torch.where(rim, rim_layers + look.layers.shape[1], layers)
        histograms = torch.cat([look.layers, of_rim.expand(len(lesions), -1, -1)], dim=1)
        rays = rays_through(depth, rim.any(dim=0), spacing_mm)
        return cls(layers[None], (histograms,), (look.grain,), (rays,))

    @classmethod
    def stack(cls, guides: Sequence["Guide"]) -> "Guide":
        """One batch of several."""
        return cls(
            torch.cat([guide.layers for guide in guides]),
            tuple(histograms for guide in guides for histograms in guide.histograms),
            tuple(grain for guide in guides for grain in guide.grain),
            tuple(rays for guide in guides for rays in guide.rays),
        )

    def targets(self, sample: int, lesion: int) -> list[Target]:
        """The layers of one lesion class of a sample that have both voxels and a histogram."""
        histograms = self.histograms[sample][lesion]
        found = [(self.layers[sample, lesion] == n, wanted) for n, wanted in enumerate(histograms)]
        return [(voxels, wanted) for voxels, wanted in found if bool(voxels.any() and wanted.sum() > 0)]

    def rows(self, rows: slice) -> "Guide":
        """Some samples of the batch."""
        return Guide(self.layers[rows], self.histograms[rows], self.grain[rows], self.rays[rows])

    def to(self, device: torch.device) -> "Guide":
        """The same on a device."""
        histograms = tuple(histograms.to(device) for histograms in self.histograms)
        rays = tuple(None if rays is None else rays.to(device) for rays in self.rays)
        return Guide(self.layers.to(device), histograms, self.grain, rays)


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
    intensities are being decided, and a network that was not trained for long settles on usual ones. Where
    the scan's noise is known, voxels are ranked as LeFusion.ordering says, else by x_0 itself.

    Args:
        noise, x_t: (B, K, D, H, W). t: (B,).
        strength: 0 to 1, how far intensities are moved.
        max_signal: None: GUIDED_SIGNAL, for samples with several layers to the end.

    Returns:
        (B, K, D, H, W); the noise given, where nothing is guided.
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
            targets, grain = guide.targets(b, k), guide.grain[b]
            known = grain is not None and targets
            order = ordered(x_0[k], targets, grain, guide.rays[b]) if known else x_0[k]
            matched = _matched(x_0[k], order, targets, strength)
            for voxels, _ in targets:
                guided[b, k][voxels] = (x_t[b, k] - signal[b] * matched)[voxels] / spread[b]
    return guided


def as_the_scan(painted: Tensor, guide: Guide, strength: float = 1.0) -> Tensor:
    """What was painted, as smooth along one axis to another as the scan.

    A scan that was blurred across slices has soft borders there, too. Blurring narrows a layer's histogram,
    and so it is matched again, which roughens a little: in TURNS. Nothing changes where the roughness of the
    scan is not known along each axis.

    painted: (1, D, H, W) in [-1, 1]. guide: of one sample. strength: 0 to 1, how far intensities are moved.
    Returns (1, D, H, W).
    """
    grain = guide.grain[0] or ()
    rough = grain[1:]
    classes = list(filter(None, (guide.targets(0, k) for k in range(len(guide.histograms[0])))))
    if not rough or min(rough) <= 0 or not classes:
        return painted
    inside = torch.stack([voxels for targets in classes for voxels, _ in targets]).any(dim=0)
    found = painted[0]
    for _ in range(TURNS):
        found = smoothed_as(rough, found, inside)
        for targets in classes:
            found = _matched(found, ordered(found, targets, grain, predicted=False), targets, 1.0)
    return painted + strength * (found - painted)


def _matched(x_0: Tensor, order: Tensor, targets: Sequence[Target], strength: float) -> Tensor:
    """x_0 with the intensities of each layer moved to its histogram, the lowest of `order` being the darkest.
    All (D, H, W). Intensities are clamped after they are ranked: most of them may be alike then."""
    found = x_0.clone()
    for voxels, histogram in targets:
        own = x_0[voxels].clamp(-1, 1)
        found[voxels] = own + strength * (match_intensities(order[voxels], histogram) - own)
    return found
