"""Texture types of a data set: the real lesions whose histograms stand for groups of similar lesions."""

import json
import math
import re
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path

import numpy as np
from torch import Tensor

from LeFusion.dataset.storage import atomic_file
from LeFusion.errors import MissingFileError, UserError
from LeFusion.textures.histograms import condition_from_counts, mean_intensity

MOST_TYPES = 8  # that "auto" tries
AUTO = "auto"

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


@dataclass(frozen=True)
class Fit:
    """N lesions in K types, darkest first.

    labels (N,): the type of each lesion, from 0. medoids (K,): the lesion that stands for each type.
    distances (N,): of each lesion to its type's medoid. silhouettes (N,): of each lesion, NaN for a single
    type. scores: mean silhouette by number of types.
    """

    labels: np.ndarray
    medoids: np.ndarray
    distances: np.ndarray
    silhouettes: np.ndarray
    scores: dict[int, float]


def fit_textures(histograms: np.ndarray, bins: int, types: int | str = AUTO, seed: int = 0) -> Fit:
    """Groups lesions by k-means and picks the medoid of each group.

    histograms: (N, classes * bins), each class of sum 1 or, where a lesion lacks it, all zero. types: how
    many, or "auto": that of 2 to 8 with the best mean silhouette.

    The distance is Euclidean between cumulative histograms (see cumulative_features): one bin apart is near,
    ten bins apart is far, whereas bin by bin both are the same. On the 966 LIDC nodules its mean silhouette
    is higher for any number of types (three: 0.41, bin by bin 0.33) and halves of the data agree better
    (three types, adjusted Rand index: 0.88 on average and 0.68 at worst, bin by bin 0.85 and 0.22).

    The medoid is the lesion with the smallest sum of distances to the others of its group, of those that have
    the most classes: a texture without a class says nothing about lesions that have it. The order of the
    lesions changes nothing but which of several equal ones is a medoid (the first).

    Raises ValueError for histograms that are none and for fewer different lesions than types.
    """
    from sklearn.cluster import KMeans  # here, so that reading a file does not need scikit-learn
    from sklearn.metrics import pairwise_distances_chunked, silhouette_samples

    histograms = _checked(histograms, bins)
    order = np.lexsort(histograms.T[::-1])  # k-means draws its start by position
    features = cumulative_features(histograms[order], bins)
    different = len(np.unique(features.round(9), axis=0))
    _check_types(types, different)

    def cluster(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = KMeans(count, n_init=20, random_state=seed).fit_predict(features)
        if not 1 < count < len(features):
            return labels, np.full(len(features), np.nan)
        return labels, silhouette_samples(features, labels)

    tried = {count: cluster(count) for count in range(2, min(MOST_TYPES, different - 1) + 1)}
    scores = {count: float(silhouettes.mean()) for count, (_, silhouettes) in tried.items()}
    if types == AUTO:
        types = max(scores, key=scores.get)
    found, silhouettes = tried[types] if types in tried else cluster(types)

    presence = _classes(histograms[order], bins).any(axis=2).sum(axis=1)
    medoids, distances = [], np.zeros(len(features))
    for kind in range(types):
        members = np.flatnonzero(found == kind)
        sums = np.concatenate(
            list(pairwise_distances_chunked(features[members], reduce_func=lambda d, _: d.sum(axis=1)))
        )
        sums[presence[members] < presence[members].max()] = np.inf
        medoid = members[np.flatnonzero(sums <= sums.min() + 1e-9)[0]]  # the first, where rounding decides
        distances[members] = np.linalg.norm(features[members] - features[medoid], axis=1)
        medoids.append(medoid)
    means = [mean_intensity(histograms[order[medoid]], bins, (0, 1)) for medoid in medoids]
    darkest_first = np.argsort(means, kind="stable")
    labels = np.argsort(darkest_first)[found]
    back = np.argsort(order)
    return Fit(
        labels[back], order[np.array(medoids)[darkest_first]], distances[back], silhouettes[back], scores
    )


def cumulative_features(histograms: np.ndarray, bins: int) -> np.ndarray:
    """(N, classes * bins) histograms -> cumulative ones, in units such that Euclid sees the window as 1 long.

    The distance of two is the Cramer distance, near the Wasserstein distance but quick in k-means. Where a
    lesion lacks a class it gets the mean of those that have it, so that types part textures and not lesions
    with a class from those without.
    """
    classes = np.cumsum(_classes(histograms, bins), axis=2) / bins**0.5
    has = _classes(histograms, bins).any(axis=2)
    for k in range(classes.shape[1]):
        if has[:, k].any():
            classes[~has[:, k], k] = classes[has[:, k], k].mean(axis=0)
    return classes.reshape(len(histograms), -1)


def window_limits(window: Window) -> tuple[float, float]:
    """Where the bins start and end: the window, or (0, 1) for shares of a volume's own range."""
    if isinstance(window, str | dict):
        return (0.0, 1.0)
    return (float(window[0]), float(window[1]))


def describe(
    fit: Fit,
    histograms: np.ndarray,
    names: list[str],
    data_type: str,
    bins: int,
    window: Window,
    reference_mean: float | None = None,
) -> Textures:
    """What to write of a fit. names: of the N lesions. reference_mean: see Textures."""
    types = []
    for kind, medoid in enumerate(fit.medoids):
        histogram = np.asarray(histograms[medoid], dtype=np.float64)
        members = int((fit.labels == kind).sum())
        types.append(
            TextureType(
                name=f"type {kind + 1}",
                histogram=tuple(round(float(value), 6) for value in histogram),
                share=round(members / len(fit.labels), 5),
                medoid=names[medoid],
                lesions=members,
                mean_intensity=round(mean_intensity(histogram, bins, window_limits(window)), 4),
            )
        )
    scores = {count: round(score, 5) for count, score in fit.scores.items()}
    return Textures(
        data_type, bins, histograms.shape[1] // bins, window, scores, reference_mean, tuple(types)
    )


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
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; LeFusion/inference/fit_textures.py writes one")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: is not JSON ({error})") from error
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
    _checked(np.array([histogram], dtype=np.float64), bins)
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


def _checked(histograms: np.ndarray, bins: int) -> np.ndarray:
    """(N, classes * bins) float64, after a check of the numbers."""
    histograms = np.asarray(histograms, dtype=np.float64)
    if histograms.ndim != 2 or not len(histograms) or not histograms.shape[1] or histograms.shape[1] % bins:
        raise UserError(f"histograms of shape {histograms.shape} must be lesions x (classes x {bins} bins)")
    sums = _classes(histograms, bins).sum(axis=2)
    bad = ~np.isfinite(histograms).all(axis=1) | (histograms < 0).any(axis=1)
    bad |= ((np.abs(sums - 1) > 1e-3) & (sums != 0)).any(axis=1) | ~(sums > 0).any(axis=1)
    if bad.any():
        values = histograms[bad.argmax()].tolist()
        raise UserError(
            f"histogram {values} must hold finite numbers >= 0, of sum 1 in each class that is there"
        )
    return histograms


def _check_types(types: int | str, different: int) -> None:
    if types == AUTO:
        if different < 3:
            raise UserError(f"types=auto needs at least 3 different lesions, got {different}; give a number")
    elif isinstance(types, bool) or not isinstance(types, int) or types < 1:
        raise UserError(f"types={types} must be {AUTO} or a whole number of at least 1")
    elif types > different:
        raise UserError(f"types={types} needs as many different lesions, got {different}")


def _classes(histograms: np.ndarray, bins: int) -> np.ndarray:
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
