"""The version, and the report for bug reports."""

import json
import sys
from importlib.metadata import version

from LeFusion.runtime import version as command
from LeFusion.runtime.commandline import PROJECT_ROOT
from LeFusion.runtime.hashing import sha256_of_file


def test_the_version_is_that_of_the_package(command_line):
    assert command_line(command.main) == (0, f"{version('lefusion')}\n", "")


def test_the_report_is_json(command_line):
    code, text, _ = command_line(command.main, "--report")
    report = json.loads(text)
    assert code == 0 and report["lefusion"] == version("lefusion")
    assert report["python"] == ".".join(map(str, sys.version_info[:3]))
    assert report["packages"]["torch"] == version("torch") and "pytest" not in report["packages"]
    assert report["device"]["default"] in ("cpu", "cuda")
    bundled = PROJECT_ROOT / "LeFusion" / "LeFusion_Model" / "LIDC" / "lidc_edit.safetensors"
    assert report["weights"][str(bundled)] == sha256_of_file(bundled)[:16]
