"""What a scan with lesions leaves on disk: image, labels, table, preview, and the report that it is whole."""

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from LeFusion.dataset.dicom_seg import write_segmentation
from LeFusion.dataset.dicom_series import Series
from LeFusion.dataset.scans import NIFTI_ENDINGS, ending_of, write_label_like, write_volume
from LeFusion.dataset.storage import write_json
from LeFusion.insertion.result import InsertedScan, Lesion
from LeFusion.runtime.hashing import sha256_of_file
from LeFusion.runtime.pictures import PLANES, around, lesion_slice, save_contact_sheet
from LeFusion.runtime.tables import write_csv

REPORT = "report.json"
SIDE_MM = 48  # of the part of a plane that is shown, at least
PREVIEW_HU = (-1000, 400)


def write_output(
    folder: Path, inserted: InsertedScan, save_edit_mask: bool, preview_lesions: int, version: str
) -> list[Path]:
    """Writes all but the report; each file appears whole or not at all. Returns the paths.

    The image has the format in which it was read; a DICOM series is a folder, and its lesions are in
    labels.dcm as well where highdicom is installed. version: of LeFusion, which that file says.
    """
    source = inserted.image
    ending = "" if isinstance(source.header, Series) else ending_of(source.path) or NIFTI_ENDINGS[0]
    image, labels = folder / f"image{ending}", folder / "labels.nii.gz"
    earlier = _listed(folder)
    (folder / REPORT).unlink(missing_ok=True)
    write_volume(replace(source, path=image))
    write_label_like(source, inserted.labels, labels)
    written = [*(sorted(image.iterdir()) if image.is_dir() else [image]), labels]
    if isinstance(source.header, Series) and find_spec("highdicom"):
        written.append(folder / "labels.dcm")
        names = [f"{lesion.instance} {lesion.texture}" for lesion in inserted.lesions]
        write_segmentation(image, inserted.labels, names, written[-1], version)
    if save_edit_mask:
        written.append(folder / "edit.nii.gz")
        write_label_like(source, inserted.edit.astype(np.uint8), written[-1])
    written.append(folder / "lesions.csv")
    write_table(written[-1], inserted.lesions, inserted.unit)
    written.append(folder / "preview.png")
    window = PREVIEW_HU if inserted.unit == "HU" else None
    save_preview(written[-1], inserted.lesions[:preview_lesions], inserted.spacing_mm, window)
    for name in earlier.keys() - {path.relative_to(folder).as_posix() for path in written}:
        (folder / name).unlink(missing_ok=True)  # of a run with other settings
    return written


def write_table(path: Path, lesions: Sequence[Lesion], unit: str) -> None:
    """lesions.csv, which `read_sites` reads where the unit is HU."""
    rows = [table_row(lesion, f"_{unit.lower()}" if unit else "") for lesion in lesions]
    write_csv(path, rows)


def table_row(lesion: Lesion, unit: str) -> dict[str, str | int]:
    """unit: what the names of columns of intensities end in."""
    x, y, z = lesion.world
    numbers = {
        "x": x,
        "y": y,
        "z": z,
        "x_lps": -x,
        "y_lps": -y,
        "z_lps": z,
        "diameter_mm": lesion.diameter_mm,
        "asked_diameter_mm": lesion.asked_mm,
        "volume_ml": lesion.volume_ml,
        f"mean{unit}": lesion.mean,
        f"asked_difference{unit}": lesion.asked_difference,
        f"obtained_difference{unit}": lesion.obtained_difference,
        f"asked_difference_network{unit}": lesion.asked_difference_network,
        f"obtained_difference_network{unit}": lesion.obtained_difference_network,
    }
    shown = {
        key: "" if value is None else f"{value:.{4 if 'ml' in key else 2}f}" for key, value in numbers.items()
    }
    return {
        "instance": lesion.instance,
        **shown,
        "texture": lesion.texture,
        "scores": lesion.scores,
        "seed": lesion.seed,
        "note": lesion.note,
    }


def save_preview(
    path: Path,
    lesions: Sequence[Lesion],
    spacing_mm: Sequence[float],
    window: tuple[float, float] | None = PREVIEW_HU,
) -> None:
    """Each lesion in three planes, before, with the outline of its label, and after.

    window: (darkest, brightest); None: of each lesion what is there before.
    """
    rows, outlines, names = [], [], []
    for lesion in lesions:
        images, masks = [], []
        low, high = window or np.percentile(lesion.before, (1, 99))
        for volume in (lesion.before, lesion.after):
            for axis in range(3):
                level = lesion_slice(np.moveaxis(lesion.label, axis, 0))
                plane, label = (np.moveaxis(array, axis, 0)[level] for array in (volume, lesion.label))
                mm = np.delete(spacing_mm, axis)
                plane, label = _square(plane, mm), _square(label, mm)
                if axis:  # head up
                    plane, label = plane[::-1], label[::-1]
                part = around(label, round(SIDE_MM / min(mm)))
                images.append((plane[part] - low) / max(high - low, 1e-9))
                masks.append(label[part] if volume is lesion.before else None)
        rows.append(images)
        outlines.append(masks)
        names.append(f"{lesion.instance}: {lesion.diameter_mm:.1f} mm\n{lesion.texture}")
    titles = [f"{plane}, {when}" for when in ("before", "after") for plane in PLANES]
    save_contact_sheet(path, rows, outlines, titles, names, (0, 1))


def _square(plane: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """A plane with each voxel repeated so that it has square pixels of the smaller spacing."""
    lines = [
        np.minimum(
            ((np.arange(round(n * mm / min(spacing_mm))) + 0.5) * min(spacing_mm) / mm).astype(int), n - 1
        )
        for n, mm in zip(plane.shape, spacing_mm, strict=True)
    ]
    return plane[np.ix_(*lines)]


def write_report(folder: Path, facts: dict, files: Sequence[Path]) -> None:
    """report.json: these facts, and the sha256 of each file, by which a later run knows it as whole."""
    listed = {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in files}
    write_json(folder / REPORT, facts | {"files": listed})


def state(folder: Path, made_from: str) -> str:
    """ "whole": made from just that, all files as they were written. "stale": made from something else.
    "damaged": a file is lost or not as it was written. "none": not made, or not to its end."""
    files = _listed(folder)
    if not files:
        return "none"
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    there = {name: folder / name for name in files if (folder / name).is_file()}
    if files != {name: sha256_of_file(path) for name, path in there.items()}:
        return "damaged"
    return "whole" if report.get("made_from") == made_from else "stale"


def _listed(folder: Path) -> dict[str, str]:
    """File -> sha256, as the report says; none where there is no report."""
    try:
        return dict(json.loads((folder / REPORT).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
