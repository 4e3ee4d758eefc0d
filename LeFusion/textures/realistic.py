"""Textures that know size: histograms of many real lesions, of which one is drawn for a lesion of like size.

A small lesion is mostly border and so darker than a large one of the same kind; one histogram for all sizes
gives synthetic lesions away. A texture here is a class of real lesions, such as ground-glass or solid.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from LeFusion.dataset.storage import atomic_file
from LeFusion.errors import MissingFileError, UserError
from LeFusion.textures.histograms import folded
from LeFusion.textures.noise import under_noise

NEIGHBOURS = 12  # lesions of like size that one is drawn from
KEYS = ("data_type", "window", "bins", "voxels", "masks", "source", "textures", "depths_mm", "lesions")
OF_HEARTS = "classes"  # a key that tables of hearts have, too
NOISE, LAYER_BINS = "noise", "layer_bins"  # keys that a table may have


@dataclass(frozen=True)
class LesionTable:
    """Real lesions: what each looks like, how large it is, and which texture it is.

    window: of the bins. voxels, masks, source: what the histograms were taken from, in words. textures: the
    names. texture (N,): the index of each lesion's. volume_mm3 (N,). layers (N, len(depths_mm) + 1, bins):
    the histogram of each layer of a lesion, see textures.layers; of sum 1 together. depths_mm: where a layer
    ends; empty: lesions as a whole. classes: above 0, of hearts: `layers` are then the lesion labels, and
    window and bins are in units of the heart's healthy tissue, see LeFusion.hearts.tissue. The bins of
    `layers` may be finer, a multiple of `bins`. noise (N,): of each lesion's scan, sd in the window's units,
    see textures.noise, 0 where it is not known; None: of no lesion.
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

    def draw(
        self,
        volume_mm3: float,
        generator: torch.Generator,
        texture: int | None = None,
        present: Sequence[bool] = (),
        noise: float | None = None,
    ) -> Tensor:
        """(layers, layer_bins) of sum 1, for a lesion of this volume, of one texture (its index) or of any.

        present: of hearts, the labels that it must have. Raises UserError where no lesion of the table has
        them. noise: of the scan that the lesion is for, sd in network intensities; None: not known, so the
        noise of the lesion's own scan stays in its histogram.

        Those of one of the NEIGHBOURS lesions nearest in log volume. (Histograms between two of them are
        wider than real ones: a classifier told lesions painted with them from real ones with an AUC of 0.63
        instead of 0.54, 24 regions x 3 seeds.)
        """
        log_volumes, layers, noises = self._of[texture]
        if any(present):
            usable = (layers.sum(dim=2) > 0)[:, list(present)].all(dim=1)
            if not bool(usable.any()):
                raise UserError("no real lesion of the table has all lesion labels of the mask")
            log_volumes, layers, noises = (part[usable.numpy()] for part in (log_volumes, layers, noises))
        nearest = np.argsort(np.abs(log_volumes - math.log(volume_mm3)), kind="stable")[:NEIGHBOURS]
        drawn = nearest[int(torch.randint(len(nearest), (), generator=generator))]
        if noise is None or noises[drawn] == 0:
            return layers[drawn]
        return under_noise(layers[drawn], float(noises[drawn]), noise)

    def draw_whole(self, volume_mm3: float, generator: torch.Generator) -> Tensor:
        """(bins,): a histogram of any texture, without its layers."""
        return folded(self.draw(volume_mm3, generator).sum(dim=0), self.bins)

    def only(self, texture: int) -> "LesionTable":
        """The lesions of one texture, by its index."""
        chosen = self.texture == texture
        return replace(
            self,
            textures=(self.textures[texture],),
            texture=np.zeros(int(chosen.sum()), dtype=int),
            volume_mm3=self.volume_mm3[chosen],
            layers=self.layers[chosen],
            noise=None if self.noise is None else self.noise[chosen],
        )

    @cached_property
    def _of(self) -> dict[int | None, tuple[np.ndarray, Tensor, np.ndarray]]:
        """(log volumes, layers, noise in network intensities) of each texture, and of all under None."""
        chosen = {kind: self.texture == kind for kind in range(len(self.textures))}
        chosen[None] = np.ones(len(self.texture), dtype=bool)
        layers = torch.from_numpy(self.layers.astype(np.float32))
        units = (self.window[1] - self.window[0]) / 2
        noise = np.zeros(len(layers)) if self.noise is None else self.noise / units
        return {
            kind: (np.log(self.volume_mm3[which]), layers[torch.from_numpy(which)], noise[which])
            for kind, which in chosen.items()
        }


def write_lesion_table(path: str | PathLike, table: LesionTable) -> None:
    """JSON, a line for each lesion: index of its texture, volume in mm3, then the bins of one layer after the
    other, from the border inwards (of hearts: of one label after the other), in ten-thousandths of the
    lesion."""
    head = {key: getattr(table, key) for key in KEYS if key != "lesions"}
    head |= {OF_HEARTS: table.classes} if table.classes else {}
    head |= {LAYER_BINS: table.layer_bins} if table.layer_bins != table.bins else {}
    rows = [
        json.dumps([int(kind), round(float(volume), 1), *np.rint(row * 1e4).astype(int).flatten().tolist()])
        for kind, volume, row in zip(table.texture, table.volume_mm3, table.layers, strict=True)
    ]
    text = json.dumps(head, indent=2)[:-2]
    if table.noise is not None:
        text += f',\n  "{NOISE}": {json.dumps(np.round(table.noise, 1).tolist())}'
    text += ',\n  "lesions": [\n' + ",\n".join(rows) + "\n  ]\n}\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_lesion_table(path: str | PathLike) -> LesionTable:
    """Reads and checks the file; UserError with the file and what is amiss."""
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file of lesion textures")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, dict) or set(content) - {OF_HEARTS, NOISE, LAYER_BINS} != set(KEYS):
        raise UserError(f"{path}: must have the keys {', '.join(KEYS)}")
    names, bins = content["textures"], content["bins"]
    fine = content.get(LAYER_BINS, bins)
    if not (isinstance(bins, int) and isinstance(fine, int) and bins > 0 and fine > 0 and fine % bins == 0):
        raise UserError(f"{path}: layer_bins={fine} must be a multiple of bins={bins}, whole numbers above 0")
    try:
        rows = np.array(content["lesions"], dtype=np.float64)
        noise = np.array(content[NOISE], dtype=np.float64) if NOISE in content else None
        window, depths = (tuple(float(v) for v in content[key]) for key in ("window", "depths_mm"))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: lesions, window, noise and depths_mm must hold numbers ({error})"
        ) from error
    if list(depths) != sorted(set(depths)) or not all(0 < depth < float("inf") for depth in depths):
        raise UserError(f"{path}: depths_mm={list(depths)} must rise, from above 0")
    classes = content.get(OF_HEARTS, 0)
    if not isinstance(classes, int) or classes < 0 or (classes and depths):
        raise UserError(f"{path}: classes={classes} must be the number of lesion labels, without depths_mm")
    count = classes or len(depths) + 1
    if rows.ndim != 2 or rows.shape[1] != 2 + count * fine:
        raise UserError(f"{path}: each lesion needs a texture, a volume and {count} x {fine} bins")
    if noise is not None and (noise.shape != (len(rows),) or not (np.isfinite(noise) & (noise >= 0)).all()):
        raise UserError(f"{path}: noise must hold a number from 0 for each of the {len(rows)} lesions")
    kind, volume, layers = rows[:, 0], rows[:, 1], rows[:, 2:].reshape(len(rows), count, -1)
    totals = layers.sum(axis=(1, 2), keepdims=True)
    if not (np.isfinite(rows).all() and (volume > 0).all() and (layers >= 0).all() and (totals > 0).all()):
        raise UserError(f"{path}: volumes must be above 0, bins at least 0 and not all 0")
    missing = set(range(len(names))) ^ set(kind.tolist())
    if missing:
        raise UserError(f"{path}: textures {sorted(missing)} have no lesion, or no name")
    return LesionTable(
        content["data_type"],
        window,
        bins,
        *(content[key] for key in ("voxels", "masks", "source")),
        tuple(names),
        kind.astype(int),
        volume,
        layers / totals,
        depths,
        classes,
        noise,
    )


def load_lesion_table(
    path: str | PathLike, data_type: str, window: object, bins: int, classes: int = 1
) -> LesionTable:
    """A table that must be for this data type, window, bins and number of lesion labels; UserError otherwise.

    One of hearts fits any window and number of bins.
    """
    table = read_lesion_table(path)
    stated = {"data_type": table.data_type, "lesion labels": table.classes or 1}
    wanted = {"data_type": data_type, "lesion labels": classes}
    if not table.classes:
        stated |= {"window": list(table.window), "bins": table.bins}
        wanted |= {"window": window, "bins": bins}
    for key, value in stated.items():
        given = list(map(float, wanted[key])) if isinstance(wanted[key], list | tuple) else wanted[key]
        if given != value:
            raise UserError(
                f"{path}: is for {key}={value}, this run has {key}={given}: its bins mean other intensities"
            )
    return table
