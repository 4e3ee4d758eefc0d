"""Texture types of a data set, the real lesions whose histograms stand for groups of similar ones, and the
file that holds them."""

import json
import math
import re
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path

import numpy as np
from torch import Tensor

from LeFusion.dataset.storage import atomic_file, read_json
from LeFusion.errors import UserError
from LeFusion.textures.histograms import condition_from_counts

Window = tuple[float, float] | str | dict


@dataclass(frozen=True)
class TextureType:
    """A group of lesions and the one that stands for it.

    medoid: that lesion's name. histogram: its own, (cond_dim,), each class of sum 1 or all zero.
    share, lesions: how much of the data set the group holds. mean_intensity: of the histogram, in the units
    of the window (see mean_intensity and window_limits).
    """

    name: str
    histogram: tuple[float, ...]
    share: float
    medoid: str
    lesions: int
    mean_intensity: float


@dataclass(frozen=True)
class Textures:
    """What a file of texture types holds. window as in a data type; silhouette: mean by number of types.

    reference_mean: the mean of healthy tissue (the layout's reference_label, in network units) that the
    histograms are stated for; None where intensities are absolute.
    """

    data_type: str
    bins: int
    classes: int
    window: Window
    silhouette: dict[int, float]
    reference_mean: float | None
    types: tuple[TextureType, ...]

    def __len__(self) -> int:
        return len(self.types)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(kind.name for kind in self.types)

    @property
    def histograms(self) -> tuple[Tensor, ...]:
        """(cond_dim,) float32 each, each class of sum 1 or all zero: conditions for a network."""
        cond_dim = self.classes * self.bins
        return tuple(condition_from_counts(kind.histogram, cond_dim, self.bins) for kind in self.types)

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(kind.share for kind in self.types)


def window_limits(window: Window) -> tuple[float, float]:
    """Where the bins start and end: the window, or (0, 1) for shares of a volume's own range."""
    if isinstance(window, str | dict):
        return (0.0, 1.0)
    return (float(window[0]), float(window[1]))


def write_textures(path: str | PathLike, textures: Textures) -> None:
    """JSON, one line for each type's histogram, complete or not at all."""
    content = asdict(textures)
    content["types"] = [{**kind, "histogram": list(kind["histogram"])} for kind in content["types"]]
    text = json.dumps(content, indent=2)
    text = re.sub(
        r"\[\n[^][{}\"]*\]", lambda match: json.dumps(json.loads(match[0])), text
    )  # numbers in a line
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_textures(path: str | PathLike) -> Textures:
    """Reads and checks a file of texture types; ValueError with the file and the value for anything amiss."""
    path = Path(path)
    content = read_json(path, "no such file; LeFusion/inference/fit_textures.py writes one")
    try:
        return _parse(content)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _parse(content) -> Textures:
    _check_keys(content, Textures, "the file")
    bins, classes = (_number(content, key, int, least=1) for key in ("bins", "classes"))
    _check_text(content, "data_type")
    _check_window(content["window"])
    silhouette = content["silhouette"]
    if not isinstance(silhouette, dict):
        raise UserError(f"silhouette {silhouette!r} must give a value for each number of types")
    if not isinstance(content["types"], list) or not content["types"]:
        raise UserError(f"types {content['types']!r} must be a list of at least one type")
    types = []
    for number, kind in enumerate(content["types"], start=1):
        try:
            types.append(_parse_type(kind, bins, classes))
        except ValueError as error:
            raise UserError(f"type {number}: {error}") from error
    try:
        scores = {int(count): _number(silhouette, count, float) for count in silhouette}
    except ValueError as error:
        raise UserError(f"silhouette: {error}") from error
    reference_mean = content["reference_mean"]
    if reference_mean is not None:
        reference_mean = _number(content, "reference_mean", float, least=-1)
    window = content["window"]
    window = tuple(window) if isinstance(window, list) else window
    return Textures(content["data_type"], bins, classes, window, scores, reference_mean, tuple(types))


def _parse_type(kind, bins: int, classes: int) -> TextureType:
    _check_keys(kind, TextureType, "it")
    for key in ("name", "medoid"):
        _check_text(kind, key)
    histogram = kind["histogram"]
    if not isinstance(histogram, list) or not all(_is_number(value) for value in histogram):
        raise UserError(f"histogram {histogram!r} must be a list of finite numbers")
    if len(histogram) != classes * bins:
        raise UserError(f"histogram has {len(histogram)} values, not {classes} classes x {bins} bins")
    checked_histograms(np.array([histogram], dtype=np.float64), bins)
    share = _number(kind, "share", float, least=0)
    if share > 1:
        raise UserError(f"share {share!r} must be at most 1")
    return TextureType(
        kind["name"],
        tuple(float(value) for value in histogram),
        share,
        kind["medoid"],
        _number(kind, "lesions", int, least=1),
        _number(kind, "mean_intensity", float),
    )


def checked_histograms(histograms: np.ndarray, bins: int) -> np.ndarray:
    """(N, classes * bins) float64, after a check of the numbers."""
    histograms = np.asarray(histograms, dtype=np.float64)
    if histograms.ndim != 2 or not len(histograms) or not histograms.shape[1] or histograms.shape[1] % bins:
        raise UserError(f"histograms of shape {histograms.shape} must be lesions x (classes x {bins} bins)")
    sums = by_class(histograms, bins).sum(axis=2)
    bad = ~np.isfinite(histograms).all(axis=1) | (histograms < 0).any(axis=1)
    bad |= ((np.abs(sums - 1) > 1e-3) & (sums != 0)).any(axis=1) | ~(sums > 0).any(axis=1)
    if bad.any():
        values = histograms[bad.argmax()].tolist()
        raise UserError(
            f"histogram {values} must hold finite numbers >= 0, of sum 1 in each class that is there"
        )
    return histograms


def by_class(histograms: np.ndarray, bins: int) -> np.ndarray:
    """(N, classes * bins) -> (N, classes, bins) float64."""
    return np.asarray(histograms, dtype=np.float64).reshape(len(histograms), -1, bins)


def _check_keys(content, kind: type, what: str) -> None:
    wanted = {field.name for field in fields(kind)}
    if not isinstance(content, dict) or set(content) != wanted:
        found = sorted(content) if isinstance(content, dict) else content
        raise UserError(f"{what} must have the keys {', '.join(sorted(wanted))}, found {found!r}")


def _check_text(content: dict, key: str) -> None:
    if not isinstance(content[key], str) or not content[key]:
        raise UserError(f"{key} {content[key]!r} must be a text")


def _check_window(window) -> None:
    pair = window["percentiles"] if isinstance(window, dict) and set(window) == {"percentiles"} else window
    numbers = isinstance(pair, list) and len(pair) == 2 and all(_is_number(value) for value in pair)
    if window != "minmax" and not (numbers and pair[0] < pair[1]):
        raise UserError(f"window {window!r} must be [low, high], 'minmax' or {{'percentiles': [low, high]}}")


def _number(content: dict, key: str, kind: type, least: float = -math.inf):
    value = content[key]
    if not _is_number(value) or (kind is int and not isinstance(value, int)) or value < least:
        bound = f" of at least {least}" if least > -math.inf else ""
        raise UserError(f"{key} {value!r} must be a {'whole' if kind is int else 'finite'} number{bound}")
    return kind(value)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
