"""The pipeline's shell script from end to end, on tiny networks and the bundled demo set."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = PROJECT / "evaluation_pipeline/run_monai_pipeline.sh"
DEMO = PROJECT / "data/demo/LIDC/Normal"


@pytest.fixture
def pipeline(tmp_path, save_network):
    """-> pipeline(**knobs): the finished process. The demo set stands in for real and for normal cases."""
    (tmp_path / "test.txt").write_text("DEMO-0004_CVol_1\n")
    weights = save_network()

    def call(**knobs: str) -> subprocess.CompletedProcess:
        given = {
            "PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            "WORK_DIR": str(tmp_path / "work"),
            "REAL_IMAGE_DIR": str(DEMO / "Image"),
            "REAL_MASK_DIR": str(DEMO / "Mask"),
            "SOURCE_DIR": str(DEMO / "Image"),
            "TEST_TXT": str(tmp_path / "test.txt"),
            "MODEL_NAME": "UNet",
            "MAX_EPOCHS": "1",
            "BATCH_SIZE": "1",
            "TYPES": "1",
            "METHOD_NAME": "tiny",
            "GENERATION_OPTIONS": f"model_path={weights} sampler=dpmpp num_steps=1 device=cpu",
            "TRAINING_OPTIONS": "--model_size small --steps_per_epoch 1 --num_folds 3 --device cpu",
            "EVALUATION_OPTIONS": "--no_mirroring --device cpu",
        }
        command = ["bash", str(SCRIPT)]
        return subprocess.run(command, env=os.environ | given | knobs, capture_output=True, text=True)

    return call


@pytest.mark.slow
def test_the_pipeline_ends_in_a_table_of_results_and_repeats_nothing(pipeline, tmp_path):
    first = pipeline()
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr
    work = tmp_path / "work"
    assert len(list((work / "datasets/tiny/imagesTr/Image_1").glob("*.nii.gz"))) == 3  # not of the test case
    with open(work / "evaluation_results.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["Experiment Name"], row["Model"]) == ("tiny_fold0_seed0", "UNet") and 0 <= float(
        row["Dice"]
    ) <= 1
    logs = work / "logs/tiny/UNet_fold0_seed0"
    assert {path.stem for path in logs.iterdir()} == {"prepare", "generate", "train", "evaluate"}
    assert "2 real and 2 synthetic training cases (1 left out" in (logs / "train.log").read_text()

    model = work / "models/tiny/UNet_fold0_seed0/best_model.pt"
    written = model.stat().st_mtime_ns
    second = pipeline()
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr
    assert "0 files written now" in second.stdout and "0 to paint, 3 kept" in second.stdout
    assert "already trained for 1 epochs" in second.stdout and model.stat().st_mtime_ns == written
    assert "0 of 1 cases predicted" in second.stdout


def test_a_failing_step_ends_the_pipeline(pipeline, tmp_path):
    (tmp_path / "test.txt").write_text("DEMO-0009_CVol_1\n")
    failed = pipeline()
    assert failed.returncode == 1
    assert "lists DEMO-0009_CVol_1" in failed.stdout and "== generate" not in failed.stdout
