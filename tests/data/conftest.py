"""The scripts of data/ are run from their folder, where they find `phantoms`; tests load them by path."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from download_hub import SCRIPT, Hub

for name in ("phantoms", "preparation"):
    folder = Path(__file__).parents[2] / "data" / name
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def start(hub, tmp_path):
    """Start the script on a root and a cache of this test."""

    def start(*arguments: str, preexec=None, **environment: str) -> subprocess.Popen:
        clean = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HF_", "HUGGING")) and not key.lower().endswith("_proxy")
        }
        clean |= {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), "--root", str(tmp_path / "root"), *arguments],
            env=clean | environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=preexec,
        )

    return start


@pytest.fixture
def download(start):
    """Run the script to its end."""

    def download(*arguments: str, preexec=None, **environment: str) -> subprocess.CompletedProcess:
        process = start(*arguments, preexec=preexec, **environment)
        output, errors = process.communicate(timeout=50)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    return download


@pytest.fixture(scope="session")
def script():
    """The script as a module, for what needs no hub."""
    spec = importlib.util.spec_from_file_location("lefusion_data_download", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]
