"""What the report compares: real lesions, synthetic ones, and what the synthetic ones were painted into."""

import argparse
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from evaluation_pipeline.cases.patients import patient_of
from evaluation_pipeline.cases.synthetic import MANIFEST, find_synthetic
from evaluation_pipeline.fidelity.common_grid import Spacing, on_grid
from evaluation_pipeline.fidelity.data_types import data_type_of, training_cases
from evaluation_pipeline.fidelity.inserted import InsertedScan, find_inserted, read_inserted
from evaluation_pipeline.fidelity.lesions import Background, Lesion, images_by_name, read_real, read_synthetic
from evaluation_pipeline.fidelity.texture import edit_margin_mm, names_requests, read_manifest
from LeFusion.data_types import DataType
from LeFusion.dataset.cases import Layout
from LeFusion.errors import UserError


@dataclass(frozen=True, eq=False)
class Compared:
    """Lesions, and what is known of them.

    Attributes:
        real: all of real_dir.
        training: real ones that the method has seen.
        held_out: real ones of patients that it has not seen.
        synthetic: those to be judged.
        backgrounds: what changed outside of what was painted; None where the sources are not given.
        requested: the histograms that were asked for, see read_manifest; None where nobody says.
        without_lesion: names of cases without the lesion labels.
    """

    real: list[Lesion]
    training: list[Lesion]
    held_out: list[Lesion]
    synthetic: list[Lesion]
    backgrounds: list[Background] | None
    requested: dict | None
    without_lesion: list[str]

    def on_grid(self, spacing_mm: Spacing | None) -> "Compared":
        """The same on voxels of one size, see on_grid; None: as they are."""
        if spacing_mm is None:
            return self
        carry = cache(partial(on_grid, spacing_mm=spacing_mm))  # training lesions are among the real ones
        parts = ("real", "training", "held_out", "synthetic")
        return replace(self, **{part: [carry(lesion) for lesion in getattr(self, part)] for part in parts})


def read_compared(arguments: argparse.Namespace, data_type: DataType) -> Compared:
    """Reads what the flags of evaluate_synthesis.py name. Raises UserError for what cannot be compared."""
    layout = data_type.layout
    inserted = _inserted(arguments, data_type)
    files = [] if inserted else _synthetic_files(arguments, layout)
    manifest = arguments.manifest or (None if inserted else _manifest_beside(files[0][2]))
    requested = read_manifest(manifest) if manifest else None
    sources = images_by_name(arguments.source_dir, layout.image_folder) if arguments.source_dir else None

    without_lesion: list[str] = []
    training, held_out, real = _read_real(arguments, data_type, without_lesion)
    if inserted:
        synthetic, backgrounds = read_inserted(inserted, data_type, sources)
    else:
        painted = sorted({*layout.lesion_labels, *data_type.painted_labels})
        margin_mm = edit_margin_mm(manifest) if manifest else 0.0
        synthetic, backgrounds = read_synthetic(files, data_type, painted, sources, without_lesion, margin_mm)
    for what, lesions, folder in (
        ("real", real, arguments.real_dir),
        ("synthetic", synthetic, arguments.synthetic_dir),
    ):
        if not lesions:
            raise UserError(f"{folder}: no {what} image holds the lesion labels {list(layout.lesion_labels)}")
    changed = None if sources is None else backgrounds
    return Compared(real, training, held_out, synthetic, changed, requested, without_lesion)


def _inserted(arguments: argparse.Namespace, data_type: DataType) -> list[InsertedScan]:
    """Whole scans, where --synthetic_dir holds these."""
    found = find_inserted(arguments.synthetic_dir)
    if found and data_type.fixed_window is None:
        raise UserError(f"{arguments.synthetic_dir}: holds whole scans, which are judged for CT only")
    for flag in ("types", "manifest"):
        if found and getattr(arguments, flag) is not None:
            raise UserError(f"--{flag}: whole scans of lefusion insert have none; leave it out")
    return found


def _synthetic_files(arguments: argparse.Namespace, layout: Layout) -> list[tuple[str, int, Path, Path]]:
    """(case, type, image, mask) of what find_synthetic finds, of the first --types types."""
    found = find_synthetic([Path(arguments.synthetic_dir)], layout)
    if arguments.types is not None:
        most = max(image.kind for image in found)
        if not 1 <= arguments.types <= most:
            raise UserError(f"--types {arguments.types}: {arguments.synthetic_dir} has the types 1 to {most}")
        found = [image for image in found if image.kind <= arguments.types]
    return [(image.name, image.kind, image.image, image.label) for image in found]


def _manifest_beside(image: Path) -> Path | None:
    """The manifest beside Image_1, ..., if it says what was requested; those of the baselines do not."""
    path = image.parent.parent / MANIFEST
    return path if path.is_file() and names_requests(path) else None


def _read_real(
    arguments: argparse.Namespace, data_type: DataType, without_lesion: list[str]
) -> tuple[list[Lesion], list[Lesion], list[Lesion]]:
    """(training, held-out, all of real_dir) lesions. Held out is what is not of a training patient."""
    train, test = training_cases(arguments.real_dir, data_type.layout, arguments.test_txt_path)
    lesions = read_real([*train, *test], data_type, without_lesion)
    if arguments.training_dir:
        of_training = data_type_of(arguments, arguments.training_dir)
        train, _ = training_cases(arguments.training_dir, of_training.layout, arguments.test_txt_path)
        training = read_real(train, of_training, without_lesion)
    else:
        names = {case.name for case in train}
        training = [lesion for lesion in lesions if lesion.case in names]
    seen = {patient_of(case.name) for case in train}
    return training, [lesion for lesion in lesions if lesion.patient not in seen], lesions
