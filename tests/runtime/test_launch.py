"""The shell scripts start as many processes as they are told, and hand everything on."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from LeFusion.runtime.commandline import PROJECT_ROOT

REPORT = """
import json, os, sys
names = "RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RESTART_COUNT"
seen = {name: os.environ.get(name) for name in names} | {"arguments": sys.argv[1:]}
part = f"{seen['RANK']}-{seen['TORCHELASTIC_RESTART_COUNT']}"
with open(os.path.join(os.path.dirname(__file__), f"seen-{part}.json"), "w") as file:
    json.dump(seen, file)
"""
ODD = ["key=two words", "quote='\"", "dollar=${seed}", "", "list=[1, 2]"]


@pytest.fixture
def launch(tmp_path):
    """launch(code, *arguments, **environment) starts a script of this code -> the finished launch."""

    def start(code: str, *arguments: str, python: str = sys.executable, **environment: str):
        script = tmp_path / "a script.py"
        script.write_text(code)
        shell = f"source {shlex.quote(str(PROJECT_ROOT / 'setup_env.sh'))}; lefusion_launch " + shlex.join(
            [str(script), *arguments]
        )
        launching = ("NUM_GPUS", "NNODES", "MASTER_ADDR", "MASTER_PORT", "MAX_RESTARTS", "SLURM_JOB_ID")
        kept = {name: value for name, value in os.environ.items() if name not in launching}
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", shell],
            env=kept | {"PYTHON": python, "OMP_NUM_THREADS": "1"} | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return start


@pytest.fixture
def fake_python(tmp_path):
    """An interpreter that passes for a complete one and prints its arguments, one a line."""
    path = tmp_path / "python"
    path.write_text('#!/usr/bin/env bash\n[ "$1" = - ] && exit 0\nprintf \'%s\\n\' "$@"\n')
    path.chmod(0o755)
    return str(path)


def seen(folder: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("seen-*.json"))}


def test_one_process_is_started_without_torchrun(launch, tmp_path):
    done = launch(REPORT, *ODD)
    assert done.returncode == 0, done.stderr
    (process,) = seen(tmp_path).values()
    assert process["arguments"] == ODD and process["WORLD_SIZE"] is None


def test_a_process_for_each_gpu(launch, tmp_path):
    done = launch(REPORT, *ODD, NUM_GPUS="2", MAX_RESTARTS="3")
    assert done.returncode == 0, done.stderr
    processes = seen(tmp_path)
    assert sorted(processes) == ["seen-0-0", "seen-1-0"]
    for rank, process in enumerate(processes.values()):
        assert process["RANK"] == process["LOCAL_RANK"] == str(rank) and process["WORLD_SIZE"] == "2"
        assert process["arguments"] == ODD and process["TORCHELASTIC_MAX_RESTARTS"] == "3"


def test_a_failure_is_tried_again_and_has_its_exit_code(launch, tmp_path):
    done = launch(REPORT + "sys.exit(7)", NUM_GPUS="2", MAX_RESTARTS="1")
    assert done.returncode == 7
    assert "Traceback" not in done.stderr and "ended with exit code 7" in done.stderr
    assert {path[-1] for path in seen(tmp_path)} == {"0", "1"}  # restarts


def test_a_stop_signal_reaches_the_processes_and_the_exit_code(launch, tmp_path):
    stopped = """
import os, signal, sys, time
mine = __file__ + os.environ["RANK"]
signal.signal(signal.SIGTERM, lambda *_: (open(mine + ".saved", "w"), sys.exit(143)))
open(mine, "w")
while not all(os.path.exists(__file__ + rank) for rank in "01"):
    time.sleep(0.05)
if os.environ["RANK"] == "0":
    os.kill(os.getppid(), signal.SIGTERM)  # torchrun, as a batch system would
time.sleep(60)
"""
    done = launch(stopped, NUM_GPUS="2")
    assert done.returncode == 143 and "Traceback" not in done.stderr
    assert len(list(tmp_path.glob("*.saved"))) == 2


def test_several_nodes_meet_at_the_first(launch, fake_python):
    job = {"NNODES": "4", "NUM_GPUS": "8", "MASTER_ADDR": "node1", "SLURM_JOB_ID": "77"}
    done = launch("", "a=b c", python=fake_python, **job)
    assert done.returncode == 0, done.stderr
    arguments = done.stdout.splitlines()
    for name, value in (
        ("--nnodes", "4"),
        ("--nproc_per_node", "8"),
        ("--rdzv_endpoint", "node1:29400"),
        ("--rdzv_id", "77"),
        ("--max_restarts", "0"),
    ):
        assert arguments[arguments.index(name) + 1] == value
    assert arguments[-1] == "a=b c" and arguments[-2].endswith("a script.py")


@pytest.mark.parametrize(
    "environment, said",
    [
        ({"NUM_GPUS": "two"}, "error: NUM_GPUS=two NNODES=1 must be whole numbers above 0"),
        ({"NUM_GPUS": "0"}, "error: NUM_GPUS=0 NNODES=1 must be whole numbers above 0"),
        ({"NUM_GPUS": "2", "NNODES": "-1"}, "error: NUM_GPUS=2 NNODES=-1 must be whole numbers above 0"),
        ({"MAX_RESTARTS": "often"}, "error: MAX_RESTARTS=often must be a whole number"),
        ({"NNODES": "2"}, "error: NNODES=2 needs MASTER_ADDR, the name of the first node (docs/cluster.md)"),
    ],
)
def test_mistakes_are_one_line(launch, fake_python, environment, said):
    done = launch("", python=fake_python, **environment)
    assert done.returncode == 1 and done.stderr.strip() == said and done.stdout == ""


def test_a_failed_job_does_not_end_a_sweep(launch, tmp_path):
    code = """
import hydra
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import run_command

def job(number):
    if number > 3:
        raise UserError(f"{number} is too large")
    print("value", number)

@hydra.main(version_base=None)
def main(config):
    run_command(lambda: job(config.number))

main()
"""
    quiet = ("hydra/job_logging=disabled", "hydra/hydra_logging=disabled", "hydra.output_subdir=null")
    done = launch(code, "--multirun", "+number=1,5,3", *quiet)
    assert done.returncode == 1 and done.stdout.split() == ["value", "1", "value", "3"]
    assert "error: 5 is too large" in done.stderr and "+number=5" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_process_ends_before_all_have_written(launch, tmp_path):
    """One that aborts while Python shuts down would have the launcher stop the one that still writes."""
    code = """
import atexit, os, sys, time
from pathlib import Path
from LeFusion.runtime.commandline import run_command
from LeFusion.runtime.processes import find_share

def work():
    share = find_share(device="cpu")
    if share.main:
        time.sleep(2)
        Path(__file__).with_name("curves").write_text("written")
    print("ready", share.rank)

atexit.register(os.abort)
run_command(work)
"""
    done = launch(code, NUM_GPUS="2", PYTHONPATH=str(PROJECT_ROOT))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curves").read_text() == "written"
    assert sorted(done.stdout.split()) == ["0", "1", "ready", "ready"]


def test_threads_do_not_spin_for_long_unless_told_so(launch):
    code = "import os; print(os.environ['GOMP_SPINCOUNT'])"
    assert launch(code, GOMP_SPINCOUNT="").stdout == "2000\n"
    assert launch(code, GOMP_SPINCOUNT="7").stdout == "7\n"
