"""What the packages import is declared in pyproject.toml, and pinned in requirements.txt."""

import ast
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

from LeFusion.runtime.commandline import PROJECT_ROOT

ROOT_FILES = ("setup_env.sh", "pyproject.toml")
PACKAGES = ("LeFusion", "DiffMask", "evaluation_pipeline")
OPTIONAL = {"surface-distance", "highdicom"}  # of the extras
OPTIONAL |= {"fastapi", "starlette", "uvicorn", "python-multipart", "swagger-ui-bundle"}
NOT_PIP = {"nnunetv2"}  # the user's own, asked for where it is needed


def names(text: str) -> set[str]:
    return {
        re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in text.split("\n") if line.strip()
    }


def declared(extra: str | None = None) -> set[str]:
    """Of pyproject.toml: what the project needs, or an extra of it."""
    text = (PROJECT_ROOT / "pyproject.toml").read_text()
    (listed,) = re.findall(rf"^{extra or 'dependencies'} = \[(.*?)\]$", text, re.S | re.M)
    return names(listed.replace('"', "").replace(" ", "").replace(",", "\n"))


def pinned(file: str) -> set[str]:
    lines = (PROJECT_ROOT / file).read_text().splitlines()
    return names("\n".join(line for line in lines if "==" in line))


def imported(source: str) -> set[str]:
    """Top-level modules of others that a source imports, inside functions, too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_are_declared(package):
    distributions = packages_distributions()
    for path in (PROJECT_ROOT / package).rglob("*.py"):
        for module in imported(path.read_text()) - NOT_PIP:
            offered = {name.lower().replace("_", "-") for name in distributions.get(module, [module])}
            assert offered & (declared() | OPTIONAL), f"{path} imports {module}"


def test_imports_are_found():
    source = (
        "import os, torch.nn\nfrom LeFusion import x\ndef f():\n    from omegaconf import y\nfrom . import z"
    )
    assert imported(source) == {"torch", "omegaconf"}


def test_what_is_declared_is_pinned():
    commands = declared() | set().union(*map(declared, ("dicom-compressed", "dicom-seg", "serve")))
    assert pinned("requirements.txt") == commands and {"torch", "omegaconf"} <= commands


def test_what_only_the_tests_need_is_pinned_apart():
    assert pinned("requirements-dev.txt") == declared("dev") - pinned("requirements.txt")
    assert "-r requirements.txt" in (PROJECT_ROOT / "requirements-dev.txt").read_text().splitlines()


FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
    "- "*) exit 1;;  # has no requirements
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
    *"pip install"*) echo "${@: -1}" >> "$INSTALLED";;
esac
"""


@pytest.mark.parametrize(
    "extras, installed",
    [
        (["", ""], ["requirements.txt"]),
        (["", "dev", "dev", ""], ["requirements.txt", "requirements-dev.txt"]),
        (["dev", "", "dev"], ["requirements-dev.txt"]),
    ],
)
def test_a_fresh_clone_installs_what_is_asked_for_once(tmp_path, extras, installed):
    clone, log = tmp_path / "a clone", tmp_path / "log"
    clone.mkdir()
    for path in (*PROJECT_ROOT.glob("requirements*.txt"), *map(PROJECT_ROOT.joinpath, ROOT_FILES)):
        shutil.copy(path, clone)
    python = tmp_path / "python3"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    for extra in extras:
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"source '{clone}/setup_env.sh'; test -x \"$PYTHON\""],
            env={
                "PATH": f"{tmp_path}:/usr/bin:/bin",
                "INSTALLED": log,
                "LEFUSION_EXTRA": extra,
                "PYTHON": python,
            },
            check=True,
        )
    assert log.read_text().split() == installed
