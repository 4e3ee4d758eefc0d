"""Scans, what was painted into them and their label maps, from files to what a viewer page shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LeFusion.dataset.axes import Axes
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import Volume, on_grid_of
from LeFusion.errors import UserError
from LeFusion.viewer.scenes import Scan, Stored, Version


@dataclass(frozen=True)
class Files:
    """A label map and, where lesions were painted under it, the image. numbered: it numbers the lesions."""

    title: str
    label: Path
    image: Path | None = None
    numbered: bool = False


def read_scan(name: str, source: Path, versions: Sequence[Files], layout: Layout, unit: str) -> Scan:
    """The files of a scan as a viewer page shows them, depth first as the layout says.

    Raises UserError for files that cannot be read or are on another grid than the source.
    """
    volume = read_volume(source)
    axes, read = Axes.of(volume, layout), []
    for files in versions:
        mask = on_grid_of(read_volume(files.label), volume)
        labels = axes.to_dhw(mask.raw if mask.slope == 1 and mask.inter == 0 else mask.labels)
        # Masks number their lesions where they hold more labels than a layout with nothing but lesions has
        more = not layout.other_labels and labels.max() > max(layout.lesion_labels)
        numbered = files.numbered or layout.instances or bool(more)
        if not numbered and layout.other_labels:
            labels = np.where(np.isin(labels, layout.lesion_labels), labels, 0)
        image = None
        if files.image is not None:
            painted = read_volume(files.image)
            if painted.raw.shape != volume.raw.shape:
                raise UserError(
                    f"{painted.path}: its shape {painted.raw.shape} is not that of {source}, "
                    f"{volume.raw.shape}; give the scan that it was painted into"
                )
            image = Stored(axes.to_dhw(painted.raw), painted.slope, painted.inter)
        read.append(Version(files.title, labels, image, numbered))
    affine, oriented = _geometry(volume, axes, layout)
    return Scan(
        name, Stored(axes.to_dhw(volume.raw), volume.slope, volume.inter), read, affine, oriented, unit
    )


def _geometry(volume: Volume, axes: Axes, layout: Layout) -> tuple[np.ndarray, bool]:
    """The affine of (depth, row, column) and whether it says what is left and right.

    Where the layout has no orientation, affines give the voxel size only: slices are shown with rows
    downwards and columns to the right.
    """
    if layout.orientation is None:
        depth, row, column = axes.spacing_mm(volume)
        return np.array([[0, 0, -column, 0], [0, -row, 0, 0], [depth, 0, 0, 0], [0, 0, 0, 1.0]]), False
    shape = axes.to_dhw(volume.raw).shape
    corner = np.array(axes.stored_index((0, 0, 0), shape))
    steps = [np.array(axes.stored_index(unit, shape)) - corner for unit in np.eye(3)]
    turn = np.eye(4)
    turn[:3, :3], turn[:3, 3] = np.array(steps).T, corner
    return volume.affine @ turn, True
