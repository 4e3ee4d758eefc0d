"""A sheet of real and synthetic lesions in shuffled order, for readers who say which are which.

    python reader_sheet.py --real_dir ../data/LIDC/Pathological --synthetic_dir out --output sheet.png
    python reader_sheet.py --key sheet_key.csv --painted 2 5 6 9    # how many of these answers are right

Writes the picture (each lesion in three planes and, for CT, two windows) and, beside it, the key; look at the
key last.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest

from evaluation_pipeline.cases.synthetic import find_synthetic
from evaluation_pipeline.fidelity.data_types import add_data_flags, data_type_of
from evaluation_pipeline.fidelity.lesions import Lesion, read_lesion
from evaluation_pipeline.fidelity.seeds import address_generator
from LeFusion.data_types import DataType
from LeFusion.dataset.cases import Case, find_cases
from LeFusion.dataset.loading import load_case
from LeFusion.dataset.storage import atomic_file
from LeFusion.errors import MissingFileError, UserError
from LeFusion.runtime.commandline import command_parser, run_with_flags
from LeFusion.textures.surroundings import look_around

CT_WINDOWS = ((-1000.0, 400.0), (-160.0, 240.0))  # lung, mediastinum
SHOWN_MM = 32.0  # the side of a panel, with the lesion in its middle
STEP_MM = 0.25  # of the picture's pixels
COLUMNS = 2  # lesions beside each other
KEY = ("number", "lesion", "case", "type")


def run(arguments: argparse.Namespace) -> Path | None:
    """Draws a sheet and its key, or counts right answers."""
    if arguments.key:
        return _count(Path(arguments.key), arguments.painted)
    for flag in ("real_dir", "synthetic_dir"):
        if getattr(arguments, flag) is None:
            raise UserError(f"--{flag} is missing; a new sheet needs it (or give --key and --painted)")
    data_type = data_type_of(arguments, arguments.real_dir)
    generator = address_generator(arguments.seed, "reader sheet")
    real = [(c.image_path, c.mask_path, c.name, 0) for c in find_cases(arguments.real_dir, data_type.layout)]
    synthetic = [
        (found.image, found.label, found.name, found.kind)
        for found in find_synthetic([Path(arguments.synthetic_dir)], data_type.layout)
    ]
    if arguments.like_scans:
        real = _in_like_scans(real, synthetic, data_type, arguments.like_scans)
    half = arguments.lesions // 2
    drawn: list[tuple] = []
    for folder, files, wanted in (
        (arguments.synthetic_dir, synthetic, half),
        (arguments.real_dir, real, arguments.lesions - half),
    ):
        shown, others = {case for _, _, case, _ in drawn}, []
        for i in generator.permutation(len(files)):
            if files[i][2] not in shown:  # a place that is seen twice gives itself away
                shown.add(files[i][2])
                others.append(files[i])
        if not 1 <= wanted <= len(others):
            raise UserError(
                f"--lesions {arguments.lesions}: needs {wanted} lesions of {folder} in different places, "
                f"which has {len(others)}" + (" that are not painted on the sheet" if drawn else "")
            )
        drawn += others[:wanted]
    shuffled = [drawn[i] for i in generator.permutation(len(drawn))]
    strips = []
    for image, mask, case, kind in shuffled:
        lesion, _, _ = read_lesion(image, mask, data_type, case, kind)
        if lesion is None:
            raise UserError(f"{mask}: has no lesion label {list(data_type.layout.lesion_labels)}")
        strips.append(_strip(lesion, data_type))
    output = Path(arguments.output)
    key = output.with_name(f"{output.stem}_key.csv")
    _save(output, strips)
    with atomic_file(key) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(KEY)
        for number, (_, _, case, kind) in enumerate(shuffled, start=1):
            writer.writerow([number, "painted" if kind else "real", case, kind or ""])
    print(f"wrote {output} ({half} painted of {len(shuffled)} lesions) and its key {key}")
    return output


def _in_like_scans(real: list[tuple], synthetic: list[tuple], data_type: DataType, count: int) -> list[tuple]:
    """So many of the real lesions, in their order: those whose scans are the most like the synthetic ones'.

    By the sum of differences from the medians in the logarithms of the noise and of its roughness along each
    axis.
    """
    looks = []
    for files in (real, synthetic):
        found = []
        for image, mask, case, _ in files:
            loaded = load_case(Case(case, image, mask), data_type.layout, data_type.window)
            around = look_around(loaded, loaded.all_lesions)
            found.append(
                np.full(4, np.nan)
                if around is None
                else np.log(np.where(np.array(around.grain) > 0, around.grain, np.nan))
            )
        looks.append(np.array(found))
    away = np.abs(looks[0] - np.nanmedian(looks[1], axis=0)).sum(axis=1)
    known = int(np.isfinite(away).sum())
    if not count <= known:
        raise UserError(f"--like_scans {count}: the noise of {known} of the real lesions' scans can be told")
    return [real[i] for i in sorted(np.argsort(away, kind="stable")[:count])]


def _strip(lesion: Lesion, data_type: DataType) -> np.ndarray:
    """(side, panels * side) in [0, 1]: the lesion's middle, axial, coronal and sagittal, in each window."""
    windows = (
        CT_WINDOWS
        if data_type.modality == "CT"
        else ((float(lesion.image.min()), float(lesion.image.max())),)
    )
    centre = np.argwhere(lesion.mask).mean(axis=0)
    offsets = (np.arange(round(SHOWN_MM / STEP_MM)) + 0.5) * STEP_MM - SHOWN_MM / 2
    nearest = [
        np.clip(np.rint(middle + offsets / mm).astype(int), 0, length - 1)
        for middle, mm, length in zip(centre, lesion.spacing_mm, lesion.image.shape, strict=True)
    ]
    panels = []
    for low, high in windows:
        for across in range(3):
            index = [nearest[axis] for axis in range(3) if axis != across]
            plane = np.take(lesion.image, int(np.rint(centre[across])), axis=across)[np.ix_(*index)]
            upright = plane if across == 0 else plane[::-1]  # slices run from the feet to the head
            panels.append(np.pad(((upright - low) / (high - low)).clip(0, 1), 2))
    return np.hstack(panels)


def _save(path: Path, strips: list[np.ndarray]) -> None:
    rows = -(-len(strips) // COLUMNS)
    figure = Figure(figsize=(7.0 * COLUMNS, 1.25 * rows), layout="constrained", dpi=110)
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for number, axis in enumerate(axes.T.flat):
        axis.axis("off")
        if number < len(strips):
            axis.imshow(strips[number], cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="equal")
            axis.text(
                -0.01, 0.5, str(number + 1), transform=axis.transAxes, ha="right", va="center", fontsize=11
            )
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _count(key: Path, painted: list[int] | None) -> None:
    """Prints how many lesions were told rightly."""
    if painted is None:
        raise UserError("--key needs --painted, the numbers of the lesions that look painted")
    if not key.is_file():
        raise MissingFileError(f"{key}: no such key; it is written beside the sheet")
    with key.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != KEY:
            raise UserError(f"{key}: is no key of a sheet; its columns must be {', '.join(KEY)}")
        truth = {int(row["number"]): row["lesion"] == "painted" for row in reader}
    unknown = sorted(set(painted) - set(truth))
    if unknown:
        raise UserError(f"--painted {unknown[0]}: the sheet has the numbers 1 to {max(truth)}")
    right = sum((number in painted) == is_painted for number, is_painted in truth.items())
    interval = binomtest(right, len(truth)).proportion_ci(method="wilson")
    print(
        f"{right} of {len(truth)} right: {right / len(truth):.0%} "
        f"[{interval.low:.0%}, {interval.high:.0%}]; guessing gives 50 %"
    )


def parser() -> argparse.ArgumentParser:
    described = command_parser(
        __doc__.split("\n")[0] + " Paths are relative to the folder that the command starts in."
    )
    add = described.add_argument
    add("--real_dir", help="real images with lesions and their masks")
    add("--synthetic_dir", help="folder of Image/Image_1.. and Mask/Mask_1.. (or imagesTr, labelsTr)")
    add("--lesions", type=int, default=16, help="on the sheet, half of them painted (default: %(default)s)")
    add("--like_scans", type=int, help="draw real lesions of so many scans, as sharp and noisy as the others")
    add("--output", default="reader_sheet.png", help="(default: %(default)s); the key lies beside it")
    add("--seed", type=int, default=0, help="of the choice and the order (default: %(default)s)")
    add("--key", help="of an earlier sheet: count right answers")
    add("--painted", type=int, nargs="*", help="the numbers that look painted, for --key")
    add_data_flags(described)
    return described


def main(argv: list[str] | None = None) -> None:
    run_with_flags(parser(), run, argv)


if __name__ == "__main__":
    main()
