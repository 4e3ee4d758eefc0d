"""Textures that know size: histograms of many real lesions, of which one is drawn for a lesion of like size.

A small lesion is mostly border and so darker than a large one of the same kind; one histogram for all sizes
gives synthetic lesions away. A texture here is a class of real lesions, such as ground-glass or solid.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from LeFusion.errors import UserError
from LeFusion.textures.histograms import folded, mean_bin
from LeFusion.textures.noise import under_lung, under_noise
from LeFusion.textures.surroundings import Around

NEIGHBOURS = 12  # lesions of like size that one is drawn from


@dataclass(frozen=True)
class LesionTable:
    """N real lesions: what each looks like, how large it is, and which texture it is.

    Attributes:
        data_type: such as lidc.
        window: of the bins, in the images' unit.
        bins: of a whole lesion's histogram.
        voxels, masks, source: what the histograms were taken from, in words.
        textures: the names of the textures.
        texture: (N,), the index of each lesion's.
        volume_mm3: (N,).
        layers: (N, layers, layer_bins), the histogram of each layer of a lesion, see textures.layers; of sum
            1 together. layer_bins is a multiple of `bins`.
        depths_mm: where each layer but the innermost ends; empty: lesions have one layer.
        classes: 0, or of hearts the number of lesion labels: `layers` are then those labels, and window and
            bins are in units of the heart's healthy tissue, see LeFusion.hearts.tissue.
        noise: (N,), of each lesion's scan, sd in the window's unit; 0 where it is not known; None: of none.
        lung: (N,), HU of the lung beside each, see textures.surroundings; 0 and None as with noise.
        scores: what radiologists gave, by the names of textures.scores.HIGHEST_SCORES, (N,) each; 0 where it
            is not known.
        rim: (N, rim layers, layer_bins), what is around each lesion, see Look.rim; None: not known.
    """

    data_type: str
    window: tuple[float, float]
    bins: int
    voxels: str
    masks: str
    source: str
    textures: tuple[str, ...]
    texture: np.ndarray
    volume_mm3: np.ndarray
    layers: np.ndarray
    depths_mm: tuple[float, ...] = ()
    classes: int = 0
    noise: np.ndarray | None = None
    lung: np.ndarray | None = None
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    rim: np.ndarray | None = None

    @property
    def histograms(self) -> np.ndarray:
        """(N, bins): of whole lesions, of sum 1."""
        return folded(torch.from_numpy(self.layers.sum(axis=1)), self.bins).numpy()

    @property
    def layer_bins(self) -> int:
        return self.layers.shape[2]

    @property
    def shares(self) -> tuple[float, ...]:
        """How common each texture is."""
        counts = np.bincount(self.texture, minlength=len(self.textures))
        return tuple((counts / counts.sum()).tolist())

    def pick(
        self,
        volume_mm3: float,
        generator: torch.Generator,
        texture: int | None = None,
        present: Sequence[bool] = (),
    ) -> int:
        """The number (from 0) of a lesion of this volume, of one texture (its index) or of any.

        present: of hearts, the labels that it must have. Raises UserError where no lesion of the table has
        them.

        One of the NEIGHBOURS lesions nearest in log volume. (Histograms between two of them are wider than
        real ones: a classifier told lesions painted with them from real ones with an AUC of 0.63 instead of
        0.54, 24 regions x 3 seeds.)
        """
        usable = self._numbers[texture]
        if any(present):
            has = (self._layers[usable].sum(dim=2) > 0)[:, list(present)].all(dim=1)
            if not bool(has.any()):
                raise UserError("no real lesion of the table has all lesion labels of the mask")
            usable = usable[has.numpy()]
        distances = np.abs(np.log(self.volume_mm3[usable]) - math.log(volume_mm3))
        nearest = usable[np.argsort(distances, kind="stable")[:NEIGHBOURS]]
        return int(nearest[int(torch.randint(len(nearest), (), generator=generator))])

    def layers_in(self, number: int, around: Around | None = None) -> Tensor:
        """The layers of a lesion, by its number, as they would be in a scan: (layers, layer_bins) of sum 1.

        around: of the scan, whose lung and noise they then have; None: not known, so they stay as in the
        lesion's own scan.
        """
        return self._in_scan(self._layers[number], number, around)

    def rim_in(self, number: int, around: Around | None = None) -> Tensor | None:
        """What is around the lesion, likewise: (rim layers, layer_bins), see Look.rim; None: not known."""
        if self.rim is None:
            return None
        return self._in_scan(torch.from_numpy(self.rim[number].astype(np.float32)), number, around)

    def _in_scan(self, layers: Tensor, number: int, around: Around | None) -> Tensor:
        half = (self.window[1] - self.window[0]) / 2
        if around is None:
            return layers
        if self.lung is not None and self.lung[number] != 0:
            own = (float(self.lung[number]) - self.window[0]) / half - 1
            layers = under_lung(layers, own, around.lung, -self.window[0] / half - 1)
        if self.noise is not None and self.noise[number] != 0:
            layers = under_noise(layers, float(self.noise[number]) / half, around.noise)
        return layers

    def draw_whole(self, volume_mm3: float, generator: torch.Generator) -> Tensor:
        """(bins,): a histogram of any texture, without its layers."""
        return folded(self._layers[self.pick(volume_mm3, generator)].sum(dim=0), self.bins)

    def only(self, texture: int) -> "LesionTable":
        """The lesions of one texture, by its index."""
        only = self.subset(self.texture == texture)
        return replace(only, textures=(self.textures[texture],), texture=np.zeros_like(only.texture))

    def with_scores(self, asked: Mapping[str, Sequence[int]]) -> "LesionTable":
        """The lesions that have one of these scores of each name; textures that have none keep their names.

        Raises UserError for names of which the table has no scores, and where no lesion is left.
        """
        found = np.ones(len(self.texture), dtype=bool)
        for name, wanted in asked.items():
            if name not in self.scores:
                raise UserError(
                    f"its lesions have no scores of {name}; they have {', '.join(self.scores) or 'none'}"
                )
            found &= np.isin(self.scores[name], list(wanted))
        if not found.any():
            raise UserError("none of its lesions has such scores")
        return self.subset(found)

    def subset(self, chosen: np.ndarray) -> "LesionTable":
        """The lesions chosen, (N,) bool."""
        return replace(
            self,
            texture=self.texture[chosen],
            volume_mm3=self.volume_mm3[chosen],
            layers=self.layers[chosen],
            noise=None if self.noise is None else self.noise[chosen],
            lung=None if self.lung is None else self.lung[chosen],
            rim=None if self.rim is None else self.rim[chosen],
            scores={name: values[chosen] for name, values in self.scores.items()},
        )

    @cached_property
    def _numbers(self) -> dict[int | None, np.ndarray]:
        """Of the lesions of each texture, and of all under None."""
        numbers = {kind: np.flatnonzero(self.texture == kind) for kind in range(len(self.textures))}
        return {None: np.arange(len(self.texture)), **numbers}

    @cached_property
    def from_dark(self) -> tuple[int, ...]:
        """The textures that have lesions, the darkest first."""
        means = np.array([mean_bin(torch.from_numpy(row)) for row in self.histograms])
        kinds = np.unique(self.texture).tolist()
        return tuple(sorted(kinds, key=lambda kind: means[self.texture == kind].mean()))

    @cached_property
    def _layers(self) -> Tensor:
        """(N, layers, layer_bins) float32."""
        return torch.from_numpy(self.layers.astype(np.float32))
