"""The script: a path in, a path out, and keys of one's own."""

import os
import signal
import subprocess
import sys
import time

import pytest

from LeFusion.runtime.commandline import PROJECT_ROOT


@pytest.fixture
def script(overrides, tmp_path):
    """-> script(*arguments): insert_lesions.sh, started in tmp_path."""

    def start(*arguments) -> subprocess.Popen:
        fast = [f"{key}={value}" for key, value in overrides.items() if key != "output"]
        return subprocess.Popen(
            [str(PROJECT_ROOT / "insert_lesions.sh"), *map(str, arguments), *fast],
            cwd=tmp_path,
            env=os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(chest, script, files, tmp_path):
    for number in range(3):
        chest("LPS", f"a scan {number}=x.nii.gz", seed=number)
    asked = ("lesions=2", "versions=2", "diameter_mm=5")
    code, out, err = finished(script("scans", "whole = out", *asked))
    assert code == 0, err
    assert "wrote 6 of 6 scans with lesions below" in out

    process = script("scans", "killed", *asked)
    reports = tmp_path / "killed"
    while process.poll() is None and not list(reports.glob("*/report.json")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, out, err = finished(script("scans", "killed", *asked))
    assert code == 0, err
    one, other = (
        {name: content for name, content in files(tmp_path / folder).items() if "report" not in name}
        for folder in ("whole = out", "killed")
    )
    assert one == other and len(one) == 6 * 4


def test_mistakes_are_one_line(script, chest, tmp_path):
    for arguments, line in (
        (("nowhere", "out"), "nowhere: no such folder or"),
        ((chest(), "lesions=none"), "give a value for output"),
    ):
        code, _, err = finished(script(*arguments))
        assert code == 1 and line in err and "Traceback" not in err, err
        assert not (tmp_path / "out").exists()
