"""The same masks painted under several settings, side by side: a contact sheet.

    python benchmarks/settings_sheet.py data/LIDC/Normal sheet.png texture_score=1 texture_score=5 \\
        calcification=3,realistic_textures=configs/lesion_textures/lidc_nodules.json

A column is a setting of Painter.load, or several with commas between; the first of them is its head. A row is
a lung region: those shown have masks from the largest to the median.
"""

import argparse
from pathlib import Path

import yaml

from LeFusion.data_types import load_data_type
from LeFusion.dataset.cases import find_cases
from LeFusion.dataset.scans import read_volume
from LeFusion.errors import UserError
from LeFusion.painter import Painter
from LeFusion.runtime.commandline import command_parser, run_with_flags
from LeFusion.runtime.pictures import around, lesion_slice, save_contact_sheet

SIDE = 48  # voxels of a slice shown around the mask, at least


def settings_of(words: str) -> dict[str, object]:
    """texture_score=5,region=whole -> {"texture_score": 5, "region": "whole"}."""
    pairs = [word.partition("=") for word in words.split(",")]
    if not all(key and equals for key, equals, _ in pairs):
        raise UserError(f"{words}: write key=value, or several with commas between")
    return {key: yaml.safe_load(value) for key, _, value in pairs}


def run(arguments: argparse.Namespace) -> None:
    lidc = load_data_type("lidc")  # its arrays are stored depth first
    cases = find_cases(arguments.data, lidc.layout)
    masks = {case: read_volume(case.mask_path).raw for case in cases}
    by_size = sorted(cases, key=lambda case: (-int((masks[case] == 1).sum()), case.name))
    shown = by_size[:: max(len(cases) // 2 // arguments.rows, 1)][: arguments.rows]
    columns = [[read_volume(case.image_path).raw for case in shown]]
    for words in arguments.settings:
        painter = Painter.load("lidc", **settings_of(words))
        columns.append(
            [painter.paint(image, masks[case], None) for image, case in zip(columns[0], shown, strict=True)]
        )
    rows, outlines = [], []
    for case, volumes in zip(shown, zip(*columns, strict=True), strict=True):
        lesion = masks[case] == 1
        level = lesion_slice(lesion)
        part = around(lesion[level], SIDE)
        rows.append([volume[level][part] for volume in volumes])
        outlines.append([lesion[level][part], *[None] * len(arguments.settings)])
    titles = ["mask", *(words.split(",")[0] for words in arguments.settings)]
    save_contact_sheet(
        arguments.out, rows, outlines, titles, [case.name for case in shown], lidc.fixed_window
    )
    print(f"wrote {arguments.out}")


def parser() -> argparse.ArgumentParser:
    described = command_parser(__doc__)
    described.add_argument("data", type=Path, help="a folder of lung regions, Image/ and Mask/")
    described.add_argument("out", type=Path, help="the picture, .png")
    described.add_argument("settings", nargs="+", help="key=value[,key=value ...]")
    described.add_argument("--rows", type=int, default=3, help="regions (default: %(default)s)")
    return described


if __name__ == "__main__":
    run_with_flags(parser(), run)
