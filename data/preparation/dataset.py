"""Writes a data set of regions: those of lesions, and normal ones with the masks of others.

What is known of a finished scan is kept in <out>/progress, so that the same command goes on.
"""

import argparse
import csv
import hashlib
import io
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
from phantoms.nodules import SCORES, draw_test_patients
from phantoms.volumes import write_bytes, write_volume
from tqdm import tqdm

from LeFusion.errors import UserError
from preparation.command import add_outline_and_split, finish
from preparation.lungs import Lungs, place_masks
from preparation.opened import REGION, Opened

SIGNS = (-1.0, -1.0, 1.0)  # of the affines of the LIDC regions; they give spacing, not patient position
WORLD = ("x_ras_mm", "y_ras_mm", "z_ras_mm")
PLACE = ("lung_z", "lung_y", "lung_x", "depth_mm")
SIZE = ("name", "patient", "series", "mask_voxels", "diameter_mm")
COLUMNS = {
    "Pathological": (*SIZE, "given_diameter_mm", *WORLD, "mean_hu", "readers", *SCORES, *PLACE),
    "Normal": (*SIZE, "mask_from", *WORLD, "mean_hu", *PLACE),
}


@dataclass(frozen=True)
class Source:
    """A scan. uid: its series. path: as `read_volume` takes it.

    lesions: (opened scan, number of the first) -> (what follows <patient>_Vol_, lesion) each; see lesions.py.
    marked: opened scan -> indices (N, 3) of all places that no normal region may hold.
    """

    patient: str
    uid: str
    path: Path
    lesions: Callable
    marked: Callable


def make_parser(script: str, text: str) -> argparse.ArgumentParser:
    """With the options that all data sets of regions have in common. text: the docstring of the script."""
    parser = argparse.ArgumentParser(
        prog=script,
        description=text.splitlines()[0],
        epilog="The same command goes on after an interruption.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for Pathological and Normal")
    parser.add_argument(
        "--normal", type=int, default=3, help="normal regions of each scan (default: %(default)s)"
    )
    parser.add_argument(
        "--spacing", default="1", help="mm of a voxel, or native: the scan's own (default: %(default)s)"
    )
    add_outline_and_split(parser, test_share=0.2, seed_of="the draws of patients and places")
    parser.add_argument("--limit", type=int, help="take only so many scans")
    return parser


def run(
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
    sources_of: Callable[[argparse.Namespace], list[Source]],
) -> int:
    """Read the command line and do what it asks for; returns the exit status."""
    options = parser.parse_args(arguments)
    return finish(parser.prog, lambda: _prepare(options, sources_of))


def _check(options: argparse.Namespace) -> None:
    if options.spacing != "native":
        try:
            fine = 0 < float(options.spacing) < np.inf
        except ValueError:
            fine = False
        if not fine:
            raise UserError(f"--spacing {options.spacing}: must be native, or mm of a voxel, such as 1")
    for name in ("normal", "seed"):
        if getattr(options, name) < 0:
            raise UserError(f"--{name} {getattr(options, name)}: must not be negative")
    if not 0 <= options.test_share < 1:
        raise UserError(f"--test-share {options.test_share}: must be at least 0 and below 1")
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit {options.limit}: must be at least 1")


def _prepare(options: argparse.Namespace, sources_of: Callable) -> None:
    _check(options)
    sources = sorted(sources_of(options), key=lambda source: (source.patient, source.uid))
    for source in sources:
        if Path(source.patient).name != source.patient or source.patient.startswith("."):
            raise UserError(f"{source.path}: its patient {source.patient!r} cannot be the name of a folder")
    for one, other in pairwise(sorted(sources, key=lambda source: source.uid)):
        if one.uid == other.uid:
            raise UserError(f"{other.path}: is the same series as {one.path}; keep one")
    patients = list(dict.fromkeys(source.patient for source in sources))
    test = draw_test_patients(patients, options.test_share, options.seed, options.test_txt)
    sources = sources[: options.limit]
    _keep_options(options)
    counts, rows, usable, next_number = Counter(), [], [], defaultdict(lambda: 1)
    for source in tqdm(sources, unit="scan", desc="lesions", disable=None):
        first = next_number[source.patient]
        key = [first]
        record = _record(options.out, "Pathological", source, key)
        if record is None:
            try:
                scan = Opened(source.path, options.spacing)
            except ValueError as error:
                print(f"skipped: {error}", file=sys.stderr)
                counts["skipped"] += 1
                continue
            record = _pathological(source, scan, first, options.out)
            _write_record(options.out, "Pathological", source, {"key": key, **record})
        usable.append(source)
        next_number[source.patient] = record["next"]
        counts.update(record["left_out"])
        rows += record["rows"]
    _write_table(options.out, "Pathological", rows)
    names = [row["name"] for row in rows if row["patient"] in test]
    _write_text(options.out / "Pathological" / "test.txt", "".join(f"{name}\n" for name in names))
    reasons = "".join(f", {counts[why]} {why}" for why in ("too large", "without a voxel in the scan"))
    print(
        f"{options.out / 'Pathological'}: {len(rows)} regions, {len(names)} of them in test.txt; "
        f"{counts['skipped']} scans skipped{reasons}"
    )
    if options.normal:
        _all_normal(options, usable, [row for row in rows if row["patient"] not in test])


def _all_normal(options: argparse.Namespace, sources: list[Source], donors: list[dict]) -> None:
    donors = [donor for donor in donors if donor["depth_mm"] != ""]
    made_of = hashlib.sha256(json.dumps(donors, sort_keys=True).encode()).hexdigest()
    rows, next_number, without = [], defaultdict(lambda: 1), 0
    for source in tqdm(sources, unit="scan", desc="normal", disable=None):
        first = next_number[source.patient]
        key = [first, made_of]
        record = _record(options.out, "Normal", source, key)
        if record is None:
            others = [donor for donor in donors if donor["patient"] != source.patient]
            record = {"rows": _normal(source, first, others, options)}
            _write_record(options.out, "Normal", source, {"key": key, **record})
        next_number[source.patient] += len(record["rows"])
        without += not record["rows"]
        rows += record["rows"]
    _write_table(options.out, "Normal", rows)
    print(f"{options.out / 'Normal'}: {len(rows)} regions; none in {without} of {len(sources)} scans")


# --- regions of one scan --------------------------------------------------------


def _pathological(source: Source, scan: Opened, first: int, out: Path) -> dict:
    """Write the regions of a scan's lesions; returns their rows, the next free number, and what is left
    out."""
    lesions = [(suffix, lesion, lesion.points()) for suffix, lesion in source.lesions(scan, first)]
    lungs = _lungs(scan, [points for _, _, points in lesions if len(points)])
    rows, left_out = [], Counter()
    for suffix, lesion, points in lesions:
        if not len(points):
            left_out["without a voxel in the scan"] += 1
            continue
        start = scan.region_start(points)
        if start is None:
            left_out["too large"] += 1
            continue
        name = f"{source.patient}_Vol_{suffix}"
        mask = np.zeros(REGION, bool)
        mask[tuple((points - start).T)] = True
        place = dict.fromkeys(PLACE, "") if lungs is None else lungs.place_of(points)
        row = _write(out / "Pathological", name, source, scan, start, mask, scan.region(start))
        rows.append({**row, **lesion.row, **place})
    numbers = [int(suffix.partition("-")[0]) for suffix, _, _ in lesions]
    return {"rows": rows, "next": max(numbers, default=first - 1) + 1, "left_out": dict(left_out)}


def _normal(source: Source, first: int, donors: list[dict], options: argparse.Namespace) -> list[dict]:
    """Write the normal regions of a scan; returns their rows. donors: rows of nodules of other patients."""
    scan = Opened(source.path, options.spacing)
    lesions = [lesion.points() for _, lesion in source.lesions(scan, 1)]
    lungs = _lungs(scan, [points for points in lesions if len(points)])
    if lungs is None or not donors:
        return []
    marked = scan.to_grid(np.reshape(source.marked(scan), (-1, 3)))

    def points_of(donor: dict) -> np.ndarray:
        return _points_of_mask(_path(options.out / "Pathological", "Mask", donor), scan)

    rng = np.random.default_rng([options.seed, *source.uid.encode()])
    placed = place_masks(lungs, marked, donors, points_of, options.normal, rng)
    rows = []
    for number, region in enumerate(placed, start=first):
        name = f"{source.patient}_CVol_{number}"
        row = _write(options.out / "Normal", name, source, scan, region.start, region.mask, region.image)
        points = np.argwhere(region.mask) + region.start
        rows.append({**row, "mask_from": region.donor["name"], **lungs.place_of(points)})
    return rows


def _lungs(scan: Opened, lesions: list[np.ndarray]) -> Lungs | None:
    try:
        return Lungs(scan, lesions)
    except UserError:
        return None


def _points_of_mask(path: Path, scan: Opened) -> np.ndarray:
    """The grid points (N, 3), from (0, 0, 0) on, in a mask that may have other voxels."""
    file = nib.load(path)
    mask = np.asarray(file.dataobj) > 0
    ratio = scan.step_mm / np.abs(np.diag(file.affine)[:3])
    places = [
        np.rint(np.arange(int(n / r) + 1) * r).astype(int) for n, r in zip(mask.shape, ratio, strict=True)
    ]
    places = [np.minimum(place, n - 1) for place, n in zip(places, mask.shape, strict=True)]
    return np.argwhere(mask[np.ix_(*places)])


def _write(
    folder: Path,
    name: str,
    source: Source,
    scan: Opened,
    start: np.ndarray,
    mask: np.ndarray,
    image: np.ndarray,
) -> dict:
    """Write image and mask of a region; returns the part of their row that all have."""
    row = {"name": name, "patient": source.patient, "series": source.uid}
    affine = np.diag([*scan.step_mm * SIGNS, 1.0])
    write_volume(_path(folder, "Mask", row), mask.astype(np.uint8), affine)
    write_volume(_path(folder, "Image", row), image, affine)
    voxels = int(mask.sum())
    middle = (np.argwhere(mask).mean(axis=0) + start) * scan.step_mm / scan.spacing_mm
    volume_mm3 = voxels * float(np.prod(scan.step_mm))
    return {
        **row,
        "mask_voxels": voxels,
        "diameter_mm": round((6 * volume_mm3 / np.pi) ** (1 / 3), 2),
        **dict(zip(WORLD, np.round(scan.world(middle), 2).tolist(), strict=True)),
        "mean_hu": round(float(image[mask].mean()), 1),
    }


def _path(folder: Path, part: str, row: dict) -> Path:
    name = row["name"] if part == "Image" else row["name"].replace("Vol_", "Mask_")
    return folder / part / row["patient"] / f"{name}.nii.gz"


# --- progress and tables ----------------------------------------------------------


def _keep_options(options: argparse.Namespace) -> None:
    """Note what the data set is made with. Raises UserError where it was begun with other options."""
    path = options.out / "progress" / "options.json"
    given = {name: str(value) for name, value in vars(options).items() if name not in ("out", "limit")}
    if not path.exists():
        _write_text(path, json.dumps(given, indent=1) + "\n")
        return
    before = _read_json(path)
    other = sorted(name for name in given if before.get(name) != given[name])
    if other:
        was = ", ".join(f"--{name.replace('_', '-')} {before.get(name)}" for name in other)
        raise UserError(f"{options.out} was made with other options ({was}); choose another --out")


def _record_path(out: Path, kind: str, source: Source) -> Path:
    return out / "progress" / kind / f"{source.uid}.json"


def _record(out: Path, kind: str, source: Source, key: list) -> dict | None:
    """What is known of a finished scan; None for one that is not, or was made of something else: its regions
    are removed."""
    path = _record_path(out, kind, source)
    if not path.exists():
        return None
    record = _read_json(path)
    if record["key"] == key:
        return record
    path.unlink()
    for row in record["rows"]:
        for part in ("Image", "Mask"):
            _path(out / kind, part, row).unlink(missing_ok=True)
    return None


def _write_record(out: Path, kind: str, source: Source, record: dict) -> None:
    _write_text(_record_path(out, kind, source), json.dumps(record) + "\n")


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path}: is damaged; remove it") from None


def _write_table(out: Path, kind: str, rows: list[dict]) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS[kind], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write_text(out / kind / "cases.csv", table.getvalue())


def _write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())
