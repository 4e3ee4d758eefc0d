"""Inserting lesions from Python: what Painter.insert does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from LeFusion.box_painter import BoxPainter
from LeFusion.data_types import default_settings
from LeFusion.errors import UserError, plain_value
from LeFusion.images import Given
from LeFusion.insertion.lesions import insert_lesions
from LeFusion.insertion.result import Lesion
from LeFusion.insertion.sites import Site
from LeFusion.insertion.tools import Tools
from LeFusion.settings import InsertSettings, PaintingSettings

Image = TypeVar("Image")
WHOLE = "chest_ct"
OF_REGIONS = ("layout", "spacing_mm", "default_paths")  # which whole scans have otherwise


@dataclass(frozen=True, eq=False)
class Inserted(Generic[Image]):
    """A scan with lesions, as `Painter.insert` returns it.

    Attributes:
        image: what was given, with lesions in it: the same kind, data type, affine and metadata.
        labels: of the same kind as `image`: the numbers 1..n of the lesions, 0 elsewhere.
        lesions: what each of them is, in the order of their numbers.
    """

    image: Image
    labels: Any
    lesions: tuple[Lesion, ...]


def insertion_tools(painter: BoxPainter, settings: PaintingSettings) -> tuple[Tools, InsertSettings]:
    """What `lefusion insert` would make lesions with, with this painter's network, and its settings.

    Raises UserError for weights of another organ than the lung.
    """
    whole = default_settings(WHOLE, command="insert", input="-", output="-")
    if settings.data_type != whole["data_type"]:
        raise UserError(
            f"insert: finds places in lungs, and these weights are of data_type={settings.data_type}; paint "
            "under masks"
        )
    if getattr(settings, "texture_shares", None) is not None:
        raise UserError(
            "texture_shares: is for paint; insert draws real lesions of like size, or name a texture"
        )
    own = {key: getattr(settings, key) for key in PaintingSettings.model_fields}
    if settings.layout.orientation is None:  # of regions that were cut out: their affines do not say it
        own = {key: value for key, value in own.items() if key not in OF_REGIONS}
    given = InsertSettings.of(whole | own)
    return Tools.of(given, painter), given


def inserted(
    tools: Tools,
    settings: InsertSettings,
    image: Given,
    lesions: int | Sequence[int] | Sequence[Site],
    seed: int,
    texture: str | int | None,
    diameter_mm: float | Sequence[float] | str,
) -> Inserted:
    """See Painter.insert."""
    asked = {"texture": plain_value(texture), "diameter_mm": plain_value(diameter_mm)}
    number = plain_value(lesions)
    if number is None:
        raise UserError("lesions=None must be a whole number of at least 1, [fewest, most] or sites")
    sites = isinstance(number, list) and bool(number) and all(isinstance(one, Site) for one in number)
    InsertSettings.of(dict(settings) | asked | {"seed": seed, "lesions": None if sites else number})
    found = insert_lesions(image.volume, tools, number, seed, **asked)
    return Inserted(image.like(found.image.raw), image.labels(found.labels), tuple(found.lesions))
