"""The cases that are judged: image, real label and prediction, found by name and checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation_pipeline.cases.patients import case_name
from LeFusion.dataset.scans import ENDINGS, find_scans, read_volume
from LeFusion.dataset.volume import Volume, check_same_grid
from LeFusion.errors import MissingFileError, UserError

ANATOMY = ("background", "cavity", "myocardium", "ignore")  # labels that are no lesion, by their names
MYOCARDIUM = "myocardium"
IGNORE = "ignore"  # nnU-Net's name of a label for what nobody has labelled: not learnt, not judged
OWN = "lefusion"  # of dataset.json: what nnU-Net has no word for
NAMES_SHOWN = 5


@dataclass(frozen=True)
class EvaluationCase:
    """name: without ending and `_0000`. image, label: their files."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class LabelScheme:
    """lesions: name -> value of each lesion class. allowed: all values that may occur, None = any.

    wall: values that make up the wall of the left ventricle, empty where the data has no `myocardium`.
    ignore: the value of voxels that are not judged, None where there are none such.
    """

    lesions: dict[str, int]
    allowed: frozenset[int] | None
    wall: tuple[int, ...] = ()
    ignore: int | None = None

    def judged(self, prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both with background where the reference says that nobody knows."""
        if self.ignore is None:
            return prediction, reference
        unknown = reference == self.ignore
        return np.where(unknown, 0, prediction), np.where(unknown, 0, reference)


def find_cases(test_data_dir: Path, gt_dir: Path) -> list[EvaluationCase]:
    """Pairs `<case>_0000.nii.gz` or `<case>.nii.gz` in test_data_dir with `<case>.nii.gz` in gt_dir, by name.

    Raises FileNotFoundError for a missing folder or one without images, ValueError for images without label,
    labels without image, a second channel, or two files of one case.
    """
    images, labels = _by_case(test_data_dir, "--test_data_dir"), _by_case(gt_dir, "--gt_dir")
    channels = [name for name in images if name[-5:-4] == "_" and name[-4:].isdigit() and name[:-5] in images]
    if channels:
        raise UserError(
            f"{test_data_dir}: {named(channels)} looks like a second channel; images must have one channel"
        )
    without_label = sorted(images.keys() - labels.keys())
    if without_label:
        raise UserError(
            f"{test_data_dir}: {len(without_label)} of {len(images)} images have no label in {gt_dir} "
            f"({named(without_label)}); add <case>.nii.gz or take the images out"
        )
    without_image = sorted(labels.keys() - images.keys())
    if without_image:
        raise UserError(
            f"{gt_dir}: {len(without_image)} of {len(labels)} labels have no image in {test_data_dir} "
            f"({named(without_image)}); a mean must be over all cases: add images or take the labels out"
        )
    return [EvaluationCase(name, images[name], labels[name]) for name in sorted(images)]


def prediction_path(folder: Path, case: EvaluationCase) -> Path:
    """Where a case's prediction lies: `<case>.nii.gz`, or `<case>.nii` where only that exists."""
    packed, plain = folder / f"{case.name}.nii.gz", folder / f"{case.name}.nii"
    return plain if plain.is_file() and not packed.is_file() else packed


def find_predictions(folder: Path, cases: Sequence[EvaluationCase]) -> None:
    """Checks that every case has a prediction.

    Raises FileNotFoundError that names the cases without: a mean over what is there would flatter.
    """
    if not folder.is_dir():
        raise MissingFileError(f"--output_pred_dir {folder}: no such folder")
    missing = [case.name for case in cases if not prediction_path(folder, case).is_file()]
    if missing:
        raise MissingFileError(
            f"{folder}: {len(missing)} of {len(cases)} predictions are missing ({named(missing)}); nothing "
            "was judged. Name them <case>.nii.gz, or give --trained_model_path to predict"
        )


def label_scheme(
    test_data_dir: Path, gt_dir: Path, lesion_labels: Sequence[int] | None = None
) -> LabelScheme:
    """The lesion classes: as given, else from `dataset.json` in or above the folders, else label 1 alone.

    Of dataset.json those are lesions that its `lefusion` lists, else all that are not called background,
    cavity, myocardium or ignore.
    Raises ValueError for a damaged dataset.json, and for lesion labels that it does not know.
    """
    places = (gt_dir, gt_dir.parent, test_data_dir.parent)
    path = next((folder / "dataset.json" for folder in places if (folder / "dataset.json").is_file()), None)
    if lesion_labels is not None and (len(set(lesion_labels)) < len(lesion_labels) or min(lesion_labels) < 1):
        raise UserError(f"--lesion_labels {_list(lesion_labels)} must be different numbers above 0")
    if path is None:
        values = list(lesion_labels or [1])
        names = {"lesion": 1} if values == [1] else {f"label {value}": value for value in values}
        return LabelScheme(names, None if lesion_labels else frozenset({0, 1}))
    known, all_lesions = _stored_labels(path)
    if lesion_labels is None:
        lesions = all_lesions
    else:
        lesions = {name: value for name, value in known.items() if value in lesion_labels}
    unknown = set(lesion_labels or []) - set(lesions.values())
    if unknown or not lesions:
        problem = f"--lesion_labels {_list(unknown)} unknown" if unknown else "no lesion among the labels"
        raise UserError(f"{path}: {problem}; it has {known}")
    wall = [value for name, value in known.items() if name.lower() == MYOCARDIUM]
    # all lesions of the file, also those that are not judged: each is a part of the wall
    wall += [value for value in all_lesions.values() if wall]
    return LabelScheme(lesions, frozenset({0, *known.values()}), tuple(wall), ignored_of(known))


def read_label_map(path: Path, scheme: LabelScheme) -> tuple[Volume, np.ndarray]:
    """(file, (H, W, D) int16 labels in stored axes).

    Raises ValueError for values that are not whole or not of the scheme, besides what read_volume raises.
    """
    volume = read_volume(path)
    values = volume.found_labels
    allowed = frozenset(range(256)) if scheme.allowed is None else scheme.allowed
    bad = [float(value) for value in values if value not in allowed]
    if bad:
        expected = "whole numbers from 0 to 255" if scheme.allowed is None else _list(scheme.allowed)
        hint = "" if len(scheme.lesions) > 1 or scheme.wall else "; name the lesions with --lesion_labels"
        raise UserError(f"{path}: has label values {_list(bad[:5])} but expected {expected}{hint}")
    return volume, volume.labels.astype(np.int16)


def check_references(cases: Sequence[EvaluationCase], scheme: LabelScheme) -> None:
    """Reads all images and labels before anything is predicted.

    Raises ValueError for another geometry, unexpected values, and lesion labels that no file holds.
    """
    seen: set[int] = set()
    for case in cases:
        volume, labels = read_label_map(case.label, scheme)
        check_same_grid(volume, read_volume(case.image))
        seen.update(np.unique(labels).tolist())
    absent = set(scheme.lesions.values()) - seen
    if scheme.allowed is None and absent:
        raise UserError(
            f"{cases[0].label.parent}: no label map holds lesion label {_list(absent)}; there are "
            f"{_list(seen)}"
        )


def spacing_mm(volume: Volume) -> tuple[float, float, float]:
    """Voxel size along the stored axes. Rounded to 1e-5 mm: an oblique 1 mm affine gives 1.0000000002, which
    would put neighbours beyond a tolerance of 1 mm."""
    sizes = np.linalg.norm(volume.affine[:3, :3], axis=0).round(5)
    if not (sizes > 0).all():
        raise UserError(f"{volume.path}: has voxels of {sizes.tolist()} mm; set its affine")
    return tuple(sizes.tolist())


def named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _by_case(folder: Path, option: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise MissingFileError(f"{option} {folder}: no such folder")
    found: dict[str, Path] = {}
    for scan in find_scans(folder):
        name = case_name(scan.name)
        if name in found:
            raise UserError(f"{folder}: {found[name].name} and {scan.path.name} are of one case; remove one")
        found[name] = scan.path
    if not found:
        raise MissingFileError(f"{option} {folder}: holds no image ({', '.join(ENDINGS)} or DICOM)")
    return found


def lesions_of(labels: Mapping[str, int], own: Mapping) -> dict[str, int]:
    """Of the labels of dataset.json those of lesions: as its `lefusion` says, else by their names."""
    chosen = own.get("lesion_labels")
    if chosen:
        return {name: value for name, value in labels.items() if value in chosen}
    return {name: value for name, value in labels.items() if name.lower() not in ANATOMY}


def ignored_of(labels: Mapping[str, int]) -> int | None:
    """The value of nnU-Net's label `ignore`, None where there is none."""
    return next((value for name, value in labels.items() if name.lower() == IGNORE), None)


def _stored_labels(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """name -> value of dataset.json's labels, without the background, and of those that are lesions."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = {str(name): int(value) for name, value in content["labels"].items() if int(value)}
        return known, lesions_of(known, content.get(OWN, {}))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: has no labels of the form name: number; write it with prepare_real_dataset.py"
        ) from None


def _list(values) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))
