"""Infarcts in late-enhancement MR of hearts, with no-reflow within: value in, value out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from DiffMask.inference.infarcts import SectorDrafts
from DiffMask.inference.plan import Scan
from LeFusion.box_painter import paint_case
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.boxes import extent
from LeFusion.dataset.cases import Case
from LeFusion.dataset.intensity import IntensityMap
from LeFusion.dataset.loading import LoadedCase, load_case
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import Volume, on_grid_of
from LeFusion.errors import UserError
from LeFusion.insertion.canvas import scan_address
from LeFusion.insertion.result import InsertedScan, Lesion, measured
from LeFusion.insertion.tools import Tools
from LeFusion.textures.histograms import mean_intensity

MARGIN = 12  # voxels around a lesion in pictures


def insert_infarct(
    volume: Volume,
    labels_path: Path,
    tools: Tools,
    seed: int = 0,
    version: int = 1,
    texture: str | int | None = None,
    done: Callable[[], None] = lambda: None,
) -> InsertedScan:
    """A heart with an infarct: under the lesion labels of its label map or, where that has none, drawn in its
    wall. For the other arguments see `insert_lesions`.

    The labels of the result are the label map with the lesions, in the data type's labels; its lesions are
    one for each of these that is there, with the label as instance. Raises UserError, naming the file, for
    labels that do not fit or an infarct that finds no place.
    """
    given, layout = tools.settings, tools.settings.layout
    axes, label_map = Axes.of(volume, layout), on_grid_of(read_volume(labels_path), volume)
    window = IntensityMap.of(lambda: volume.values, given.window)
    name = f"{seed}/{scan_address(volume, axes, axes.spacing_mm(volume), window)}/{version}"
    labels = axes.to_dhw(label_map.labels)
    if not np.isin(labels, layout.lesion_labels).any():
        (draft,) = SectorDrafts(layout, [version], given.max_redraws)(Scan(name, volume.path, labels_path))
        labels = draft.labels
    conditions = tools.conditions({name: texture}, {name: str(volume.path)})
    loaded = load_case(
        Case(name, volume.path, labels_path),
        layout,
        given.window,
        given.spacing_mm,
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
    classes = zip(layout.lesion_labels, look.histogram.reshape(-1, given.histogram_bins), strict=True)
    found = [
        _lesion(
            loaded,
            image,
            edit,
            after,
            label,
            asked_mean=mean_intensity(shares, len(shares), (-1, 1)),
            texture=conditions.name(name, 1, [look]),
            seed=seed,
            unit=tools.unit,
        )
        for label, shares in classes
        if (loaded.labels_dhw == label).any()
    ]
    done()
    stored = axes.to_stored(loaded.labels_dhw), axes.to_stored(edit)
    return InsertedScan(image, *stored, found, loaded.stored_spacing_mm, tools.unit)


def _lesion(
    loaded: LoadedCase,
    image: Volume,
    edit: np.ndarray,
    after: Tensor,
    label: int,
    asked_mean: float,
    **named: Any,
) -> Lesion:
    """The lesion under a label. image: the scan with it. edit: (D', H', W') bool. after: (1, D, H, W), the
    whole image on the network's grid. asked_mean: in network units. named: as `measured` has them."""
    lesion, to_source = loaded.labels_dhw == label, loaded.intensity_map.to_source
    box = extent(lesion).grown((MARGIN,) * 3).within(lesion.shape)
    where = loaded.lesions_dhw[loaded.layout.lesion_labels.index(label)]
    before, painted = (loaded.axes.to_dhw(v.values)[box.slices] for v in (loaded.volume, image))
    return measured(
        instance=label,
        scan=loaded.volume,
        axes=loaded.axes,
        spacing_mm=loaded.stored_spacing_mm,
        box=box,
        label=lesion[box.slices],
        edit=edit[box.slices],
        before=before,
        after=painted,
        asked_mean=float(to_source(asked_mean)),
        network_means=tuple(
            float(to_source(values[where].double().mean())) for values in (loaded.image_dhw, after[0])
        ),
        **named,
    )
