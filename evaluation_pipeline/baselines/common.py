"""What the baselines share: flags, the cases to paint, training lesions, and writing as LeFusion does."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt
from tqdm import tqdm

from evaluation_pipeline.cases.patients import patient_of
from evaluation_pipeline.cases.synthetic import MANIFEST, numbered_folders
from evaluation_pipeline.fidelity.data_types import add_data_flags, data_type_of, training_cases
from evaluation_pipeline.fidelity.lesions import read_pair
from evaluation_pipeline.fidelity.seeds import address_generator
from evaluation_pipeline.tables import write_csv
from LeFusion.data_types import DataType
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.cases import (
    Case,
    Layout,
    find_cases,
    locate_folders,
    output_mask_name,
    refuse_among_sources,
)
from LeFusion.dataset.scans import find_scans, write_label_like, write_volume_like
from LeFusion.dataset.volume import Volume
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import command_parser

COLUMNS = ("case", "type", "donor", "intensities_from", "image", "label")


@dataclass(frozen=True, eq=False)
class Scan:
    """An image with its labels, depth first. values: (D, H, W) in the image's units; labels: as read_pair
    gives them."""

    case: Case
    volume: Volume
    values: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]

    def lesion(self, layout: Layout) -> np.ndarray:
        """(D, H, W) bool."""
        return np.isin(self.labels, layout.lesion_labels)


@dataclass(frozen=True, eq=False)
class Painted:
    """What a baseline makes of a scan: new values and labels (D, H, W).

    donor: the case whose lesion it holds, "" for none, as evaluation_pipeline.synthetic reads it. Statistics
    of a case's intensities do not make it a donor; intensities_from names it.
    """

    values: np.ndarray
    labels: np.ndarray
    donor: str
    intensities_from: str


Painter = Callable[[Scan, list[Scan], DataType, np.random.Generator, float], Painted]


def parser(description: str) -> argparse.ArgumentParser:
    """The flags of a baseline."""
    described = command_parser(description + " Paths are relative to the folder that the command starts in.")
    add = described.add_argument
    add("--dataset_root_dir", required=True, help="the scans to paint into, with their masks")
    add("--target_img_path", required=True, help="for Image_1..types and manifest.csv")
    add("--target_label_path", required=True, help="for Mask_1..types")
    add("--lesions_from", required=True, help="real cases with lesions")
    add(
        "--test_txt_path",
        help="names of cases in --lesions_from that must not be used, nor other scans of their patients, one "
        "a line (default: test.txt there; without any, all cases are used)",
    )
    add("--types", type=int, default=3, help="images for each case (default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--blend_mm", type=float, default=1.0, help="width of the border that fades (default: %(default)s)")
    add_data_flags(described)
    return described


def run(arguments: argparse.Namespace, paint: Painter) -> None:
    """Paints every case `--types` times. What is drawn depends on (seed, case, type) alone.

    Neither scans nor lesions of a patient with a test case are used.
    Raises ValueError and FileNotFoundError for the user's mistakes; all cases are read and checked first.
    The manifest names an image's donor before the image is there, also in a run that is killed.
    """
    if arguments.types < 1 or arguments.blend_mm < 0:
        raise UserError("--types must be at least 1 and --blend_mm at least 0")
    data_type = data_type_of(arguments, arguments.dataset_root_dir)
    donor_type = data_type_of(arguments, arguments.lesions_from)
    if donor_type.name != data_type.name:
        raise UserError(
            f"{arguments.lesions_from} looks like {donor_type.name}, {arguments.dataset_root_dir} like "
            f"{data_type.name}; lesions must come from the same kind of images"
        )
    found = find_cases(arguments.dataset_root_dir, data_type.layout)
    donors, test = training_cases(arguments.lesions_from, donor_type.layout, arguments.test_txt_path)
    cases, donors = (_without_patients_of(test, part) for part in (found, donors))
    if not cases:
        raise UserError(f"{arguments.dataset_root_dir}: all {len(found)} scans are of test patients")
    if len(cases) < len(found):
        print(f"{len(found) - len(cases)} of {len(found)} scans left out: they are of test patients")
    targets = {f"--{key}": Path(getattr(arguments, key)) for key in ("target_img_path", "target_label_path")}
    read = (arguments.dataset_root_dir, data_type.layout), (arguments.lesions_from, donor_type.layout)
    refuse_among_sources(targets, [folder for pair in read for folder in locate_folders(*pair)])
    outputs = _plan(cases, arguments, data_type.layout)
    _check_targets(arguments, outputs)
    lesions = _read_scans(donors, donor_type, "reading lesions")
    lesions = [scan for scan in lesions if scan.lesion(donor_type.layout).any()]
    if not lesions:
        raise UserError(f"{arguments.lesions_from}: no training case holds a lesion")
    scans = _read_scans(cases, data_type, "checking scans")
    manifest, rows = Path(arguments.target_img_path) / MANIFEST, []
    with tqdm(total=len(outputs), unit="image", desc="painting") as progress:
        for scan in scans:
            made = []
            for kind in range(1, arguments.types + 1):
                generator = address_generator(arguments.seed, scan.case.name, kind)
                try:
                    painted = paint(scan, lesions, data_type, generator, arguments.blend_mm)
                except ValueError as error:
                    raise UserError(f"{scan.case.mask_path}: {error}") from error
                paths = outputs[scan.case.name, kind]
                paths[0].unlink(missing_ok=True)  # of an earlier run: the new row is not about it
                row = (scan.case.name, kind, painted.donor, painted.intensities_from, *map(str, paths))
                rows.append(row)
                made.append((painted, *paths))
            write_csv(manifest, pd.DataFrame(rows, columns=COLUMNS))
            for painted, image_path, label_path in made:
                _write_painted(scan, painted, data_type.layout, image_path, label_path)
                progress.update()
    print(
        f"wrote {len(rows)} images ({len(cases)} cases x {arguments.types} types, {len(lesions)} training "
        f"lesions) below {arguments.target_img_path}, labels below {arguments.target_label_path}, {manifest}"
    )


def read_scan(case: Case, data_type: DataType) -> Scan:
    """Raises what evaluation_pipeline.fidelity.lesions.read_pair raises."""
    volume, labels, _ = read_pair(case.image_path, case.mask_path, data_type)
    axes = Axes.of(volume, data_type.layout)
    values = np.ascontiguousarray(axes.to_dhw(volume.values)).astype(np.float64)
    return Scan(case, volume, values, labels, axes.spacing_mm(volume))


def _without_patients_of(test: list[Case], cases: list[Case]) -> list[Case]:
    """A_CVol_1 goes where A_Vol_1 is a test case: a training would refuse an image made from it."""
    patients = {patient_of(case.name) for case in test}
    return [case for case in cases if patient_of(case.name) not in patients]


def _write_painted(scan: Scan, painted: Painted, layout: Layout, image_path: Path, label_path: Path) -> None:
    inside = np.isin(painted.labels, layout.lesion_labels)
    axes = Axes.of(scan.volume, layout)
    labels, values, mask = (axes.to_stored(array) for array in (painted.labels, painted.values, inside))
    write_label_like(scan.volume, labels, label_path)
    write_volume_like(scan.volume, values, np.ascontiguousarray(mask), image_path)


def _read_scans(cases: list[Case], data_type: DataType, what: str) -> list[Scan]:
    with tqdm(cases, unit="case", desc=what) as progress:  # closed before an error is shown
        return [read_scan(case, data_type) for case in progress]


def centroid(mask: np.ndarray) -> np.ndarray:
    """(3,) whole voxels."""
    return np.rint(np.argwhere(mask).mean(axis=0)).astype(int)


def fade(mask: np.ndarray, spacing_mm: tuple[float, float, float], blend_mm: float) -> np.ndarray:
    """(D, H, W) share of the lesion: 0 outside the mask, rising to 1 at blend_mm inside it.

    Where slices lie farther apart than pixels, distances are taken in the plane.
    """
    if blend_mm == 0 or mask.all():
        return mask.astype(np.float64)
    step = min(spacing_mm)
    if spacing_mm[0] > 2 * max(spacing_mm[1:]):
        inside = np.stack([distance_transform_edt(part, sampling=spacing_mm[1:]) for part in mask])
    else:
        inside = distance_transform_edt(mask, sampling=spacing_mm)
    return np.minimum(inside / (blend_mm + step), 1)


def _plan(
    cases: list[Case], arguments: argparse.Namespace, layout: Layout
) -> dict[tuple[str, int], tuple[Path, Path]]:
    """Where each output goes; a ValueError for names that clash and for targets that are sources."""
    outputs, names = {}, {}
    for case in cases:
        label_name = output_mask_name(case.image_path.name, layout)
        if label_name in names:
            raise UserError(
                f"{case.name} and {names[label_name]} would both write the label {label_name}; rename one"
            )
        names[label_name] = case.name
        for kind in range(1, arguments.types + 1):
            image_path = Path(arguments.target_img_path) / f"Image_{kind}" / case.image_path.name
            label_path = Path(arguments.target_label_path) / f"Mask_{kind}" / label_name
            for target, source in ((image_path, case.image_path), (label_path, case.mask_path)):
                if target.exists() and target.samefile(source):
                    raise UserError(f"{target} is a source file; choose another target")
            outputs[case.name, kind] = image_path, label_path
    return outputs


def _check_targets(arguments: argparse.Namespace, outputs: dict[tuple[str, int], tuple[Path, Path]]) -> None:
    """ValueError when a target holds what this run does not write: it would be taken for a part of it."""
    expected = {path for paths in outputs.values() for path in paths}
    targets = (arguments.target_img_path, "Image_"), (arguments.target_label_path, "Mask_")
    for target, prefix in targets:
        for kind, folder in sorted(numbered_folders(Path(target), prefix).items()):
            if not 1 <= kind <= arguments.types:
                raise UserError(
                    f"{folder}: is of another run than one of --types {arguments.types}; remove it or choose "
                    "another target"
                )
            for path in (scan.path for scan in find_scans(folder)):
                if path not in expected:
                    raise UserError(f"{path}: is not of this run; remove it or choose another target")
