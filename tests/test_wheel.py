"""The wheel, installed outside of the clone, has what its commands need."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from LeFusion.runtime.commandline import PROJECT_ROOT
from LeFusion.runtime.main import COMMANDS

pytestmark = pytest.mark.slow
DEMO = PROJECT_ROOT / "data" / "demo" / "LIDC" / "Normal"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """-> installed(command line): the finished process, in an empty folder, with the wheel on the path."""
    pytest.importorskip("setuptools", minversion="77")
    source, site, empty = (tmp_path_factory.mktemp(name) for name in ("source", "site", "empty"))
    for name in ("LeFusion", "DiffMask", "evaluation_pipeline", "configs"):  # no build folder of another day
        shutil.copytree(PROJECT_ROOT / name, source / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT_ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", source, "--no-deps", "--no-build-isolation", "-q", "-w", site / "wheel"], check=True
    )
    (wheel,) = (site / "wheel").glob("lefusion-*.whl")
    subprocess.run([*pip, "install", wheel, "--no-deps", "-q", "--target", site], check=True)

    def run(*words) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=empty,
            env=os.environ | {"PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
        )

    run.site, run.folder = site, empty
    return run


def test_it_is_the_installed_package(installed):
    where = installed(
        "-c", "import LeFusion, DiffMask, evaluation_pipeline as e; print(LeFusion.__file__, e.__file__)"
    )
    assert where.returncode == 0 and where.stdout.count(str(installed.site)) == 2, where.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_primary_configuration_composes(installed, name):
    result = installed(installed.site / "bin" / "lefusion", name, "--cfg", "job", "--resolve")
    assert result.returncode == 0, result.stderr
    assert str(PROJECT_ROOT) + os.sep not in result.stdout.replace(str(installed.folder), "")


def test_inference_runs(installed):
    result = installed(
        installed.site / "bin" / "lefusion",
        *("inference", "data_type=lidc", f"dataset_root_dir={DEMO}", "types=1", "num_steps=2"),
        *("target_img_path=out/Image", "target_label_path=out/Mask", "device=cpu"),
    )
    assert result.returncode == 0, result.stderr
    written = {path.name for path in Path(installed.folder, "out", "Image", "Image_1").iterdir()}
    assert written == {path.name for path in (DEMO / "Image").iterdir()}


def test_masks_are_placed_with_the_statistics(installed):
    code = "import os, DiffMask.placement as p; print(*sorted(os.listdir(f'{p.__path__[0]}/statistics')))"
    assert installed("-c", code).stdout.split() == ["emidec.json", "lidc.json"]
