"""The version of LeFusion; with --report all that a bug report needs, as JSON.

    lefusion version --report

The report: versions of Python and of the packages that the project stands on, the devices that PyTorch sees,
the weights that are there with the start of their SHA-256, and the commit of a clone.
"""

import json
import os
import platform
import re
from argparse import Namespace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from LeFusion.runtime.commandline import CLONE, PROJECT_ROOT, command_parser, git_commit, run_with_flags
from LeFusion.runtime.hashing import sha256_of_file

WEIGHTS = ("LeFusion/LeFusion_Model", "DiffMask/DiffMask_Model")


def report() -> dict:
    """What `lefusion version --report` prints."""
    return {
        "lefusion": _version("lefusion"),
        "commit": git_commit(),
        "installed_as": "clone" if CLONE else "package",
        "project": str(PROJECT_ROOT),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _requirements()},
        "device": _devices(),
        "weights": _weights(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _requirements() -> list[str]:
    """The packages that every installation needs."""
    try:
        lines = requires("lefusion") or []
    except PackageNotFoundError:
        return []
    return sorted(re.match(r"[\w.-]+", line)[0] for line in lines if ";" not in line)  # ; extra == "dev"


def _devices() -> dict:
    import torch

    found = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "default": "cuda" if torch.cuda.is_available() else "cpu",
        "gpus": found,
        "cuda": torch.version.cuda,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _weights() -> dict[str, str]:
    """path -> the first 16 digits of its SHA-256, as in a manifest."""
    roots = {PROJECT_ROOT / folder for folder in WEIGHTS} | {Path.cwd() / folder for folder in WEIGHTS}
    files = {path for root in roots for path in root.glob("*/*") if path.suffix in (".safetensors", ".pt")}
    return {str(path): sha256_of_file(path)[:16] for path in sorted(files)}


def run(options: Namespace) -> None:
    print(json.dumps(report(), indent=2) if options.report else _version("lefusion"))


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--report", action="store_true", help="print the report")
    run_with_flags(parser, run)


if __name__ == "__main__":
    main()
