"""A data set to check, and the check of it."""

import numpy as np
import pytest
from check_data import rewrite

import LeFusion.train.check_dataset as checking
from LeFusion.check import report as dataset_report


@pytest.fixture
def sick(lidc):
    """Four clean cases, P-0001 to P-0004, the last in test.txt; voxels of 2.5 x 0.7 x 0.8 mm."""
    for path in sorted((lidc / "Pathological").rglob("*.nii.gz")):
        rewrite(path, lambda a: np.clip(a, -1000, 400), np.diag([2.5, 0.7, 0.8, 1]))
    return lidc / "Pathological"


@pytest.fixture(autouse=True)
def sheets(monkeypatch):
    """What would be drawn: drawing takes longer than all else. `sheets.undo()` draws."""
    with monkeypatch.context() as patch:
        patch.setattr(dataset_report, "save_contact_sheet", lambda path, *_: path.write_text("drawn"))
        yield patch


@pytest.fixture
def check(sick, tmp_path, command):
    """-> check(*overrides): (exit code, stdout, stderr) of the check of `sick` into "out"."""

    def call(*overrides):
        defaults = {
            "dataset_root_dir": sick,
            "test_txt_dir": sick / "test.txt",
            "output_folder": tmp_path / "out",
            "diffusion_depth_size": 8,
            "diffusion_img_size": 16,
        }
        given = {override.split("=", 1)[0] for override in overrides}
        kept = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        return command(checking.main, "check_dataset", *kept, *overrides)

    return call
