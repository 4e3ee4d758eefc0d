"""Read the lesions that `lefusion insert` put into whole scans, each by itself, on the scan's own voxels."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation_pipeline.cases.patients import case_name, patient_of
from evaluation_pipeline.fidelity.lesions import Background, Lesion, around, background_difference
from LeFusion.data_types import DataType, load_data_type
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.scans import find_scans, read_volume
from LeFusion.dataset.volume import check_same_grid
from LeFusion.errors import MissingFileError, UserError

WHOLE = "chest_ct"  # whose axes whole scans have
REPORT, LABELS, EDIT = "report.json", "labels.nii.gz", "edit.nii.gz"


@dataclass(frozen=True)
class InsertedScan:
    """name: of the folder. source: the name of the scan that lesions were inserted into. edit: a mask of what
    was painted, None where it was not saved."""

    name: str
    source: str
    image: Path
    labels: Path
    edit: Path | None


def find_inserted(folder: str | Path) -> list[InsertedScan]:
    """The outputs of `lefusion insert` in a folder, or that which it is, by name; none is an empty list.

    Raises UserError for an output that is damaged.
    """
    root, found = Path(folder), []
    for path in sorted([root, *root.iterdir()]) if root.is_dir() else []:
        if not (path / REPORT).is_file() or not (path / LABELS).is_file():
            continue
        try:
            source = json.loads((path / REPORT).read_text(encoding="utf-8"))["source"]
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path / REPORT}: is no report of lefusion insert ({error!r})") from None
        images = [scan.path for scan in find_scans(path) if scan.path.name.startswith("image")]
        if not images:
            raise MissingFileError(f"{path}: has labels and no image; insert again")
        edit = path / EDIT if (path / EDIT).is_file() else None
        found.append(InsertedScan(path.name, case_name(source), images[0], path / LABELS, edit))
    return found


def read_inserted(
    scans: Sequence[InsertedScan], data_type: DataType, sources: dict[str, Path] | None
) -> tuple[list[Lesion], list[Background]]:
    """Every lesion, and what changed outside of what was painted, where sources are given and that is known.

    A lesion's case is <folder>/<number>, its patient the scan's. data_type: of the real lesions, with a fixed
    window. sources: scans by name. Raises UserError for labels on another grid and missing sources.
    """
    layout = load_data_type(WHOLE).layout
    lesions, backgrounds = [], []
    with tqdm(scans, unit="scan", desc="reading inserted lesions") as progress:
        for scan in progress:
            volume, labels = read_volume(scan.image), read_volume(scan.labels)
            check_same_grid(volume, labels)
            axes = Axes.of(volume, layout)
            numbers, spacing_mm = axes.to_dhw(labels.labels), axes.spacing_mm(volume)
            stored = volume.values  # once: of scaled volumes it is computed
            values = axes.to_dhw(stored)
            for number in range(1, int(numbers.max()) + 1):
                mask = numbers == number
                if not mask.any():
                    continue
                part = around(mask, spacing_mm)
                image = values[part].astype(np.float32).clip(*data_type.fixed_window)
                label = mask[part].astype(np.uint8) * data_type.layout.lesion_labels[0]
                origin = tuple(cut.start for cut in part)
                case, patient = f"{scan.name}/{number}", patient_of(scan.source)
                crops = image, np.ascontiguousarray(mask[part]), label
                lesions.append(Lesion(case, patient, 1, scan.image, *crops, spacing_mm, 0.0, origin))
            if sources is not None and scan.edit is not None:
                if scan.source not in sources:
                    raise UserError(f"{scan.image}: --source_dir has no scan {scan.source}; check the folder")
                source, edit = read_volume(sources[scan.source]), read_volume(scan.edit)
                check_same_grid(volume, source)
                difference = stored, source.values, edit.labels > 0
                backgrounds.append(background_difference(scan.name, 1, *difference))
    return lesions, backgrounds
