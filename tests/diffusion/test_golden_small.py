"""Parity with the reference implementation on the numbers in tests/golden, which every clone has."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from DiffMask.sphere import Sphere, bounding_sphere, draw_sphere, encode_sphere
from LeFusion.diffusion import NoiseSchedule, UNet3D, repaint_step, repaint_times
from LeFusion.losses import lesion_loss
from LeFusion.textures.histograms import lesion_histogram

NUMBERS = np.load(Path(__file__).parents[1] / "golden" / "reference.npz", allow_pickle=False)
LESIONS = {"lidc": (1,), "emidec": (3, 4)}
SCHEDULE = NoiseSchedule.cosine(300)
NETWORKS = {  # channels in and out, and the length of the condition, of the released networks
    "lidc": (1, 1, 16),
    "emidec": (2, 2, 32),
    "diffmask": (2, 1, None),
}


def number(name: str) -> torch.Tensor:
    return torch.from_numpy(NUMBERS[name])


def assert_close(ours: torch.Tensor, reference: torch.Tensor, relative: float = 1e-6) -> None:
    assert ours.shape == reference.shape
    assert (ours - reference).norm() <= relative * reference.norm()


def classes(label: torch.Tensor, name: str, axis: int = 1) -> torch.Tensor:
    return torch.cat([label == value for value in LESIONS[name]], dim=axis)


def at_lesions(name: str, *keys: str) -> list[torch.Tensor]:
    """(2, K, 1, 1, voxels) each: the lesion voxels of the two samples; their classes come last."""
    counts = NUMBERS[f"{name}/lesion_counts"].tolist()
    assert counts[0] == counts[1]
    values = [
        torch.stack(number(f"{name}/lesion_{key}").split(counts, dim=1))[:, :, None, None] for key in keys
    ]
    label = torch.stack(number(f"{name}/lesion_labels").split(counts))[:, None, None, None]
    return [*values, classes(label, name)]


def test_schedule():
    assert torch.equal(SCHEDULE.betas, number("betas"))
    assert torch.equal(SCHEDULE.alphas_cumprod, number("alphas_cumprod"))


@pytest.mark.parametrize("name", LESIONS)
def test_moves_between_levels(name):
    x, x0, noise, t = (number(f"{name}/{key}") for key in ("x", "x0", "noise", "t"))
    assert_close(SCHEDULE.q_sample(x0, t, noise), number(f"{name}/q_sample"))
    assert_close(SCHEDULE.predict_x0(x, t, noise), number(f"{name}/predict_x0"))
    for ours, key in zip(SCHEDULE.posterior(x0, x, t), ("mean", "variance", "log_variance"), strict=True):
        assert_close(ours, number(f"{name}/posterior_{key}"))
    undone = SCHEDULE.renoise(x, torch.full((2,), 41), number(f"{name}/undo_noise"))
    assert_close(undone, number(f"{name}/undo_out"))


def numbers_of(shape, seed: int) -> torch.Tensor:
    """Numbers in [-1, 1]; RandomState's are frozen: the same with every version of NumPy."""
    return torch.from_numpy(np.random.RandomState(seed).uniform(-1, 1, shape)).float()


def network_output(name: str) -> torch.Tensor:
    """(2, out_channels, 5, 16, 16) of a small network of fixed weights."""
    channels, out_channels, cond_dim = NETWORKS[name]
    network = UNet3D(8, channels, out_channels, cond_dim, attn_heads=2, attn_dim_head=8).eval()
    for seed, (key, value) in enumerate(sorted(network.named_parameters())):
        gain = key.endswith("gamma") or "norm.weight" in key
        fan_in = value[0].numel() if value.ndim > 1 else 16
        value.copy_(gain + numbers_of(value.shape, seed) * (3 / fan_in) ** 0.5)
    cond = None if cond_dim is None else numbers_of((2, cond_dim), 2).abs()
    return network(numbers_of((2, channels, 5, 16, 16), 1), torch.tensor([3, 250]), cond)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_network(name):
    assert_close(network_output(name)[:, :, 1:3, 6:10, 6:10], number(f"network/{name}"), 1e-5)


@pytest.mark.parametrize("name, level", [("lidc", 0), ("lidc", 150), ("lidc", 299), ("emidec", 150)])
def test_repaint_step(name, level):
    """The network's output is given, so that the rest of the step is what is tested."""
    predicted, background, noise, expected = (
        number(f"{name}/step{level}_{key}") for key in ("predicted", "background", "noise", "out")
    )
    x, x0 = number(f"{name}/x"), number(f"{name}/x0")
    lesions = classes(number(f"{name}/label"), name)
    out = repaint_step(lambda *_: predicted, x, level, level - 1, x0, lesions, SCHEDULE, background, noise)
    assert_close(out, expected, 1e-5)


@pytest.mark.parametrize("kind", ["l1", "l2"])
@pytest.mark.parametrize("name", LESIONS)
def test_loss(name, kind):
    """The mean over the whole volume: beside the lesions it adds nothing but voxels."""
    predicted, noise, lesions = at_lesions(name, "predicted", "noise")
    share = lesions.shape[-1] / np.prod(NUMBERS[f"{name}/shape"][2:])
    loss = lesion_loss(predicted, noise, lesions, kind, "volume") * share
    assert float(loss) == pytest.approx(float(number(f"{name}/loss_{kind}")), rel=1e-5)


@pytest.mark.parametrize("name", LESIONS)
def test_histogram(name):
    x0, lesions = at_lesions(name, "x0")
    for i in range(2):
        assert_close(lesion_histogram(x0[i], lesions[i]), number(f"{name}/histogram")[i])


@pytest.mark.parametrize("key", [key for key in NUMBERS.files if key.startswith("jump/")])
def test_jump_lists(key):
    walk = repaint_times(*map(int, key.removeprefix("jump/").split(",")))
    assert hashlib.sha256(str(walk).encode()).digest() == NUMBERS[key].tobytes()


def test_the_sphere_of_diffmask():
    shape = NUMBERS["diffmask/shape"]
    lesion = torch.from_numpy(np.unpackbits(NUMBERS["diffmask/lesion"])[: shape.prod()].reshape(shape))[0]
    sphere = bounding_sphere(lesion)
    assert sphere == Sphere(tuple(NUMBERS["diffmask/centre"].tolist()), int(NUMBERS["diffmask/radius"]))
    encoded = encode_sphere(draw_sphere(sphere, lesion.shape), "released")
    assert torch.equal(encoded.reshape(tuple(shape)), number("diffmask/sphere").float())
