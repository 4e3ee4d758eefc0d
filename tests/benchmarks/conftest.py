"""The scripts of benchmarks/ find shared modules in their folder; tests load those by path."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

for name in ("measuring", "plain_unet", "painted", "texture_control"):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


@pytest.fixture
def children(monkeypatch):
    """-> children(answer): (command, environment) of every process that would have been started; answer(name,
    environment) is what it prints, or raises."""

    def replace(answer) -> list[tuple[list[str], dict[str, str]]]:
        started = []

        def run(command, env, **_):
            started.append((command, env))
            return SimpleNamespace(stdout=f"noise\n{answer(command[command.index('--variant') + 1], env)}\n")

        monkeypatch.setattr(subprocess, "run", run)
        return started

    return replace
