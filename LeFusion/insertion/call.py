"""Inserting lesions from Python: what Painter.insert does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from LeFusion.box_painter import BoxPainter
from LeFusion.data_types import default_settings
from LeFusion.errors import UserError
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
    texture: str | int,
    diameter_mm: float | Sequence[float] | None,
) -> Inserted:
    """See Painter.insert."""
    sites = not isinstance(lesions, int) and all(isinstance(lesion, Site) for lesion in lesions)
    asked: dict[str, Any] = {"seed": seed, "texture": texture, "diameter_mm": diameter_mm, "lesions": lesions}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asked.items()}
    InsertSettings.of(dict(settings) | plain | ({"lesions": None} if sites and lesions else {}))
    found = insert_lesions(image.volume, tools, lesions, seed, texture=texture, diameter_mm=diameter_mm)
    return Inserted(image.like(found.image.raw), image.labels(found.labels), tuple(found.lesions))
