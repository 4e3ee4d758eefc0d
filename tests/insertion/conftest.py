"""A small chest with a lung, tiny networks, and what inserts lesions with them."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

SHAPE = (20, 48, 52)  # (D, H, W)
SPACING_MM = (2.0, 1.0, 1.0)
# Of an array (D, H, W) whose axes run to S, P and L
AFFINE = np.array([[0, 0, -1.0, 60], [0, -1.0, 0, 80], [2.0, 0, 0, -300], [0, 0, 0, 1]])


def chest_hu(seed: int = 0) -> np.ndarray:
    """(D, H, W) int16: a chest wall, and lung from column 10 on, with a vessel."""
    hu = np.random.default_rng(seed).normal(40, 20, SHAPE)
    hu[:, :, 10:] -= 890
    hu[:, 30:33, 40:43] += 850
    return hu.astype(np.int16)


@pytest.fixture
def chest(tmp_path, save_as):
    """-> chest(codes, name, seed): the path of a scan stored in this order of axes."""

    def save(codes: str = "LPS", name: str = "A.nii.gz", seed: int = 0, dtype=np.int16) -> Path:
        path = tmp_path / "scans" / name
        save_as(codes, path, chest_hu(seed).astype(dtype), AFFINE)
        return path

    return save


@pytest.fixture
def networks(save_network, save_mask_network) -> dict[str, Path]:
    """Random weights of both networks."""
    return {
        "model_path": save_network("paint.safetensors", edit_margin_mm=2),
        "mask_model_path": save_mask_network(),
    }


@pytest.fixture
def overrides(networks, tmp_path) -> dict:
    """Settings of a fast run on the chest."""
    return {
        **networks,
        "output": tmp_path / "out",
        "device": "cpu",
        "diffusion_depth_size": 8,
        "diffusion_img_size": 16,
        "num_steps": 2,
        "mask_steps": 2,
        "max_redraws": 2,
        "viewer": False,
    }


@lru_cache
def defaults() -> dict:
    from hydra import compose, initialize_config_dir

    from LeFusion.runtime.commandline import PROJECT_ROOT, plain

    with initialize_config_dir(str(PROJECT_ROOT / "configs"), version_base=None):
        return plain(compose("insert", ["input=unused", "output=unused"]))


@pytest.fixture
def settings(overrides):
    """-> settings(**given): those of a run."""
    from LeFusion.settings import InsertSettings

    def of(**given) -> InsertSettings:
        chosen = {key: str(v) if isinstance(v, Path) else v for key, v in (overrides | given).items()}
        return InsertSettings.of(defaults() | chosen)

    return of


@pytest.fixture
def tools(settings):
    from LeFusion.insertion.tools import Tools

    return Tools.of(settings())
