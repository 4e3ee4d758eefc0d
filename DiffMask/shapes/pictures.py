"""Lesion masks as shaded surfaces in 3D."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from skimage.measure import marching_cubes

from DiffMask.shapes.features import smooth_distance
from LeFusion.dataset.boxes import extent
from LeFusion.dataset.storage import atomic_file
from LeFusion.runtime.pictures import OUTLINES

COLUMNS = 6
LIGHT = np.array([0.6, -0.5, 0.62])  # direction to the light, in (slice, row, column)
AMBIENT = 0.35
WALL = "#9aa4ad"


def save_surfaces(
    path: Path,
    scenes: Sequence[Sequence[np.ndarray]],
    spacings_mm: Sequence[Sequence[float]],
    names: Sequence[str],
    opacities: Sequence[float] = (),
) -> None:
    """A PNG of scenes, each of one or several bool masks (D, H, W) on one grid, each mask in a colour.

    Seen from the front, a little from above, the slices lying flat. opacities: of the masks of a scene, which
    are then an organ and lesions in it; none: lesions only. Scenes are scaled to fill their place, their
    extent is written above.
    """
    columns = min(COLUMNS, len(scenes))
    rows = -(-len(scenes) // columns)
    figure = Figure(figsize=(1.8 * columns, 1.95 * rows), layout="constrained")
    for number, (scene, spacing, name) in enumerate(zip(scenes, spacings_mm, names, strict=True), start=1):
        axis = figure.add_subplot(rows, columns, number, projection="3d")
        colours = (WALL, *OUTLINES) if opacities else OUTLINES
        corners = []
        for mask, colour, opacity in zip(scene, colours, opacities or [1.0] * len(scene), strict=False):
            if mask.any():
                vertices, triangles = surface(mask, spacing)
                corners.append(vertices)
                axis.add_collection3d(_shaded(vertices[triangles], colour, opacity))
        low, high = np.concatenate(corners).min(axis=0), np.concatenate(corners).max(axis=0)
        middle, half = (low + high) / 2, (high - low).max() / 2
        axis.set(
            xlim=(middle[2] - half, middle[2] + half),
            ylim=(middle[1] - half, middle[1] + half),
            zlim=(middle[0] - half, middle[0] + half),
        )
        axis.set_box_aspect((1, 1, 1), zoom=1.5)
        axis.view_init(elev=25, azim=-60)
        axis.set_axis_off()
        axis.set_title(f"{name}, {2 * half:.0f} mm", fontsize=5, pad=0)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def surface(mask: np.ndarray, spacing_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) in mm, in the order of the mask's axes, and triangles (T, 3) of a mask's surface."""
    distance, box = smooth_distance(mask, spacing_mm)
    vertices, triangles, _, _ = marching_cubes(distance, 0.0, spacing=tuple(spacing_mm))
    moved = np.subtract(extent(mask).start, extent(box).start)
    return vertices + moved * np.array(spacing_mm), triangles


def _shaded(triangles: np.ndarray, colour: str, opacity: float) -> Poly3DCollection:
    """triangles: (T, 3 corners, 3), depth first."""
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    light = AMBIENT + (1 - AMBIENT) * np.abs(normals @ (LIGHT / np.linalg.norm(LIGHT)))
    colours = np.column_stack([np.outer(light, to_rgb(colour)), np.full(len(light), opacity)])
    return Poly3DCollection(triangles[..., ::-1], facecolors=colours, edgecolors="none")
