"""The two kinds of masks: of infarcts, drawn in hearts, and of lesions that a network makes from spheres."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from DiffMask.inference.infarcts import SectorDrafts
from DiffMask.inference.masks import ShapeMaker, drawn_masks
from DiffMask.inference.nodules import SphereDrafts
from DiffMask.inference.plan import Draft, Scan
from DiffMask.inference.report import heart_facts, lung_facts
from DiffMask.settings import SECTOR_SETTINGS, SPHERE_SETTINGS, MaskInferenceSettings
from LeFusion.dataset.volume import Volume


@dataclass(frozen=True, eq=False)
class Kind:
    """How masks are made.

    Attributes:
        drafts_of: scan -> its drafts.
        masks: drafts -> (draft, its mask or None where all came out empty, draws) each.
        facts: (draft, its mask, its scan) -> columns of the table.
        recorded: the settings that decide a mask, as the table has them.
        digest: of the network's weights; "" without one.
        types: names of masks -> the textures that a table of spheres gives them.
    """

    drafts_of: Callable[[Scan], list[Draft]]
    masks: Callable[[Sequence[Draft]], Iterable[tuple[Draft, np.ndarray | None, int]]]
    facts: Callable[[Draft, np.ndarray, Volume], dict[str, float | None]]
    recorded: dict[str, object]
    digest: str = ""
    types: dict[str, str | int] = field(default_factory=dict)


def kind_of(settings: MaskInferenceSettings, scans: Sequence[Scan]) -> Kind:
    """The kind that the settings ask for; loads the network. Raises UserError for what does not fit it."""
    layout = settings.layout
    if layout.hearts:
        recorded = {"seed": settings.seed, **settings.recorded(SECTOR_SETTINGS)}
        return Kind(
            SectorDrafts.of(settings), drawn_masks, lambda draft, *_: heart_facts(draft, layout), recorded
        )
    maker = ShapeMaker(settings)
    drafts_of = SphereDrafts(settings, scans, maker.size, maker.spacing_mm)
    recorded = maker.recorded | {"spheres": settings.spheres, **settings.recorded(SPHERE_SETTINGS)}
    facts = partial(lung_facts, layout=layout)
    return Kind(drafts_of, maker.masks, facts, recorded, maker.digest, drafts_of.types(scans))
