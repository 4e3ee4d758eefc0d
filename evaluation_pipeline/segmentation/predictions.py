"""Predicts the test cases with a trained segmenter, and remembers in predictions.json with which.

A prediction is used again only if that file says that it came from the same checkpoint, image and settings,
and it is still the file that was written then.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from evaluation_pipeline.cases.evaluation import EvaluationCase, LabelScheme, named, prediction_path
from evaluation_pipeline.segmentation.checkpoint import BEST_MODEL
from LeFusion.dataset.scans import read_volume, write_label_like
from LeFusion.dataset.storage import write_json
from LeFusion.errors import UserError
from LeFusion.runtime.hashing import sha256_of_file, sha256_of_scan

MANIFEST = "predictions.json"


def predict_cases(
    segmenter,
    cases: Sequence[EvaluationCase],
    folder: Path,
    checkpoint: Path,
    model_name: str,
    overlap: float = 0.5,
    mirror: bool = True,
) -> int:
    """Writes `<case>.nii.gz` in the image's geometry for every case; -> how many were predicted anew.

    segmenter: has `predict(image_path, overlap, mirror)` -> uint8 labels in the image's stored shape.
    Files of other origin with the name of a prediction are replaced. Started again after an interruption, it
    goes on.

    Raises ValueError when a prediction would overwrite an image or a label.
    """
    inputs = {path.resolve().parent for case in cases for path in (case.image, case.label)}
    if folder.resolve() in inputs:
        raise UserError(f"--output_pred_dir {folder}: holds the images or labels; give another folder")
    origin = {
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": fingerprint(checkpoint),
        "model_name": model_name,
        "val_overlap": overlap,
        "mirroring": mirror,
    }
    stored = read_manifest(folder) or {}
    same = all(stored.get(key) == value for key, value in origin.items() if key != "checkpoint")
    known = stored["cases"] if same else {}
    if stored and not same:
        print(f"{folder}: predictions of {stored.get('checkpoint')} or other settings are replaced")
    _write_manifest(folder, origin, known)
    anew = 0
    for case in tqdm(cases, unit="case", desc="predicting"):
        path = folder / f"{case.name}.nii.gz"
        image = sha256_of_scan(case.image)
        if path.is_file() and known.get(case.name) == {"image": image, "prediction": fingerprint(path)}:
            continue
        labels = segmenter.predict(case.image, overlap=overlap, mirror=mirror)
        write_label_like(read_volume(case.image), labels, path)
        known[case.name] = {"image": image, "prediction": fingerprint(path)}
        _write_manifest(folder, origin, known)
        anew += 1
    return anew


def check_segmenter(segmenter, scheme: LabelScheme, checkpoint: Path) -> None:
    """Raises ValueError when the segmenter does not know a lesion class that is judged."""
    unknown = [value for value in scheme.lesions.values() if value not in segmenter.labels.values()]
    if unknown:
        raise UserError(
            f"{checkpoint}: predicts the labels {segmenter.labels} but {unknown} are judged; give "
            "--lesion_labels that it knows"
        )


def check_origin(folder: Path, cases: Sequence[EvaluationCase]) -> None:
    """For predictions taken as they are: an interrupted or changed run of ours must not pass for a method.

    Raises ValueError when predictions.json lies there but does not know a case's file.
    """
    stored = read_manifest(folder)
    if stored is None:
        return
    foreign = [
        case.name
        for case in cases
        if stored["cases"].get(case.name, {}).get("prediction") != fingerprint(prediction_path(folder, case))
    ]
    if foreign:
        raise UserError(
            f"{folder}: {len(foreign)} predictions ({named(foreign)}) are not those that {MANIFEST} lists; "
            f"finish that run with --trained_model_path, or delete {MANIFEST} if they are of another method"
        )


def read_manifest(folder: Path) -> dict | None:
    """The content of predictions.json, None where there is none. Raises ValueError for a damaged one."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content["cases"], dict):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is damaged; delete it to predict all cases again") from None
    return content


def fingerprint(path: Path) -> str:
    """SHA-256 of a file; of a folder, of its best_model.pt or else of all files in it."""
    if path.is_dir():
        best = path / BEST_MODEL
        if best.is_file():
            return fingerprint(best)
        parts = [
            f"{p.relative_to(path)} {fingerprint(p)}" for p in sorted(path.rglob("[!.]*")) if p.is_file()
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return sha256_of_file(path)


def _write_manifest(folder: Path, origin: dict, cases: dict) -> None:
    write_json(folder / MANIFEST, {**origin, "cases": cases})
