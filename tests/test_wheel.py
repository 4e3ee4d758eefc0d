"""The wheel, installed outside of the clone, has what its commands need."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from LeFusion.runtime.commandline import PROJECT_ROOT
from LeFusion.runtime.main import COMMANDS

pytestmark = pytest.mark.slow
HYDRA = ("paint", "masks", "train", "train-masks", "check", "textures")
DEMO = PROJECT_ROOT / "data" / "demo" / "LIDC" / "Normal"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """-> installed(command line): the finished process, in an empty folder, with the wheel on the path."""
    pytest.importorskip("setuptools", minversion="77")
    source, site, empty = (tmp_path_factory.mktemp(name) for name in ("source", "site", "empty"))
    for name in ("LeFusion", "DiffMask", "evaluation_pipeline", "configs", "data/demo"):
        shutil.copytree(PROJECT_ROOT / name, source / name, symlinks=True)  # no build folder of another day
    shutil.copy(PROJECT_ROOT / "data" / "download.py", source / "data")
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
def test_every_command_starts(installed, name):
    result = installed(installed.site / "bin" / "lefusion", name, "--help")
    assert result.returncode == 0 and result.stdout, result.stderr


@pytest.mark.parametrize("name", HYDRA)
def test_every_primary_configuration_composes(installed, name):
    command = (installed.site / "bin" / "lefusion", name, "--cfg", "job", "--resolve")
    result = installed(*command, *(["output=textures.json"] if name == "textures" else []))
    assert result.returncode == 0, result.stderr
    assert str(PROJECT_ROOT) + os.sep not in result.stdout.replace(str(installed.folder), "")


def test_a_folder_of_configs_of_one_s_own(installed):
    own = installed.folder / "my configs" / "data_type" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\ndefaults: [lidc]\nhistogram_bins: 32\n")
    command = (installed.site / "bin" / "lefusion", "paint", "--config-dir", own.parents[1])
    result = installed(*command, "data_type=mine", "--cfg", "job")
    assert result.returncode == 0 and "histogram_bins: 32" in result.stdout, result.stderr


def test_the_demo_paints(installed):
    result = installed(installed.site / "bin" / "lefusion", "demo", "types=1", "num_steps=2", "device=cpu")
    assert result.returncode == 0, result.stderr
    written = {path.name for path in (installed.folder / "outputs/demo/Image/Image_1").iterdir()}
    assert written == {path.name for path in (DEMO / "Image").iterdir()}
    assert len(list((installed.folder / "outputs/demo/hearts/Image/Image_1").iterdir())) == 4


def test_masks_are_placed_with_the_statistics(installed):
    code = "import os, DiffMask.placement as p; print(*sorted(os.listdir(f'{p.__path__[0]}/statistics')))"
    assert installed("-c", code).stdout.split() == ["emidec.json", "lidc.json"]


def test_the_report_lists_the_bundled_weights(installed):
    result = installed(installed.site / "bin" / "lefusion", "version", "--report")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    names = {os.path.basename(path) for path in report["weights"]}
    bundled = ("lidc_edit", "lidc_small", "emidec_small", "diffmask_small")
    assert {f"{name}.safetensors" for name in bundled} <= names
    assert report["installed_as"] == "package" and report["commit"] is None


def test_downloads_go_below_the_folder_that_the_command_starts_in(installed):
    result = installed(installed.site / "bin" / "lefusion", "download", "--help")
    said = "".join(result.stdout.split())  # a help text is broken at hyphens of paths, too
    assert f"startsifitwasinstalledbypip:{installed.folder}" in said


def test_a_clone_named_as_the_package_does_not_hide_it_from_its_parent(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    clone, site = tmp_path / "LeFusion", tmp_path / "site"
    shutil.copytree(PROJECT_ROOT / "LeFusion", clone / "LeFusion", symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT_ROOT / name, clone)
    site.mkdir()
    build = f"from setuptools.build_meta import build_editable; build_editable({str(site)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True)
    (wheel,) = site.glob("*.whl")
    shutil.unpack_archive(wheel, site, "zip")
    program = f"import site; site.addsitedir({str(site)!r}); import LeFusion; print(LeFusion.__file__)"
    run = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert run.stdout == f"{clone / 'LeFusion' / '__init__.py'}\n", run.stderr
