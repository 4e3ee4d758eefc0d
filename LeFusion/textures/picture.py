"""The picture of fitted texture types: their histograms and, given images, some of their lesions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from LeFusion.dataset.cases import Case, Layout
from LeFusion.dataset.loading import load_case
from LeFusion.dataset.storage import atomic_file
from LeFusion.runtime.pictures import lesion_slice
from LeFusion.textures.fitted import Textures, Window, window_limits
from LeFusion.textures.fitting import Fit

EXAMPLES = 4  # lesions shown of each type, the medoid first
FAINT = 40  # histograms drawn of each type besides the medoid's
CLASS_COLOURS = ("#f59f00", "#26c6da", "#ef5da8", "#7cb342")  # histogram and outline
MARGIN = 10  # voxels shown around a lesion


@dataclass(frozen=True)
class ExampleImages:
    """Where to find the images of the lesions, in the order of their histograms."""

    cases: list[Case]
    layout: Layout
    window: Window

    def slice(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Lesion `index` where it is largest: a square image (S, S) in [-1, 1], lesions (K, S, S) bool."""
        loaded = load_case(self.cases[index], self.layout, self.window)
        lesions = loaded.lesions_dhw.numpy()
        level = lesion_slice(lesions.any(axis=0))
        image, lesions = loaded.image_dhw[level].numpy(), lesions[:, level]
        lines = [np.flatnonzero(lesions.any(axis=(0, axis))) for axis in (2, 1)]
        side = min(max(int(line[-1] - line[0]) + 1 for line in lines) + 2 * MARGIN, *image.shape)
        start = [
            min(max((int(line[0] + line[-1]) + 1 - side) // 2, 0), length - side)
            for line, length in zip(lines, image.shape, strict=True)
        ]
        square = tuple(slice(first, first + side) for first in start)
        return image[square], lesions[(slice(None), *square)]


def save_texture_picture(
    path: Path,
    textures: Textures,
    fit: Fit,
    histograms: np.ndarray,
    class_names: list[str],
    unit: str,
    images: ExampleImages | None,
) -> None:
    """A column for each type: each class's histogram (the medoid's; faint, members'), then lesions."""
    types, classes = len(textures.types), textures.classes
    heights = [1.0] * classes + ([1.75] if images else [])
    size = (max(6.0, 3.1 * types + 0.6), 2.0 * sum(heights) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(len(heights), types, height_ratios=heights)
    edges = np.linspace(*window_limits(textures.window), textures.bins + 1)
    first = None  # whose axes the other histograms share
    for kind, texture in enumerate(textures.types):
        members = np.flatnonzero(fit.labels == kind)
        nearest = members[np.argsort(fit.distances[members], kind="stable")]
        nearest = np.concatenate([[fit.medoids[kind]], nearest[nearest != fit.medoids[kind]]])
        faint = members[np.linspace(0, len(members) - 1, min(FAINT, len(members))).astype(int)]
        for k in range(classes):
            axis = figure.add_subplot(grid[k, kind], sharex=first, sharey=first)
            first = first or axis
            block = slice(k * textures.bins, (k + 1) * textures.bins)
            for values in (histograms[index, block] for index in faint if histograms[index, block].any()):
                axis.plot((edges[1:] + edges[:-1]) / 2, values, color="0.5", alpha=0.25, linewidth=0.6)
            medoid = np.array(texture.histogram[block])
            axis.stairs(medoid, edges, color=_colour(k), linewidth=1.8, fill=False, zorder=3)
            axis.stairs(medoid, edges, color=_colour(k), alpha=0.3, fill=True)
            if not medoid.any():
                axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", va="center", fontsize=8)
            axis.set_xlim(edges[0], edges[-1])
            axis.grid(alpha=0.25)
            axis.tick_params(labelsize=7, labelleft=kind == 0, labelbottom=k == classes - 1)
            if k == 0:
                mean = _readable(texture.mean_intensity, textures.window, unit)
                axis.set_title(
                    f"{texture.name}: {texture.lesions} lesions ({texture.share:.0%}), mean {mean}\n"
                    f"medoid {texture.medoid}",
                    fontsize=8,
                )
            if k == classes - 1:
                axis.set_xlabel(f"intensity ({unit})", fontsize=8)
            if kind == 0:
                prefix = f"{class_names[k]}: " if classes > 1 else ""
                axis.set_ylabel(f"{prefix}share of voxels", fontsize=8)
        if images:
            _draw_examples(figure, grid[classes, kind], nearest[:EXAMPLES], images)
    top = max(max(max(texture.histogram) for texture in textures.types), _usual_peak(histograms, textures))
    first.set_ylim(0, min(1.0, 1.08 * top))
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _draw_examples(figure: Figure, place, indices: np.ndarray, images: ExampleImages) -> None:
    tiles = place.subgridspec(2, EXAMPLES // 2, wspace=0.03, hspace=0.06)
    for position, index in enumerate(indices):
        image, lesions = images.slice(int(index))
        axis = figure.add_subplot(tiles[position // 2, position % 2])
        axis.imshow(image, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        for k, lesion in enumerate(lesions):
            if lesion.any() and not lesion.all():
                axis.contour(lesion, levels=[0.5], colors=_colour(k), linewidths=0.8)
        axis.set(xticks=[], yticks=[], anchor=("E", "W")[position % 2])  # the two side by side
        axis.set_title(images.cases[int(index)].name, fontsize=6, pad=3)


def _colour(lesion_class: int) -> str:
    return CLASS_COLOURS[lesion_class % len(CLASS_COLOURS)]


def _usual_peak(histograms: np.ndarray, textures: Textures) -> float:
    """The height that 95 of 100 histograms stay below: a few peaked ones should not flatten the others."""
    blocks = histograms.reshape(-1, textures.bins)
    return float(np.quantile(blocks[blocks.any(axis=1)].max(axis=1), 0.95))


def _readable(value: float, window: Window, unit: str) -> str:
    return f"{value:.2f} of the range" if isinstance(window, str | dict) else f"{value:.0f} {unit}"
