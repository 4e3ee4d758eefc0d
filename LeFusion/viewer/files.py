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
from LeFusion.viewer.scenes import Scan, Version


@dataclass(frozen=True)
class Files:
    """A label map and, where lesions were painted under it, the image."""

    title: str
    label: Path
    image: Path | None = None


def read_scan(name: str, source: Path, versions: Sequence[Files], layout: Layout, unit: str) -> Scan:
    """The files of a scan as a viewer page shows them, depth first as the layout says.

    Raises UserError for files that cannot be read or are on another grid than the source.
    """
    volume = read_volume(source)
    axes = Axes.of(volume, layout)
    read = []
    for files in versions:
        labels = axes.to_dhw(on_grid_of(read_volume(files.label), volume).labels)
        # Masks number their lesions where they hold more labels than a layout with nothing but lesions has
        instances = layout.instances or not layout.other_labels and labels.max() > max(layout.lesion_labels)
        if not instances:
            labels = np.where(np.isin(labels, layout.lesion_labels), labels, 0)
        image = None
        if files.image is not None:
            painted = read_volume(files.image)
            if painted.raw.shape != volume.raw.shape:
                raise UserError(
                    f"{painted.path}: its shape {painted.raw.shape} is not that of {source}, "
                    f"{volume.raw.shape}; give the scan that it was painted into"
                )
            image = axes.to_dhw(painted.values)
        read.append(Version(files.title, labels, image, instances))
    affine, oriented = _geometry(volume, axes, layout)
    return Scan(name, axes.to_dhw(volume.values), read, affine, oriented, unit)


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
