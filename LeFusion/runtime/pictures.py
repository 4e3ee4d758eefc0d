"""Pictures that commands leave behind: contact sheets of slices and loss curves. PNG, written in one move."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from LeFusion.dataset.storage import atomic_file

PLANES = ("axial", "coronal", "sagittal")  # across the axes of a volume, depth first
OUTLINES = ("#ffb000", "#35c2ff", "#ff5db0", "#8bdc4b")  # of the lesion classes


def lesion_slice(lesions: np.ndarray) -> int:
    """The slice of (D, H, W) bool in which the lesion is largest."""
    return int(lesions.sum(axis=(1, 2)).argmax())


def around(mask_hw: np.ndarray, least: int) -> tuple[slice, slice]:
    """Rows and columns of a square around a mask, of `least` voxels or a margin of 8 around the mask."""
    lines = [np.flatnonzero(mask_hw.any(axis=axis)) for axis in (1, 0)]
    side = max(least, *(int(line[-1] - line[0]) + 17 for line in lines))
    parts = []
    for line, length in zip(lines, mask_hw.shape, strict=True):
        first = min(max((int(line[0] + line[-1]) + 1 - side) // 2, 0), max(length - side, 0))
        parts.append(slice(first, min(first + side, length)))
    return tuple(parts)


def save_contact_sheet(
    path: Path,
    rows: Sequence[Sequence[np.ndarray]],
    outlines: Sequence[Sequence[np.ndarray | None]],
    column_titles: Sequence[str],
    row_titles: Sequence[str],
    window: tuple[float, float],
    captions: Sequence[Sequence[str]] | None = None,
) -> None:
    """A grid of grey images (H, W) with the outline of a mask (H, W) drawn where one is given: bool, or
    labels of several classes (0: none), each in a colour of its own.

    window: (darkest, brightest) in the images' units. captions: what stands below each image; None: nothing.
    """
    columns = len(column_titles)
    height = 1.75 if captions is None else 1.9
    figure = Figure(figsize=(1.7 * columns, height * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for i, (images, masks) in enumerate(zip(rows, outlines, strict=True)):
        for axis, image, mask in zip(axes[i], images, masks, strict=True):
            axis.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], interpolation="nearest")
            for number, label in enumerate(() if mask is None else np.unique(mask[mask > 0])):
                part = mask == label
                if not part.all():
                    colour = OUTLINES[number % len(OUTLINES)]
                    axis.contour(part, levels=[0.5], colors=colour, linewidths=0.9)
        for axis, caption in zip(axes[i], captions[i] if captions else (), strict=captions is not None):
            axis.set_xlabel(caption, fontsize=7)
        axes[i][0].set_ylabel(row_titles[i], fontsize=6)
    for axis, title in zip(axes[0], column_titles, strict=True):
        axis.set_title(title, fontsize=8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    _save(figure, path, dpi=110)


def save_loss_curve(loss_csv: Path, path: Path) -> None:
    """Loss against step: each step's (faint) and a running mean."""
    with open(loss_csv, newline="") as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    steps, losses = np.array(rows).T
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    axis.plot(steps, losses, color="0.8", linewidth=0.6)
    width = max(1, len(losses) // 50)
    axis.plot(steps[width - 1 :], np.convolve(losses, np.ones(width) / width, mode="valid"), color="C0")
    axis.set(xlabel="step", ylabel="lesion loss", yscale="log")
    axis.grid(alpha=0.3)
    _save(figure, path, dpi=110)


def _save(figure: Figure, path: Path, dpi: int) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)
