"""A small data set, and the command that judges predictions of it."""

import json
from pathlib import Path

import numpy as np
import pytest
from judged import CASES, block, write

from evaluation_pipeline import run_segmentation_evaluation
from evaluation_pipeline.run_segmentation_evaluation import main
from evaluation_pipeline.segmentation import segmenter

HEART = {"background": 0, "cavity": 1, "myocardium": 2, "infarct": 3, "no-reflow": 4}


@pytest.fixture
def data(tmp_path) -> Path:
    """imagesTs with the labels themselves as images, labelsTs, and predictions shifted by one voxel."""
    for number, case in enumerate(CASES):
        labels = block(2 + number)
        write(tmp_path / "imagesTs" / f"{case}_0000.nii.gz", labels.astype(np.int16))
        write(tmp_path / "labelsTs" / f"{case}.nii.gz", labels)
        write(tmp_path / "predictions" / f"{case}.nii.gz", block(3 + number))
    return tmp_path


@pytest.fixture
def heart(tmp_path) -> Path:
    for number, case in enumerate(("Case_P001", "Case_P002")):
        labels = block(1, 8, 2)
        labels[2 + number : 5 + number, 3:7, 2:6] = 3
        labels[5 + number, 3:7, 2:6] = 4
        write(tmp_path / "imagesTs" / f"{case}_0000.nii.gz", labels.astype(np.float32))
        write(tmp_path / "labelsTs" / f"{case}.nii.gz", labels)
        labels[labels == 4] = 3
        write(tmp_path / "predictions" / f"{case}.nii.gz", labels)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": HEART}))
    return tmp_path


@pytest.fixture
def evaluate(capsys, monkeypatch):
    """-> evaluate(folder, *options, stub=None, picture=False): (exit code, stdout, stderr).

    With a stub, checkpoint.pt is its checkpoint. The picture takes most of the time.
    """

    def call(folder: Path, *options: str, stub=None, picture=False) -> tuple[int, str, str]:
        if not picture:
            monkeypatch.setattr(run_segmentation_evaluation, "save_picture", lambda *given: None)
        arguments = {
            "--test_data_dir": folder / "imagesTs",
            "--gt_dir": folder / "labelsTs",
            "--trained_model_path": "none" if stub is None else folder / "checkpoint.pt",
            "--model_name": "UNet",
            "--output_pred_dir": folder / "predictions",
            "--results_csv": folder / "results.csv",
            "--experiment_name": "P",
        }
        monkeypatch.setattr(segmenter, "load_segmenter", lambda path, name, device="auto": stub)
        if stub is not None and not (folder / "checkpoint.pt").exists():
            (folder / "checkpoint.pt").write_bytes(b"weights")
        given = [str(part) for pair in arguments.items() for part in pair]
        capsys.readouterr()
        code = 0
        try:
            main([*given, *map(str, options)])  # the last of two values of an option counts
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    return call
