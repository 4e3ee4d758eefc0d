"""Where outputs may lie, and which of an earlier run are kept."""

import pytest

import LeFusion.inference.inference as inference

REGION = ["diffusion_depth_size=8", "diffusion_img_size=16", "device=cpu", "preview_cases=1"]


@pytest.fixture
def paint(lidc, save_network, tmp_path, command):
    """-> paint(*overrides): runs the command on the normal cases; (exit code, stdout, stderr)."""
    model = save_network()

    def call(*overrides):
        defaults = {
            "model_path": model,
            "dataset_root_dir": lidc / "Normal",
            "target_img_path": tmp_path / "out" / "Image",
            "target_label_path": tmp_path / "out" / "Mask",
            "num_steps": 2,
            "types": 2,
        }
        given = {override.split("=", 1)[0] for override in overrides}
        kept = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        return command(inference.main, "inference", *REGION, *kept, *overrides)

    return call


@pytest.mark.parametrize("key", ["target_img_path", "target_label_path"])
@pytest.mark.parametrize("place", ["Image", "Image/gen", "Mask", "Mask/gen"])
def test_outputs_among_the_sources_are_refused(paint, lidc, key, place, files):
    before = files(lidc)
    code, _, error = paint(f"{key}={lidc / 'Normal' / place}")
    assert code == 1 and f"error: {key}={lidc / 'Normal' / place} lies in {lidc / 'Normal'}" in error
    assert files(lidc) == before
