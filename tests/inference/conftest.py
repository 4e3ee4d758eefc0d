"""The inference command on the small lung cases, with the smallest network."""

import pytest
from painted_regions import REGION

import LeFusion.inference.inference as inference


@pytest.fixture
def paint(lidc, save_network, tmp_path, command):
    """-> paint(*overrides, out="out"): runs the command on the normal cases; (exit code, stdout, stderr)."""
    model = save_network()

    def call(*overrides, out="out"):
        defaults = {
            "model_path": model,
            "dataset_root_dir": lidc / "Normal" / "Image",
            "target_img_path": tmp_path / out / "Image",
            "target_label_path": tmp_path / out / "Mask",
            "num_steps": 2,
        }
        given = {override.split("=", 1)[0] for override in overrides}
        kept = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        return command(inference.main, "inference", *REGION, *kept, *overrides)

    return call
