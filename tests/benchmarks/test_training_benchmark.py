"""benchmarks/training.py: the whole from the command line on a tiny network; the table on made-up numbers."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from LeFusion.training.settings import TrainingSettings

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training.py"
spec = importlib.util.spec_from_file_location("benchmark_of_the_training", SCRIPT)
training = sys.modules["benchmark_of_the_training"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(training)

TINY = "--dim 8 --heads 2 --dim-head 8 --mults 1 2 --size 4 16 16 --steps 2 --warmup 1 --workers 0".split()
TINY += "--batch 2 --threads 1 --device cpu".split()
NUMBERS = {
    "seconds": [1.0, 2.0, 3.0],
    "waiting": 0.0123,
    "mib": 12.0,
    "loss": 0.5,
    "samples": 4,
    "at_once": 2,
}


def test_command_line(tmp_path):
    """Plain and ours train the same: same weights, samples, noise and updates."""
    command = [sys.executable, str(SCRIPT), *TINY, "--accumulate", "2", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--variants", "ours", "plain"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with open(tmp_path / "training.csv", newline="") as file:
        plain, ours = csv.DictReader(file)
    assert (plain["variant"], ours["variant"]) == ("plain", "ours")
    assert plain["ratio to plain"] == "1.000" and float(ours["ratio to plain"]) > 0
    assert float(plain["loss"]) == pytest.approx(float(ours["loss"]), rel=2e-3)
    for row in (plain, ours):
        assert all(float(row[column]) > 0 for column in ("samples/s", "median ms a step", "MiB"))
        assert 0 <= float(row["waiting"].rstrip("%")) < 100
    table = (tmp_path / "training.md").read_text()
    assert table in done.stdout and "--accumulate 2" in table and "8 made cases" in table


def test_ratios_and_failures(children, tmp_path):
    def answer(name, env):
        if name == "ours-bf16":
            raise subprocess.CalledProcessError(1, [], stderr="Traceback\nValueError: no | bf16\n")
        return json.dumps(NUMBERS | {"samples": 4 if name == "plain" else 10})

    started = children(answer)
    variants = ["--variants", "ours-bf16", "ours", "plain"]
    rows = training.compare(training.parse([*TINY, *variants, "--data", str(tmp_path), "--tf32"]))
    assert [row["variant"] for row in rows] == ["plain", "ours", "ours-bf16"]
    assert [row["samples/s"] for row in rows] == ["2", "5", "failed: ValueError: no / bf16"]
    assert [row["ratio to plain"] for row in rows] == ["1.000", "2.500", ""]
    assert [row["median ms a step"] for row in rows] == ["2000", "2000", ""]
    assert rows[0]["waiting"] == "1.2%" and rows[0].keys() == rows[2].keys()
    for command, _ in started:
        child = training.parse(command[2:])
        assert child.json and child.tf32 and child.data == tmp_path
        assert (child.steps, child.warmup, child.workers, child.accumulate) == (2, 1, 0, 1)


def test_a_batch_that_does_not_fit_is_cut_into_equal_parts(children, tmp_path):
    sizes = []

    def answer(name, env):
        child = training.parse(started[-1][0][2:])
        sizes.append((child.batch, child.accumulate))
        if name == "ours" or child.batch > 5:
            error = "x\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB."
            raise subprocess.CalledProcessError(1, [], stderr=error)
        return json.dumps(NUMBERS | {"at_once": child.batch})

    started = children(answer)
    options = ["--batch", "20", "--accumulate", "2", "--data", str(tmp_path), "--variants", "plain", "ours"]
    plain, ours = training.compare(training.parse([*TINY, *options]))
    assert sizes == [(20, 2), (10, 4), (5, 8), (20, 2), (10, 4), (5, 8), (1, 40)]
    assert plain["at once"] == "5" and ours["samples/s"].startswith("failed: torch.OutOfMemoryError")


def test_made_cases_are_those_of_lidc(tmp_path):
    arguments = training.parse(TINY)
    dataset = training.read_dataset(training.make_cases(tmp_path / "cases", arguments.size), arguments)
    assert len(dataset) == training.CASES
    item = dataset[3]
    assert item["image"].shape == (1, 4, 16, 16) and item["histogram"].shape == (16,)
    assert 0 < item["lesions"].float().mean() < 0.5


def test_parts_of_a_batch_are_refused():
    def loss_fn(network, batch):
        return torch.tensor(7.0)

    loss_fn.draw = len
    checked = training.whole_batches(loss_fn, TrainingSettings(batch_size=4))
    assert checked(None, {"draw": [0, 1, 2, 3]}) == 7 and checked.draw is len
    with pytest.raises(ValueError, match="out of memory with 4 samples at once"):
        checked(None, {"draw": [0, 1]})


@pytest.mark.parametrize("options, left_out", [((), 2), (("--compile",), 0), (("--device", "cuda"), 0)])
def test_variants_of_a_device(children, options, left_out, tmp_path):
    children(lambda name, env: json.dumps(NUMBERS))
    rows = training.compare(training.parse([*TINY, "--data", str(tmp_path), *options]))
    names = list(training.VARIANTS)
    assert [row["variant"] for row in rows] == names[: len(names) - left_out]


def test_a_size_that_does_not_fit_the_network():
    arguments = training.parse([*TINY, "--size", "4", "16", "15"])
    with pytest.raises(ValueError, match=r"--size \[4, 16, 15\] must be multiples of 2"):
        training.measure("plain", arguments)


@pytest.mark.parametrize(
    "options, said",
    [
        (("--steps", "0"), "--steps 0 must be at least 1"),
        (("--warmup", "0"), "--warmup 0 must be at least 1"),
        (("--device", "cuda:1"), "--device cuda:1 must be cpu or cuda"),
    ],
)
def test_bad_options_are_refused(capsys, options, said):
    with pytest.raises(SystemExit):
        training.parse([*TINY, *options])
    assert said in capsys.readouterr().err
