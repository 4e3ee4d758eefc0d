"""Textures that know size: histograms of many real lesions, of which one is drawn for a lesion of like size.

A small lesion is mostly border and so darker than a large one of the same kind; one histogram for all sizes
gives synthetic lesions away. A texture here is a class of real lesions, such as ground-glass or solid.
"""

import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from LeFusion.dataset.storage import atomic_file
from LeFusion.errors import MissingFileError, UserError

NEIGHBOURS = 12  # lesions of like size that one is drawn from
KEYS = ("data_type", "window", "bins", "voxels", "masks", "source", "textures", "lesions")


@dataclass(frozen=True)
class LesionTable:
    """Real lesions: what each looks like, how large it is, and which texture it is.

    window: of the bins. voxels, masks, source: what the histograms were taken from, in words. textures: the
    names. texture (N,): the index of each lesion's. volume_mm3 (N,). histograms (N, bins): of sum 1.
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
    histograms: np.ndarray

    @property
    def shares(self) -> tuple[float, ...]:
        """How common each texture is."""
        counts = np.bincount(self.texture, minlength=len(self.textures))
        return tuple((counts / counts.sum()).tolist())

    def draw(self, volume_mm3: float, generator: torch.Generator, texture: int | None = None) -> Tensor:
        """A histogram (bins,) for a lesion of this volume, of one texture (its index) or of any.

        That of one of the NEIGHBOURS lesions nearest in log volume. (Histograms between two of them are wider
        than real ones: a classifier told lesions painted with them from real ones with an AUC of 0.63 instead
        of 0.54, 24 regions x 3 seeds.)
        """
        log_volumes, histograms = self._of[texture]
        nearest = np.argsort(np.abs(log_volumes - math.log(volume_mm3)), kind="stable")[:NEIGHBOURS]
        return histograms[nearest[int(torch.randint(len(nearest), (), generator=generator))]]

    def only(self, texture: int) -> "LesionTable":
        """The lesions of one texture, by its index."""
        chosen = self.texture == texture
        return replace(
            self,
            textures=(self.textures[texture],),
            texture=np.zeros(int(chosen.sum()), dtype=int),
            volume_mm3=self.volume_mm3[chosen],
            histograms=self.histograms[chosen],
        )

    @cached_property
    def _of(self) -> dict[int | None, tuple[np.ndarray, Tensor]]:
        """(log volumes, histograms) of each texture, and of all under None."""
        chosen = {kind: self.texture == kind for kind in range(len(self.textures))}
        chosen[None] = np.ones(len(self.texture), dtype=bool)
        histograms = torch.from_numpy(self.histograms.astype(np.float32))
        return {
            kind: (np.log(self.volume_mm3[which]), histograms[torch.from_numpy(which)])
            for kind, which in chosen.items()
        }


def write_lesion_table(path: str | PathLike, table: LesionTable) -> None:
    """JSON, a line for each lesion: index of its texture, volume in mm3, then the bins in ten-thousandths."""
    head = {key: getattr(table, key) for key in KEYS if key != "lesions"}
    rows = [
        json.dumps([int(kind), round(float(volume), 1), *np.rint(row * 1e4).astype(int).tolist()])
        for kind, volume, row in zip(table.texture, table.volume_mm3, table.histograms, strict=True)
    ]
    text = json.dumps(head, indent=2)[:-2] + ',\n  "lesions": [\n' + ",\n".join(rows) + "\n  ]\n}\n"
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
    if not isinstance(content, dict) or set(content) != set(KEYS):
        raise UserError(f"{path}: must have the keys {', '.join(KEYS)}")
    names, bins = content["textures"], content["bins"]
    try:
        rows = np.array(content["lesions"], dtype=np.float64)
        window = tuple(float(end) for end in content["window"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: lesions and window must hold numbers ({error})") from error
    if rows.ndim != 2 or not isinstance(bins, int) or rows.shape[1] != 2 + bins:
        raise UserError(f"{path}: each lesion needs a texture, a volume and {bins} bins")
    kind, volume, histograms = rows[:, 0], rows[:, 1], rows[:, 2:]
    sound = np.isfinite(rows).all() and (volume > 0).all() and (histograms >= 0).all()
    if not sound or not (histograms.sum(axis=1) > 0).all():
        raise UserError(f"{path}: volumes must be above 0, bins at least 0 and not all 0")
    missing = set(range(len(names))) ^ set(kind.tolist())
    if missing:
        raise UserError(f"{path}: textures {sorted(missing)} have no lesion, or no name")
    histograms = histograms / histograms.sum(axis=1, keepdims=True)
    return LesionTable(
        content["data_type"],
        window,
        bins,
        *(content[key] for key in ("voxels", "masks", "source")),
        tuple(names),
        kind.astype(int),
        volume,
        histograms,
    )


def load_lesion_table(path: str | PathLike, data_type: str, window: object, bins: int) -> LesionTable:
    """A table that must be for this data type, window and number of bins; UserError otherwise."""
    table = read_lesion_table(path)
    stated = {"data_type": table.data_type, "window": list(table.window), "bins": table.bins}
    wanted = {"data_type": data_type, "window": window, "bins": bins}
    for key, value in stated.items():
        given = list(map(float, wanted[key])) if isinstance(wanted[key], list | tuple) else wanted[key]
        if given != value:
            raise UserError(
                f"{path}: is for {key}={value}, this run has {key}={given}: its bins mean other intensities"
            )
    return table
