"""Small hearts, and the inference command on them with the smallest network."""

import numpy as np
import pytest
from painted_hearts import NORMAL, SICK, TEST_CASE, save

import LeFusion.inference.inference as inference

SHAPE = (40, 46)  # rows and columns; the heart lies off their middle


def heart(slices, centre, septum, lesion=None, no_reflow=False, tissue=120, seed=0):
    """Image and labels (H, W, D) of a ring of wall around a cavity, apex first, with a right ventricle.

    septum, lesion: angles to the middle of the septum and of an arc of infarct, in radians; None: no infarct.
    tissue: the intensity of healthy myocardium; blood is 300.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    radius, angle = np.hypot(y - centre[0], x - centre[1]), np.arctan2(y - centre[0], x - centre[1])

    def within(middle, width):
        return abs(np.angle(np.exp(1j * (angle - middle)))) < width

    image = np.full((*SHAPE, slices), 40.0)
    labels = np.zeros((*SHAPE, slices), np.uint8)
    for z in range(slices):
        outer = 8 + 2.5 * (z + 1) / slices
        inner = 0.55 * outer
        labels[..., z][radius < outer] = 2
        labels[..., z][radius < inner] = 1
        image[..., z][within(septum, 0.8) & (radius < outer + 6)] = 300
        image[..., z][labels[..., z] == 2] = tissue
        image[..., z][labels[..., z] == 1] = 300
        if lesion is not None and 0 < z < slices - 1:
            arc = (labels[..., z] == 2) & within(lesion, 0.9)
            labels[..., z][arc] = 3
            core = arc & within(lesion, 0.3) & (radius < inner + 3)
            labels[..., z][core if no_reflow else arc & False] = 4
    image[labels == 3], image[labels == 4] = 260, 60
    image = (image + rng.normal(0, 8, image.shape)).clip(0, 400)
    return image.astype(np.int16), labels


@pytest.fixture
def hearts(tmp_path):
    """Normal/ with three hearts, Pathological/ with four, the last one in its test.txt."""
    root = tmp_path / "EMIDEC"
    for number, name in enumerate(NORMAL):
        options = {"centre": (15 + number, 28), "septum": -2.6 + number, "tissue": 120 + 40 * number}
        save(root / "Normal", name, *heart(4 + number, seed=number, **options))
    for number, name in enumerate(SICK):
        options = {"centre": (22, 17 + number), "septum": 2.0 - number, "lesion": 0.9 * number}
        save(root / "Pathological", name, *heart(5, no_reflow=number < 2, seed=9 + number, **options))
    (root / "Pathological" / "test.txt").write_text(f"{TEST_CASE}\n")
    return root


@pytest.fixture
def paint(hearts, save_network, tmp_path, command):
    """-> paint("Normal" or "Pathological", *overrides, out="out"): (exit code, stdout, stderr)."""
    model = save_network("tiny_heart.safetensors", in_channels=2, data_type="emidec", window="minmax")

    def call(cases, *overrides, out="out"):
        defaults = {
            "data_type": "emidec",
            "model_path": model,
            "dataset_root_dir": hearts / cases / "images",
            "target_img_path": tmp_path / out / "Image",
            "target_label_path": tmp_path / out / "Mask",
            "donors_test_txt": hearts / "Pathological" / "test.txt",
            "sampler": "ddim",
            "num_steps": 2,
            "diffusion_depth_size": 6,
            "diffusion_img_size": 24,
            "device": "cpu",
            "preview_cases": 1,
        }
        given = {override.split("=", 1)[0] for override in overrides}
        kept = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        return command(inference.main, "inference", *kept, *overrides)

    return call


@pytest.fixture
def donors(hearts):
    return f"lesions_from={hearts / 'Pathological'}"
