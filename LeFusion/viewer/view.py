"""Writes one HTML file that shows lesions in their scans: before, after, masks, windows. It needs no server
and no network; open it in a browser.

    python LeFusion/viewer/view.py OUTPUT              the output folder of painting, of insert, or of masks
    python LeFusion/viewer/view.py --source scan.nii.gz --label mask.nii.gz [--painted painted.nii.gz]

Several --label and --painted, in the same order, are versions of one scan. Painting, insert and DiffMask
write such a page by themselves, unless viewer=false.
"""

import json
import webbrowser
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path

from LeFusion.data_types import DataType, load_data_type
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.scans import exists, stem
from LeFusion.errors import MissingFileError, UserError
from LeFusion.runtime.commandline import absolute_path, command_parser, run_with_flags
from LeFusion.runtime.tables import read_csv
from LeFusion.viewer.files import Files, read_scan
from LeFusion.viewer.manifest import text_layout, write_manifest_page, write_masks_page
from LeFusion.viewer.page import MOST_BYTES, Page, write_page

REPORT = "report.json"  # of each scan of insert
MASKS = "masks.csv"  # of a run that made masks
PLACES = ("manifest.csv", "Image/manifest.csv", "Painted/Image/manifest.csv", MASKS)  # below OUTPUT


def parser() -> ArgumentParser:
    parser = command_parser(__doc__)
    parser.add_argument("output", nargs="?", type=Path, help="folder of a run, or a manifest.csv")
    parser.add_argument("--source", type=Path, help="the scan before painting")
    parser.add_argument("--label", type=Path, action="append", default=[], help="where lesions are in it")
    parser.add_argument("--painted", type=Path, action="append", default=[], help="the scan with the lesions")
    parser.add_argument(
        "--data-type", help="how volumes are stored (a name or a YAML file); default: what the run had"
    )
    parser.add_argument("--html", type=Path, help="the file to write; default: viewer.html beside the images")
    parser.add_argument("--most-mb", type=float, default=MOST_BYTES / 1e6, help="size of the page, at most")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    return parser


def run(arguments: Namespace) -> Path:
    """Writes the page; returns its path."""
    given = [arguments.source, arguments.label, arguments.painted]
    if (arguments.output is None) == (arguments.source is None) or (arguments.output and any(given)):
        raise UserError("give either OUTPUT, the folder of a run, or --source and --label")
    if not 2 <= arguments.most_mb <= 1000:
        raise UserError(f"--most-mb={arguments.most_mb:g} must be from 2 to 1000")
    page = _of_run(arguments) if arguments.output else _of_files(arguments)
    print(f"wrote {page}")
    if arguments.open:
        webbrowser.open(page.path.as_uri())
    return page.path


def _of_run(arguments: Namespace) -> Page:
    output = absolute_path(arguments.output)
    if not output.exists():
        raise MissingFileError(f"{output}: no such folder; give the output folder of a painting run")
    places = [output] if output.is_file() else [output / place for place in PLACES]
    manifest = next((place for place in places if place.is_file()), None)
    if manifest is None:
        reports = [path for path in (output, *sorted(output.iterdir())) if (path / REPORT).is_file()]
        if reports:
            return _of_inserted(arguments, output, reports)
        raise MissingFileError(
            f"{output}: holds no manifest.csv of a painting run, no {MASKS} and no scans of insert; give the "
            "folder of the images, or --source and --label"
        )
    rows = [row for _, row in read_csv(manifest)[1]]
    if manifest.name == MASKS:
        return _of_masks(arguments, manifest, rows)
    if not rows or {"case", "type", "image", "label"} - set(rows[0]):
        raise UserError(f"{manifest}: is no manifest of a painting run; give the one beside the images")
    layout, unit = _layout(arguments, rows[-1].get("layout"), manifest), rows[-1].get("unit") or ""
    path = absolute_path(arguments.html or manifest.with_name("viewer.html"))
    return write_manifest_page(path, rows, layout, unit, most_bytes=_bytes(arguments))


def _of_masks(arguments: Namespace, table: Path, rows: Sequence[dict[str, str]]) -> Page:
    """Of masks that nothing was painted under."""
    if not rows or {"mask", "scan", "number"} - set(rows[0]):
        raise UserError(f"{table}: is no table of masks; give the output folder of a run that made masks")
    known = [row for row in rows if row.get("source")]
    if not known:
        raise UserError(f"{table}: an earlier version wrote it, without the scans; give --source and --label")
    layout, unit = _layout(arguments, known[-1]["layout"], table), known[-1]["unit"]
    files = table.parent / "Mask"
    masks = [
        (row["scan"], Path(row["source"]), row["number"], files / f"{row['mask']}.nii.gz") for row in known
    ]
    path = absolute_path(arguments.html or table.with_name("viewer.html"))
    return write_masks_page(path, masks, layout, unit, _bytes(arguments))


def _of_inserted(arguments: Namespace, output: Path, folders: Sequence[Path]) -> Page:
    """Of scans that insert wrote, each version in a folder of its own."""
    versions: dict[tuple, list[Files]] = {}
    for folder in folders:
        where = folder / REPORT
        try:
            report = json.loads(where.read_text())
            source, said = Path(report["source"]), report["settings"]
            layout, unit = _layout(arguments, json.dumps(said["layout"]), where), said["unit"] or ""
            title = f"version {report['version']}"
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{where}: is no report of insert ({error!r})") from None
        image = next((path for path in folder.iterdir() if path.name.split(".")[0] == "image"), None)
        if image is None or not exists(source):
            raise MissingFileError(f"{where}: its image, or its source {source}, is gone")
        files = Files(title, folder / "labels.nii.gz", image, numbered=True)
        versions.setdefault((source, layout, unit), []).append(files)
    scans = [
        partial(read_scan, stem(source.name), source, files, layout, unit)
        for (source, layout, unit), files in versions.items()
    ]
    path = absolute_path(arguments.html or output / "viewer.html")
    return write_page(path, scans, output.name, _bytes(arguments))


def _layout(arguments: Namespace, said: str | None, where: Path) -> Layout:
    """That of --data-type, else the one that the run said."""
    if arguments.data_type:
        return load_data_type(arguments.data_type).layout
    if not said:
        raise UserError(f"{where}: does not say how volumes are stored; give --data-type")
    return text_layout(said, where)


def _of_files(arguments: Namespace) -> Page:
    if not arguments.label or len(arguments.painted) > len(arguments.label):
        raise UserError("give a --label for each --painted; a label without one is shown in the source")
    kind = load_data_type(arguments.data_type or "chest_ct")
    source = absolute_path(arguments.source)
    name = stem(source.name)
    versions = [
        Files(stem((painted or label).name), absolute_path(label), painted and absolute_path(painted))
        for label, painted in zip_longest(arguments.label, arguments.painted)
    ]
    beside = absolute_path((arguments.painted or arguments.label)[0])
    path = absolute_path(arguments.html or beside.with_name(f"{stem(beside.name)}_viewer.html"))
    read = partial(read_scan, name, source, versions, kind.layout, _unit(kind))
    return write_page(path, [read], name, _bytes(arguments))


def _unit(kind: DataType) -> str:
    return kind.unit if kind.fixed_window else ""


def _bytes(arguments: Namespace) -> int:
    return int(arguments.most_mb * 1e6)


def main() -> None:
    run_with_flags(parser(), run)


if __name__ == "__main__":
    main()
