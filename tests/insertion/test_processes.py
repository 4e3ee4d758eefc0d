"""Several processes share the scans, and write what one writes."""

import os
import subprocess
import sys

from LeFusion.insertion.run import run
from LeFusion.runtime.commandline import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / "LeFusion" / "inference" / "insert.py"


def test_two_processes_write_what_one_writes(chest, settings, overrides, tmp_path, files):
    for number, name in enumerate("ABC"):
        folder = chest(name=f"{name}.nii.gz", seed=number).parent
    run(settings(input=folder, lesions=1, diameter_mm=5, output=tmp_path / "one"))
    given = overrides | {"viewer": "false", "output": tmp_path / "two"}
    keys = [f"{key}={value}" for key, value in given.items() if key != "output"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        + [str(SCRIPT), str(folder), str(tmp_path / "two"), "lesions=1", "diameter_mm=5", *keys],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote 3 of 3 scans") == 1, done.stdout
    one, two = (files(tmp_path / name) for name in ("one", "two"))
    assert sorted(one) == sorted(two) and len(one) == 15
    assert all(one[name] == two[name] for name in one if not name.endswith("report.json"))
