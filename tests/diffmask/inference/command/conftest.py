"""The inference command of DiffMask on two small scans, with tiny networks."""

import shutil

import pytest
from made_masks import HEART, SCANS, lung_hu, write

import DiffMask.inference.inference as inference
import DiffMask.inference.masks as making
from LeFusion.runtime.commandline import PROJECT_ROOT, plain, run_command

DEMO = PROJECT_ROOT / "data" / "demo" / "EMIDEC" / "Normal"


@pytest.fixture
def scans(tmp_path):
    for name in SCANS:
        write(tmp_path / "Normal" / "Image" / f"{name}.nii.gz", lung_hu())
    return tmp_path / "Normal"


@pytest.fixture
def run(tmp_path, command):
    """-> run(*overrides): the command in this process, below "out"; (exit code, stdout, stderr)."""

    def call(*overrides):
        overrides = [str(override) for override in overrides]
        given = {override.split("=", 1)[0] for override in overrides}
        defaults = {"output_dir": tmp_path / "out", "device": "cpu"}
        overrides = [f"{key}={value}" for key, value in defaults.items() if key not in given] + overrides
        return command(
            lambda config: run_command(lambda: inference.run(*inference.read(plain(config)))),
            "diffmask_inference",
            *overrides,
        )

    return call


@pytest.fixture
def make(scans, save_mask_network, run):
    """-> make(*overrides): the same on the two scans, with spheres of 6 mm."""
    model = save_mask_network()

    def call(*overrides):
        defaults = {"model_path": model, "dataset_root_dir": scans, "num_steps": 2}
        given = {str(override).split("=", 1)[0] for override in overrides}
        if "spheres" not in given:
            defaults |= {"diameter_mm": 6, "border_mm": "[0,6]"}
        return run(*(f"{key}={value}" for key, value in defaults.items() if key not in given), *overrides)

    return call


@pytest.fixture
def quick(monkeypatch):
    """Without pictures, which take most of the time."""
    for name in ("save_preview", "save_surface_sheet"):
        monkeypatch.setattr(inference, name, lambda path, *_: path)


@pytest.fixture
def hearts(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / "Hearts" / kind).mkdir(parents=True)
        shutil.copy(DEMO / kind / f"{HEART}.nii.gz", tmp_path / "Hearts" / kind)
    return tmp_path / "Hearts"


@pytest.fixture
def infarcts(hearts, run):
    """-> infarcts(*overrides): the command on one demo heart; it needs no network."""

    def call(*overrides):
        return run("data_type=emidec", f"dataset_root_dir={hearts}", *overrides)

    return call


@pytest.fixture
def spheres_are_masks(monkeypatch):
    """A network that answers with the sphere it is shown, above 0; -> the addresses of its noise."""
    addresses = []

    def answer(network, schedule, spheres, asked, *settings):
        addresses.extend(asked)
        return spheres

    monkeypatch.setattr(making, "sample_masks", answer)
    return addresses
