"""Infarcts in late-enhancement MR of hearts, with no-reflow within: value in, value out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from DiffMask.inference.infarcts import SectorDrafts
from DiffMask.inference.plan import Scan
from LeFusion.box_painter import paint_case
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.boxes import Box, extent
from LeFusion.dataset.cases import Case, Layout
from LeFusion.dataset.intensity import IntensityMap
from LeFusion.dataset.loading import LoadedCase, load_case
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import Volume, on_grid_of
from LeFusion.errors import UserError
from LeFusion.insertion.canvas import scan_address
from LeFusion.insertion.result import Inserted, Lesion, mean_of, measured
from LeFusion.insertion.tools import Tools

MARGIN = 12  # voxels around a lesion in pictures


@dataclass(frozen=True)
class SectorSettings:
    """What SectorDrafts needs to know: keys of MaskInferenceSettings. None: as in real hearts."""

    layout: Layout
    masks_per_scan: int
    max_redraws: int
    seed: int = 0
    angle_deg: None = None
    half_angle_deg: None = None
    transmurality: None = None
    heights: None = None
    no_reflow_share: None = None


def insert_infarct(
    volume: Volume,
    labels_path: Path,
    tools: Tools,
    seed: int = 0,
    version: int = 1,
    texture: str | int | None = None,
    done: Callable[[], None] = lambda: None,
) -> Inserted:
    """A heart with an infarct: under the lesion labels of its label map or, where that has none, drawn in its
    wall. For the other arguments see `insert_lesions`.

    Inserted.labels is the label map with the lesions, in the data type's labels; `lesions` has one for each
    of these that is there, its instance is the label. Raises UserError, naming the file, for labels that do
    not fit or an infarct that finds no place.
    """
    layout = tools.layout
    axes, label_map = Axes.of(volume, layout), on_grid_of(read_volume(labels_path), volume)
    window = IntensityMap.of(lambda: volume.values, tools.window)
    name = f"{seed}/{scan_address(volume, axes, axes.spacing_mm(volume), window)}/{version}"
    labels = axes.to_dhw(label_map.labels)
    if not np.isin(labels, layout.lesion_labels).any():
        drafts = SectorDrafts(SectorSettings(layout, version, tools.redraws))
        labels = drafts(Scan(name, volume.path, labels_path))[-1].labels
    conditions = tools.conditions({name: texture}, {name: str(volume.path)})
    loaded = load_case(
        Case(name, volume.path, labels_path),
        layout,
        tools.window,
        tools.spacing_mm,
        lambda *_: np.ascontiguousarray(labels, layout.label_dtype),
        read={volume.path: volume, labels_path: label_map}.__getitem__,
    )
    look = conditions.look(loaded, 1)
    try:
        patches = paint_case(tools.painter, loaded, lambda part: look, ("insert", name))
    except UserError as error:
        raise UserError(f"{labels_path}: {error}") from None
    image = tools.painter.painted(loaded, patches, volume.path)
    edit = tools.painter.stored_edit(loaded)
    after = loaded.image_under(patches, loaded.whole)
    texture = conditions.name(name, 1, [look])
    classes = zip(layout.lesion_labels, look.histogram.reshape(-1, tools.bins), strict=True)
    found = [
        _lesion(loaded, image, edit, label, texture, seed, mean_of(shares), after, tools.unit)
        for label, shares in classes
        if (loaded.labels_dhw == label).any()
    ]
    done()
    stored = axes.to_stored(loaded.labels_dhw), axes.to_stored(edit)
    return Inserted(image, *stored, found, loaded.stored_spacing_mm, tools.unit)


def _lesion(
    loaded: LoadedCase,
    image: Volume,
    edit: np.ndarray,
    label: int,
    texture: str,
    seed: int,
    asked: float,
    after: Tensor,
    unit: str,
) -> Lesion:
    """asked: mean in network units. after: (1, D, H, W), the whole image on the network's grid."""
    lesion, to_source = loaded.labels_dhw == label, loaded.intensity_map.to_source
    around = extent(lesion)
    start = tuple(max(first - MARGIN, 0) for first in around.start)
    end = (min(last + MARGIN, n) for last, n in zip(around.end, lesion.shape, strict=True))
    box = Box(start, tuple(e - s for s, e in zip(start, end, strict=True)))
    where = loaded.lesions_dhw[loaded.layout.lesion_labels.index(label)]
    network = (float(to_source(values[where].double().mean())) for values in (loaded.image_dhw, after[0]))
    return measured(
        label,
        texture,
        seed,
        loaded.volume,
        loaded.axes,
        loaded.stored_spacing_mm,
        box,
        lesion[box.slices],
        edit[box.slices],
        *(loaded.axes.to_dhw(v.values)[box.slices] for v in (loaded.volume, image)),
        float(to_source(asked)),
        tuple(network),
        unit,
    )
