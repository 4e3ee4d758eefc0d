"""The viewer pages of a painting run, from its manifest, and of masks that nothing was painted under."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from LeFusion.dataset.cases import Layout
from LeFusion.dataset.scans import exists
from LeFusion.errors import UserError
from LeFusion.viewer.files import Files, read_scan
from LeFusion.viewer.page import MOST_BYTES, Page, write_page


def layout_text(layout: Layout) -> str:
    """What of a layout is not the default, as JSON: the manifest's column `layout`."""
    default = asdict(Layout())
    return json.dumps({key: value for key, value in asdict(layout).items() if value != default[key]})


def text_layout(text: str, where: Path) -> Layout:
    """The inverse. Raises UserError, naming the file, for what is no layout."""
    try:
        return Layout(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: its layout is damaged ({error}); give --data-type") from None


def write_manifest_page(
    path: Path,
    rows: Iterable[Mapping[str, str]],
    layout: Layout,
    unit: str,
    sources: Mapping[str, Path] | None = None,
    most_bytes: int = MOST_BYTES,
) -> Page:
    """Writes the page of all images that a manifest lists, each beside the scan that it was painted into.

    rows: of the manifest, for each image `case`, `type`, `texture`, `source`, `image` and `label`. sources:
    of cases, where the manifest, written by an earlier version, does not say them. Images that are gone are
    passed over. Raises UserError where none is left.
    """
    versions: dict[tuple[str, str], list[Files]] = {}
    for row in rows:
        source = row.get("source") or (sources or {}).get(row["case"])
        image, label = Path(row["image"]), Path(row["label"])
        if source and all(map(exists, (image, label, Path(source)))):
            title_of = f"type {row['type']}" + (f", {row['texture']}" if row.get("texture") else "")
            versions.setdefault((row["case"], str(source)), []).append(Files(title_of, label, image))
    if not versions:
        raise UserError(
            f"{path}: of no image of the manifest are image, label and source there; paint again, or say "
            "with --source, --label and --painted where they are"
        )
    scans = [
        partial(read_scan, case, Path(source), files, layout, unit)
        for (case, source), files in versions.items()
    ]
    return write_page(path, scans, path.absolute().parent.parent.name, most_bytes)


def write_masks_page(
    path: Path,
    masks: Iterable[tuple[str, Path, str, Path]],
    layout: Layout,
    unit: str,
    most_bytes: int = MOST_BYTES,
) -> Page:
    """Writes the page of masks over their scans. masks: (name of the scan, its file, number of the mask, its
    file). Masks that are gone, or whose scan is, are passed over; UserError where none is left."""
    versions: dict[tuple[str, Path], list[Files]] = {}
    for name, source, number, label in masks:
        if exists(label) and exists(source):
            versions.setdefault((name, source), []).append(Files(f"mask {number}", label))
    if not versions:
        raise UserError(f"{path.parent}: no mask is there together with its scan; give --source and --label")
    scans = [partial(read_scan, *scan, files, layout, unit) for scan, files in versions.items()]
    return write_page(path, scans, path.absolute().parent.name, most_bytes)
