"""The script that compares experiments, from end to end, on tiny networks and the bundled demo set."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation_pipeline import prepare_real_dataset

PROJECT = Path(__file__).resolve().parents[2]
DEMO = PROJECT / "data/demo/LIDC/Normal"


def test_a_baseline_that_is_no_arm_is_refused_at_once(tmp_path):
    knobs = {
        "PYTHON": sys.executable,
        "REAL_DIR": "real",
        "WORK_DIR": str(tmp_path / "work"),
        "BASELINE": "real",
    }
    script = ["bash", str(PROJECT / "evaluation_pipeline/run_comparison.sh")]
    ran = subprocess.run(
        script, env=os.environ | knobs | {"ARMS": "P=none P+N'=n"}, capture_output=True, text=True
    )
    assert ran.returncode == 1 and ran.stderr == "error: BASELINE=real is none of the arms P P+N'\n"
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_process_state")
def test_a_learning_curve(tmp_path):
    (tmp_path / "test.txt").write_text("DEMO-0004_CVol_1\n")
    sources = ("--source_image_dir", DEMO / "Image", "--source_mask_dir", DEMO / "Mask")
    options = (*sources, "--test_txt_path", tmp_path / "test.txt", "--output_dir", tmp_path / "real")
    prepare_real_dataset.main([str(option) for option in options])
    knobs = {
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "REAL_DIR": str(tmp_path / "real"),
        "WORK_DIR": str(tmp_path / "work"),
        "ARMS": "P=none",
        "REAL_COUNTS": "1 2",
        "SEEDS": "0",
        "MODEL_NAMES": "UNet",
        "MAX_EPOCHS": "1",
        "STEPS_PER_EPOCH": "1",
        "TRAINING_OPTIONS": "--model_size small --num_folds 3 --device cpu",
        "EVALUATION_OPTIONS": "--no_mirroring --device cpu",
    }
    script = ["bash", str(PROJECT / "evaluation_pipeline/run_comparison.sh")]
    ran = subprocess.run(script, env=os.environ | knobs, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr
    with open(tmp_path / "work/results.csv", newline="") as file:
        assert [row["Experiment Name"] for row in csv.DictReader(file)] == ["P_n1_seed0", "P_n2_seed0"]
    for count in (1, 2):
        log_path = tmp_path / f"work/logs/UNet_P_n{count}_seed0.log"
        assert f"== run {count} of 2: UNet, P_n{count}_seed0 (log: {log_path})" in ran.stdout
        log = log_path.read_text()
        assert f"{count} real and 0 synthetic training cases" in log
        assert (tmp_path / f"work/tables/n{count}/comparison.csv").exists()
    assert (tmp_path / "work/tables/learning_curves.png").exists()
