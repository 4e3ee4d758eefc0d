"""The pipeline's shell script from end to end, on tiny networks and the bundled demo set."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = PROJECT / "evaluation_pipeline/run_monai_pipeline.sh"
DEMO = PROJECT / "data/demo/LIDC/Normal"
RUN = "tiny's_1_P+N_prime_UNet"


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
            "METHOD_NAME": "tiny's-1",  # P+N' is a good name, and Hydra has a meaning for the apostrophe
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
    assert (
        len(list((work / "datasets/tiny's_1_N_prime/imagesTr/Image_1").glob("*.nii.gz"))) == 3
    )  # not of the test case
    with open(work / "evaluation_results.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["Experiment Name"], row["Model"]) == ("tiny's_1_P+N_prime", "UNet")
    assert 0 <= float(row["Dice"]) <= 100 and row["Dice Unit"] == "percent"
    logs = work / "logs" / RUN
    steps = {"check", "prepare", "hold_out", "generate", "train", "evaluate"}
    assert {path.stem for path in logs.iterdir()} == steps
    assert "2 real and 2 synthetic training cases (1 left out" in (logs / "train.log").read_text()

    model = work / "trained_models" / RUN / "best_model.pt"
    written = model.stat().st_mtime_ns
    assert {path.name for path in (work / "datasets").iterdir()} == {"LIDC_real", "tiny's_1_N_prime"}
    assert (work / "predictions" / RUN / "DEMO-0004_CVol_1.nii.gz").exists()
    second = pipeline()
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr
    assert "0 files written now" in second.stdout and "0 to paint, 3 kept" in second.stdout
    assert "already trained for 1 epochs" in second.stdout and model.stat().st_mtime_ns == written
    assert "0 of 1 cases predicted" in second.stdout


@pytest.mark.slow
def test_wrong_knobs_stop_the_pipeline_before_its_first_step(pipeline, tmp_path):
    failed = pipeline(TYPES="5", MAX_EPOCHS="10")
    assert failed.returncode == 1
    assert "TYPES=5: data_type=lidc has 3 textures" in failed.stdout and "== prepare" not in failed.stdout
    assert not (tmp_path / "work/datasets").exists() and not (tmp_path / "work/trained_models").exists()


@pytest.mark.slow
def test_normal_regions_of_test_patients_are_not_painted_into(pipeline, tmp_path):
    """DEMO-0004 is in the test set by another name than that of its normal region."""
    for part, infix in (("Image", "_CVol_"), ("Mask", "_CMask_")):
        for source in (DEMO / part).iterdir():
            target = tmp_path / "real" / part / source.name.replace(infix, infix.replace("C", ""))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    (tmp_path / "test.txt").write_text("DEMO-0004_Vol_1\n")
    real = {f"REAL_{part.upper()}_DIR": str(tmp_path / "real" / part) for part in ("Image", "Mask")}
    finished = pipeline(**real)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr
    assert "1 of 4 scans" in finished.stdout and "2 real and 2 synthetic training cases" in finished.stdout
    painted = (tmp_path / "work/datasets/tiny's_1_N_prime/imagesTr/Image_1").glob("*.nii.gz")
    assert sorted(path.name[:9] for path in painted) == ["DEMO-0001", "DEMO-0002", "DEMO-0003"]


def test_a_failing_step_ends_the_pipeline(pipeline, tmp_path):
    (tmp_path / "test.txt").write_text("DEMO-0009_CVol_1\n")
    failed = pipeline()
    assert failed.returncode == 1
    assert "lists DEMO-0009_CVol_1" in failed.stdout and "== generate" not in failed.stdout
