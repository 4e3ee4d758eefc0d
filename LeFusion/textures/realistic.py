"""Textures that know size: histograms of many real lesions, of which one is drawn for a lesion of like size.

A small lesion is mostly border and so darker than a large one of the same kind; one histogram for all sizes
gives synthetic lesions away. A texture here is a class of real lesions, such as ground-glass or solid.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from LeFusion.dataset.storage import atomic_file
from LeFusion.errors import MissingFileError, UserError
from LeFusion.textures.histograms import folded, mean_bin
from LeFusion.textures.layers import RIM_MM, SMOOTH_MM
from LeFusion.textures.noise import under_lung, under_noise
from LeFusion.textures.surroundings import Around

NEIGHBOURS = 12  # lesions of like size that one is drawn from
KEYS = ("data_type", "window", "bins", "voxels", "masks", "source", "textures", "depths_mm", "lesions")
OF_HEARTS = "classes"  # a key that tables of hearts have, too
LAYER_BINS, SCORES = "layer_bins", "scores"  # keys that a table may have
SMOOTH = "smooth_mm"  # a key of tables with layers: how smooth the border is that they are counted from
RIM = "rim"  # a key that they may have, too: what is around each lesion
OF_SCANS = ("noise", "lung")  # keys that it may have, too: a number for each lesion
MAY_HAVE = {OF_HEARTS, *OF_SCANS, LAYER_BINS, SCORES, SMOOTH, RIM}
# Radiologists' scores of LIDC-IDRI, from 1 to this; calcification 6: absent
HIGHEST_SCORES = {"texture_score": 5, "margin_score": 5, "spiculation": 5, "calcification": 6}


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
        scores: what radiologists of LIDC-IDRI gave, by the names of HIGHEST_SCORES, (N,) each; 0 where it is
            not known.
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


def write_lesion_table(path: str | PathLike, table: LesionTable) -> None:
    """JSON, a line for each lesion: index of its texture, volume in mm3, then the bins of one layer after the
    other, from the border inwards (of hearts: of one label after the other), in ten-thousandths of the
    lesion."""
    head = {key: getattr(table, key) for key in KEYS if key != "lesions"}
    head |= {OF_HEARTS: table.classes} if table.classes else {}
    head |= {SMOOTH: SMOOTH_MM} if table.depths_mm else {}
    head |= {LAYER_BINS: table.layer_bins} if table.layer_bins != table.bins else {}
    rows = [
        json.dumps([int(kind), round(float(volume), 1), *np.rint(row * 1e4).astype(int).flatten().tolist()])
        for kind, volume, row in zip(table.texture, table.volume_mm3, table.layers, strict=True)
    ]
    text = json.dumps(head, indent=2)[:-2]
    for name in OF_SCANS:
        if (values := getattr(table, name)) is not None:
            text += f',\n  "{name}": {json.dumps(np.round(values, 1).tolist())}'
    if table.rim is not None:
        beside = [json.dumps(np.rint(row * 1e4).astype(int).flatten().tolist()) for row in table.rim]
        text += f',\n  "{RIM}": [\n' + ",\n".join(beside) + "\n  ]"
    if table.scores:
        rounded = {name: values.astype(int).tolist() for name, values in table.scores.items()}
        lines = ",\n".join(f"    {json.dumps(name)}: {values}" for name, values in rounded.items())
        text += f',\n  "{SCORES}": {{\n{lines}\n  }}'
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
    if not isinstance(content, dict) or set(content) - MAY_HAVE != set(KEYS):
        raise UserError(f"{path}: must have the keys {', '.join(KEYS)}")
    names, bins = content["textures"], content["bins"]
    fine = content.get(LAYER_BINS, bins)
    if not (isinstance(bins, int) and isinstance(fine, int) and bins > 0 and fine > 0 and fine % bins == 0):
        raise UserError(f"{path}: layer_bins={fine} must be a multiple of bins={bins}, whole numbers above 0")
    try:
        rows = np.array(content["lesions"], dtype=np.float64)
        scans = {name: np.array(content[name], dtype=np.float64) for name in OF_SCANS if name in content}
        window, depths = (tuple(float(v) for v in content[key]) for key in ("window", "depths_mm"))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: lesions, window, {', '.join(OF_SCANS)} and depths_mm must hold numbers ({error})"
        ) from error
    if list(depths) != sorted(set(depths)) or not np.isfinite(depths).all():
        raise UserError(f"{path}: depths_mm={list(depths)} must rise")
    classes = content.get(OF_HEARTS, 0)
    if not isinstance(classes, int) or classes < 0 or (classes and depths):
        raise UserError(f"{path}: classes={classes} must be the number of lesion labels, without depths_mm")
    if depths and content.get(SMOOTH) != list(SMOOTH_MM):
        raise UserError(
            f"{path}: its layers are counted from a border smoothed by {content.get(SMOOTH, 0)} mm, this "
            f"version takes {list(SMOOTH_MM)}; make the table again with fit_lesion_table.py"
        )
    count = classes or len(depths) + 1
    if rows.ndim != 2 or rows.shape[1] != 2 + count * fine:
        raise UserError(f"{path}: each lesion needs a texture, a volume and {count} x {fine} bins")
    for name, values in scans.items():
        right = values.shape == (len(rows),) and np.isfinite(values).all()
        if not right or (name == "noise" and (values < 0).any()) or (name == "lung" and (values > 0).any()):
            limit = "from 0" if name == "noise" else "up to 0"
            raise UserError(f"{path}: {name} must hold a number {limit} for each of the {len(rows)} lesions")
    kind, volume, layers = rows[:, 0], rows[:, 1], rows[:, 2:].reshape(len(rows), count, -1)
    totals = layers.sum(axis=(1, 2), keepdims=True)
    if not (np.isfinite(rows).all() and (volume > 0).all() and (layers >= 0).all() and (totals > 0).all()):
        raise UserError(f"{path}: volumes must be above 0, bins at least 0 and not all 0")
    scores = _scores(path, content.get(SCORES, {}), len(rows))
    rim = _rim(path, content[RIM], len(rows), fine) if RIM in content else None
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
        scores=scores,
        rim=rim,
        **scans,
    )


def _rim(path: Path, given: object, count: int, bins: int) -> np.ndarray:
    try:
        rim = np.array(given, dtype=np.float64).reshape(count, len(RIM_MM) + 1, bins)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: {RIM} must hold {len(RIM_MM) + 1} x {bins} numbers for each of the {count} "
            f"lesions ({error})"
        ) from error
    if not (np.isfinite(rim).all() and (rim >= 0).all()):
        raise UserError(f"{path}: {RIM} must hold numbers from 0")
    return rim / np.maximum(rim.sum(axis=2, keepdims=True), 1e-12)


def _scores(path: Path, given: object, count: int) -> dict[str, np.ndarray]:
    if not isinstance(given, dict) or set(given) - set(HIGHEST_SCORES):
        raise UserError(f"{path}: scores may have the keys {', '.join(HIGHEST_SCORES)}, each a list")
    for name, values in given.items():
        right = isinstance(values, list) and len(values) == count
        highest = HIGHEST_SCORES[name]
        if not right or not all(type(v) is int and 0 <= v <= highest for v in values):
            raise UserError(
                f"{path}: scores of {name} must be whole numbers from 0 (not known) to {highest}, one for "
                f"each of the {count} lesions"
            )
    return {name: np.array(values) for name, values in given.items()}


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
