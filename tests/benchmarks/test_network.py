"""benchmarks/network.py: the whole from the command line on a tiny network; the table on made-up numbers."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from measuring import MALLOC

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "network.py"
spec = importlib.util.spec_from_file_location("benchmark_of_the_network", SCRIPT)
network = sys.modules["benchmark_of_the_network"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(network)

TINY = "--dim 8 --heads 2 --dim-head 8 --mults 1 2 --size 2 16 16 --runs 1 --threads 1 --device cpu".split()
NUMBERS = {"gflop": 3.0, "peak_gflops": 60.0, "mib": 12.0, "difference": 0.0}


def test_command_line(tmp_path):
    """Two variants and one that cannot run here, in three processes."""
    variants = ["ours-cuda-graphs", "ours-out-of-place", "plain"]
    command = [sys.executable, str(SCRIPT), *TINY, "--out", str(tmp_path), "--variants", *variants]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    with open(tmp_path / "network.csv", newline="") as file:
        plain, ours, failed = csv.DictReader(file)
    assert [row["variant"] for row in (plain, ours, failed)] == ["plain", "ours-out-of-place", variants[0]]
    assert plain["ratio to plain"] == "1.000" and float(ours["ratio to plain"]) > 0
    assert float(plain["difference"]) == 0 < float(ours["difference"]) < 1e-5
    for row in (plain, ours):
        assert 0 < float(row["min ms"]) <= float(row["median ms"]) <= float(row["max ms"])
        assert row["GFLOP"] == plain["GFLOP"] and float(row["GFLOP"]) > 0
        assert 0 < float(row["of peak"].rstrip("%")) < 100 and float(row["MiB"]) > 0
    assert (
        failed["median ms"]
        == "failed: LeFusion.errors.UserError: ours-cuda-graphs needs a CUDA device, got --device cpu"
    )
    table = (tmp_path / "network.md").read_text()
    assert table in done.stdout and "--dim 8" in table and "--size 2 16 16" in table


def test_both_allocators_and_ratios(children, monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "7")
    seconds = {("plain", False): 9, ("plain", True): 6, ("ours", False): 4.5, ("ours", True): 3}

    def answer(name, env):
        ms = 1e3 * seconds[name, "MALLOC_TRIM_THRESHOLD_" in env]
        return json.dumps(NUMBERS | {"milliseconds": [ms * 2, ms, ms / 2]})

    started = children(answer)
    rows = network.compare(network.parse([*TINY, "--variants", "ours", "plain", "--allocator", "both"]))
    assert [row["ratio to plain"] for row in rows] == ["1.000", "0.667", "0.500", "0.333"]
    assert [row["allocator"] for row in rows] == ["default", "tuned"] * 2
    assert [rows[2][f"{which} ms"] for which in ("min", "median", "max")] == ["2250", "4500", "9000"]
    assert rows[2]["of peak"] == "1.1%"  # 3 GFLOP in 4.5 s, of 60 a second
    for command, environment in started:
        child = network.parse(command[2:])
        assert child.size == [2, 16, 16] and child.mults == [1, 2] and child.runs == 1 and child.json
        assert "7" not in (environment.get(key) for key in MALLOC)
    assert started[1][1]["MALLOC_MMAP_THRESHOLD_"] == "1073741824"


def test_a_variant_that_fails_does_not_stop_the_others(children):
    def answer(name, env):
        if name == "plain":
            raise subprocess.CalledProcessError(-9, [], stderr="half a line")
        if name == "ours":
            raise subprocess.CalledProcessError(1, [], stderr="Traceback\nRuntimeError: a | b\n")
        return json.dumps(NUMBERS | {"milliseconds": [2.0]})

    children(answer)
    rows = network.compare(network.parse([*TINY, "--variants", "plain", "ours", "ours-bf16"]))
    assert [row["median ms"] for row in rows] == [
        "failed: killed by SIGKILL",
        "failed: RuntimeError: a / b",
        "2",
    ]
    assert rows[2]["ratio to plain"] == "" and rows[0].keys() == rows[2].keys()


@pytest.mark.parametrize("options, left_out", [((), 3), (("--compile",), 1), (("--device", "cuda"), 0)])
def test_variants_of_a_device(options, left_out):
    names = network.chosen_variants(network.parse([*TINY, *options]))
    assert names == list(network.VARIANTS)[: len(network.VARIANTS) - left_out]


def test_no_runs_are_refused(capsys):
    with pytest.raises(SystemExit):
        network.parse(["--runs", "0"])
    assert "--runs 0 must be at least 1" in capsys.readouterr().err
