"""What the packages import is declared in pyproject.toml, and pinned in requirements.txt."""

import ast
import re
import sys
from importlib.metadata import packages_distributions

import pytest

from LeFusion.runtime.commandline import PROJECT_ROOT

PACKAGES = ("LeFusion", "DiffMask", "evaluation_pipeline")
OPTIONAL = {"surface-distance", "highdicom"}  # of the extras
OPTIONAL |= {"fastapi", "starlette", "uvicorn", "python-multipart", "swagger-ui-bundle"}
NOT_PIP = {"nnunetv2"}  # the user's own, asked for where it is needed


def names(text: str) -> set[str]:
    return {
        re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in text.split("\n") if line.strip()
    }


def declared() -> set[str]:
    text = (PROJECT_ROOT / "pyproject.toml").read_text()
    (listed,) = re.findall(r"^dependencies = \[\n(.*?)\n\]", text, re.S | re.M)
    return names(listed.replace('"', "").replace(" ", ""))


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
    text = (PROJECT_ROOT / "requirements.txt").read_text()
    pinned = names("\n".join(line for line in text.splitlines() if "==" in line))
    assert declared() <= pinned and {"torch", "omegaconf"} <= declared()
