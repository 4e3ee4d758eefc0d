"""The texture types that a configuration offers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from LeFusion.histogram import condition_from_counts


@dataclass(frozen=True)
class Textures:
    """Named histograms, (cond_dim,) each, and how common each type is (sum 1).

    reference_mean: the mean intensity of healthy tissue (the layout's reference_label, network units) that they
    are stated for; None for absolute intensities.
    """

    names: tuple[str, ...]
    histograms: tuple[Tensor, ...]
    shares: tuple[float, ...]
    reference_mean: float | None = None

    def __len__(self) -> int:
        return len(self.histograms)


def load_textures(given: str | Sequence[Sequence[float]] | None, cond_dim: int, bins: int) -> Textures:
    """Texture types from `textures` of a configuration: lists of counts, a JSON file of fit_textures, or null.

    Types of a list are named "1", "2", ... and equally common. Raises ValueError for a histogram of the wrong
    length, with negative or only zero bins, FileNotFoundError for a missing file.
    """
    if not given:
        return Textures((), (), ())
    if isinstance(given, str):
        from LeFusion.textures import read_textures

        return read_textures(Path(given).expanduser())
    histograms = tuple(condition_from_counts(counts, cond_dim, bins) for counts in given)
    names = tuple(str(number) for number in range(1, len(histograms) + 1))
    return Textures(names, histograms, (1 / len(histograms),) * len(histograms))
