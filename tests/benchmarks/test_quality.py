"""benchmarks/quality.py: the whole on a tiny network; noise and the table by hand."""

import csv
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
for name in ("painted", "quality"):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
quality = sys.modules["quality"]


def runs(*values, calls=10):
    rest = {"calls": calls, "seconds": [1.0], "outside": 0.0}
    return [dict.fromkeys(quality.METRICS, value) | rest for value in values]


def test_settings_become_overrides():
    assert quality.overrides_of("ddim:10:2:3,eta=1,margin=8") == [
        "sampler=ddim",
        "num_steps=10",
        "schedule_jump_params.jump_length=2",
        "schedule_jump_params.jump_n_sample=3",
        "eta=1",
        "margin=8",
    ]
    assert quality.overrides_of("dpmpp:25")[2:] == [
        "schedule_jump_params.jump_length=1",
        "schedule_jump_params.jump_n_sample=1",
    ]


def test_the_noise_between_seeds_is_pooled():
    found = {"a": runs(1.0, 3.0), "b": runs(5.0, 5.0), "c": runs(100.0)}
    assert quality.pooled_sd(found, "seam") == pytest.approx(1.0)  # variances 2 and 0, one degree each
    assert math.isnan(quality.pooled_sd({"c": runs(1.0)}, "seam"))


def test_what_is_within_the_noise_of_the_reference():
    found = {
        "reference": runs(9.0, 11.0, calls=1000),  # sd between seeds 1.414, with "near" the same
        "near": runs(11.0, 13.0, calls=20),  # 12 < 10 + 2 * 1.414 * 1
        "far": runs(13.5, 15.5, calls=10),
    }
    far, near, reference, noise = quality.table_of(found, "reference")
    assert [row["network calls"] for row in (far, near, reference)] == [10, 20, 1000]
    assert far["seam, HU/mm"] == "14.5" and near["seam, HU/mm"] == "**12**"
    assert [row["all within noise"] for row in (far, near, reference)] == ["", "yes", "yes"]
    assert noise["texture, HU"] == "1.4"


def test_command_line(lidc, save_network, tmp_path):
    command = [
        *(sys.executable, FOLDER / "quality.py", "--data", lidc / "Pathological", "--out", tmp_path / "out"),
        *("--reference", "repaint:3:1:2", "repaint:3:1:2", "ddim:2,spacing=trailing@0"),
        *(f"model_path={save_network()}", "diffusion_depth_size=8", "diffusion_img_size=16", "device=cpu"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "out" / "quality.csv", newline="") as file:
        few, many, noise = csv.DictReader(file)
    assert (few["setting"], few["network calls"], few["seeds"]) == ("ddim:2,spacing=trailing", "2", "1")
    assert (many["setting"], many["network calls"], many["seeds"]) == ("repaint:3:1:2", "5", "2")
    assert float(noise["seam, HU/mm"]) > 0 and few["largest change outside"] == "0"
    assert (tmp_path / "out" / "quality.png").stat().st_size > 10_000
