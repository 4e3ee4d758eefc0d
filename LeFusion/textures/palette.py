"""Texture types to choose from: histograms of a configuration or of a file, or real lesions with sizes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from LeFusion.dataset.intensity import Window, same_units
from LeFusion.errors import UserError
from LeFusion.runtime.validation import text
from LeFusion.settings import PaintingSettings
from LeFusion.textures.fitted import read_textures
from LeFusion.textures.histograms import condition_from_counts
from LeFusion.textures.realistic import LesionTable
from LeFusion.textures.table_files import load_lesion_table


@dataclass(frozen=True)
class Palette:
    """Texture types to choose from: histograms (cond_dim,) by name, and how common each is (sum 1).

    table: real lesions of these types; histograms are drawn from those of like size, and `histograms` is
    empty.
    reference_mean: the mean intensity of healthy tissue (the layout's reference_label, network units) that
    the histograms are stated for; None for absolute intensities. asked: which scores all lesions of the
    table have, in words; of some types none may be left.
    """

    names: tuple[str, ...] = ()
    histograms: tuple[Tensor, ...] = ()
    shares: tuple[float, ...] = ()
    reference_mean: float | None = None
    table: LesionTable | None = None
    asked: str = ""

    def index(self, name: str | int) -> int | None:
        """Where the type of this name or number (from 1) stands; None: nowhere."""
        if isinstance(name, int) and 1 <= name <= len(self.names):
            return name - 1
        return self.names.index(name) if name in self.names else None

    def refuse_empty(self, indices: Iterable[int]) -> None:
        """Raises UserError where the table has no lesion of one of these types."""
        for index in indices:
            if self.table is not None and self.table.shares[index] == 0:
                raise UserError(
                    f"{self.asked} leaves no {self.names[index]} lesion to draw from; choose another texture "
                    "or score"
                )


def load_palette(
    given: str | Sequence[Sequence[float]] | None,
    cond_dim: int,
    bins: int,
    data_type: str | None = None,
    window: Window | None = None,
) -> Palette:
    """Texture types from `textures` of a configuration: lists of counts, a file of fit_textures, or null.

    Types of a list are named "type 1", "type 2", ... and equally common. A file says for which data type and
    over which window it was fitted; others (None: any) are refused. Raises ValueError for histograms
    of the wrong length, with negative or only zero bins, FileNotFoundError for a missing file.
    """
    if not given:
        return Palette()
    if isinstance(given, str):
        path = Path(given).expanduser()
        fitted = read_textures(path)
        if (fitted.classes * fitted.bins, fitted.bins) != (cond_dim, bins):
            raise UserError(
                f"{path}: holds {fitted.classes} classes x {fitted.bins} bins, the data type has "
                f"{cond_dim // bins} x {bins}; fit textures for it"
            )
        fits = window is None or same_units(fitted.window, window)
        for what, found, wanted in (
            ("data_type", fitted.data_type, data_type),
            ("window", window_text(fitted.window), None if fits else window_text(window)),
        ):
            if wanted is not None and found != wanted:
                raise UserError(
                    f"{path}: was fitted for {what}={found}, this run has {what}={wanted}, so its bins mean "
                    "other intensities; fit textures for this run, or give others"
                )
        total = sum(fitted.shares)
        shares = tuple(share / total for share in fitted.shares)
        return Palette(fitted.names, fitted.histograms, shares, fitted.reference_mean)
    histograms = tuple(condition_from_counts(counts, cond_dim, bins) for counts in given)
    names = tuple(f"type {number}" for number in range(1, len(histograms) + 1))
    return Palette(names, histograms, (1 / len(histograms),) * len(histograms))


def window_text(window: Window) -> str:
    """The same text for the same window, whether it comes from YAML or from JSON."""
    if isinstance(window, str):
        return window
    if isinstance(window, Mapping):
        return f"percentiles {[float(share) for share in window['percentiles']]}"
    return str([float(end) for end in window])


def default_palette(settings: PaintingSettings) -> Palette:
    """What the settings' `default_texture` draws from: real lesions, or `textures`."""
    if settings.default_texture == "realistic":
        return realistic_palette(settings)
    what = settings.data_type, settings.window
    return load_palette(settings.textures, settings.cond_dim, settings.histogram_bins, *what)


def realistic_palette(settings: PaintingSettings) -> Palette:
    """The data type's real lesions with the scores asked for.

    Raises UserError where the data type has none, where the settings have other textures and, naming table
    and score, where no lesion has these.
    """
    what, asked = (settings.data_type, settings.window), settings.asked_scores
    start = f"{asked}: " if asked else ""
    if settings.realistic_textures is None:
        raise UserError(
            f"{start}realistic lesions need realistic_textures, a table of real ones; data_type="
            f"{settings.data_type} has none"
        )
    if settings.own_textures and settings.published_textures:
        raise UserError(
            f"{start}realistic lesions come from realistic_textures and would not look at textures="
            f"{text(settings.textures)}; leave these out, or ask for a mixture of them"
        )
    path = Path(settings.realistic_textures).expanduser()
    table = load_lesion_table(path, *what, settings.histogram_bins, settings.classes)
    if table.classes and settings.layout.myocardium_label is None:
        raise UserError(f"{path}: is of hearts; data_type={settings.data_type} has no myocardium_label")
    try:
        table = table.with_scores(settings.scores)
    except UserError as error:
        raise UserError(f"{path}: {asked}: {error}{_another(path, settings)}") from None
    return Palette(table.textures, (), table.shares, table=table, asked=asked)


def _another(path: Path, settings: PaintingSettings) -> str:
    """Which table beside this one has lesions with the scores asked for, for a message."""
    for other in sorted(path.parent.glob("*.json")):
        try:
            table = load_lesion_table(
                other, settings.data_type, settings.window, settings.histogram_bins, settings.classes
            )
            table.with_scores(settings.scores)
        except UserError:
            continue
        return f"; those of realistic_textures={other} have"
    return ""
