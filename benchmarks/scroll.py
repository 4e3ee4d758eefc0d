"""Scrolls through a chest CT before and after `insert_lesions.sh`, side by side: an animated GIF.

    ./insert_lesions.sh ct.nii.gz out
    python benchmarks/scroll.py ct.nii.gz out/ct insertion.gif

Left the source, right the same axial slices with the lesions, from feet to head. Circles show where
lesions were inserted. Only the part of the scan around the lesions is shown.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from LeFusion.data_types import load_data_type
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.storage import atomic_file
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import command_parser, run_with_flags
from LeFusion.runtime.pictures import lesion_slice

WINDOW_HU = (-1000, 400)
GREYS = 32  # fewer make a smaller file
PIXELS_PER_MM = 3
MARGIN_MM = (6, 30, 30)  # shown around the lesions, along slices, rows and columns
ROOM_MM = 6  # between a lesion and its circle
COLOUR = (255, 176, 0)
GAP = 6  # pixels between the source and the painted slice
MILLISECONDS = 180  # for each slice


def frames(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray, spacing_mm: Sequence[float]
) -> list[Image.Image]:
    """A picture for each slice, from that with the most of the lesions on, then from the lowest one.

    Args:
        before, after: (D, H, W) in HU.
        labels: (D, H, W) integers, 0 or the number of a lesion; at least one lesion.
        spacing_mm: of a voxel along D, H, W.
    """
    lesions = [box for box in ndimage.find_objects(labels) if box]
    (around,) = ndimage.find_objects((labels > 0).astype(np.uint8))
    margins = [round(margin / mm) for margin, mm in zip(MARGIN_MM, spacing_mm, strict=True)]
    levels, *shown = (
        slice(max(side.start - margin, 0), min(side.stop + margin, n))
        for side, margin, n in zip(around, margins, labels.shape, strict=True)
    )
    largest = lesion_slice(labels[levels] > 0)
    pictures = []
    for level in np.roll(range(levels.start, levels.stop), -largest):
        panels = [_panel(volume[level][tuple(shown)], spacing_mm) for volume in (before, after)]
        width, height = panels[0].size
        picture = Image.new("RGB", (2 * width + GAP, height), "white")
        draw = ImageDraw.Draw(picture)
        for left, panel in zip((0, width + GAP), panels, strict=True):
            picture.paste(panel, (left, 0))
            for box in lesions:
                if box[0].start <= level < box[0].stop:
                    (y, x), radius = _circle(box, shown, spacing_mm)
                    draw.circle((left + x, y), radius, outline=COLOUR)
        pictures.append(picture)
    return pictures


def _panel(slice_hw: np.ndarray, spacing_mm: Sequence[float]) -> Image.Image:
    low, high = WINDOW_HU
    grey = np.clip((slice_hw - low) / (high - low), 0, 1) * 255
    height, width = (round(n * mm * PIXELS_PER_MM) for n, mm in zip(grey.shape, spacing_mm[1:], strict=True))
    return Image.fromarray(grey.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)


def _circle(
    lesion: Sequence[slice], shown: Sequence[slice], spacing_mm: Sequence[float]
) -> tuple[tuple[float, float], float]:
    """(row, column) and radius around a lesion, in pixels of a panel."""
    sides = list(zip(lesion[1:], shown, spacing_mm[1:], strict=True))
    centre = [((side.start + side.stop) / 2 - cut.start) * mm * PIXELS_PER_MM for side, cut, mm in sides]
    widest_mm = max((side.stop - side.start) * mm for side, _, mm in sides)
    return (centre[0], centre[1]), (widest_mm / 2 + ROOM_MM) * PIXELS_PER_MM


def save_gif(path: Path, pictures: Sequence[Image.Image]) -> None:
    """In GREYS grey values and COLOUR, without dithering, as noise makes large files."""
    greys = np.linspace(0, 255, GREYS).round().astype(int).tolist()
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for grey in greys for value in (grey,) * 3] + list(COLOUR))
    first, *others = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    with atomic_file(path) as temporary:
        first.save(
            temporary,
            "GIF",
            save_all=True,
            append_images=others,
            duration=MILLISECONDS,
            loop=0,
            optimize=True,
        )


def run(arguments: argparse.Namespace) -> None:
    painted = sorted(arguments.painted.glob("image.*"))
    if not painted:
        raise UserError(
            f"{arguments.painted}: holds no image.nii.gz; give a scan's folder of insert_lesions.sh"
        )
    source, after = read_volume(arguments.source), read_volume(painted[0])
    labels = read_volume(arguments.painted / "labels.nii.gz")
    if source.raw.shape != after.raw.shape:
        raise UserError(
            f"{painted[0]}: has another shape than {arguments.source}; give the scan that it was made of"
        )
    axes = Axes.of(source, load_data_type("chest_ct").layout)
    volumes = [axes.to_dhw(values) for values in (source.values, after.values, labels.raw)]
    pictures = frames(*volumes, axes.spacing_mm(source))
    save_gif(arguments.out, pictures)
    print(f"wrote {arguments.out}: {len(pictures)} slices, {arguments.out.stat().st_size / 1e6:.2f} MB")


def parser() -> argparse.ArgumentParser:
    described = command_parser(__doc__)
    described.add_argument("source", type=Path, help="the chest CT")
    described.add_argument("painted", type=Path, help="the folder that insert_lesions.sh made for it")
    described.add_argument("out", type=Path, help="the picture, .gif")
    return described


if __name__ == "__main__":
    run_with_flags(parser(), run)
