"""Parity with the reference implementation, on numbers computed with it."""

import os
from pathlib import Path

import pytest
import torch

from LeFusion.diffusion import NoiseSchedule, load_checkpoint, repaint_step, repaint_times
from LeFusion.losses import lesion_loss
from LeFusion.textures.histograms import lesion_histogram

GOLDEN = Path(os.environ.get("LEFUSION_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
pytestmark = pytest.mark.skipif(
    not (GOLDEN / "golden.pt").exists(),
    reason=f"reference numbers not found in {GOLDEN} (set LEFUSION_GOLDEN)",
)
DATA_TYPES = ("lidc", "emidec")
SCHEDULE = NoiseSchedule.cosine(300)


@pytest.fixture(scope="module")
def golden() -> dict:
    return torch.load(GOLDEN / "golden.pt", weights_only=True)


def assert_close(ours: torch.Tensor, reference: torch.Tensor, relative: float = 1e-5) -> None:
    assert ours.shape == reference.shape
    assert (ours - reference).norm() <= relative * reference.norm()


@pytest.mark.parametrize("weights", ["model", "ema"])
@pytest.mark.parametrize("name", DATA_TYPES)
@torch.no_grad()
def test_network_output(golden, name, weights):
    numbers = golden[name]
    network = load_checkpoint(GOLDEN / f"{name}.pt", weights).network
    assert_close(network(numbers["x"], numbers["t"], numbers["cond"]), numbers[f"forward_{weights}"])


@pytest.mark.parametrize("name", DATA_TYPES)
def test_network_output_with_gradients_enabled(golden, name):
    numbers = golden[name]
    network = load_checkpoint(GOLDEN / f"{name}.pt").network
    assert_close(network(numbers["x"], numbers["t"], numbers["cond"]).detach(), numbers["forward_ema"])


@torch.no_grad()
def test_diffmask_network_output(golden):
    numbers = golden["diffmask"]
    network = load_checkpoint(GOLDEN / "diffmask.pt").network
    sphere = numbers["sphere_uint8"].float().expand(2, 1, -1, -1, -1)
    x = torch.cat([numbers["x"], sphere], dim=1)
    outputs = [load_checkpoint(GOLDEN / "diffmask.pt", w).network(x, numbers["t"]) for w in ("ema", "model")]
    errors = [float((y - numbers["forward"]).norm() / numbers["forward"].norm()) for y in outputs]
    assert min(errors) < 1e-5
    assert network.config["out_channels"] == 1


@pytest.mark.parametrize("name", ["lidc", "emidec", "diffmask"])
def test_released_format_loads_and_tells_its_size(name):
    checkpoint = load_checkpoint(GOLDEN / f"{name}.pt")
    channels, cond_dim = {"lidc": (1, 16), "emidec": (2, 32), "diffmask": (2, None)}[name]
    assert checkpoint.network.config["in_channels"] == channels
    assert checkpoint.network.config["cond_dim"] == cond_dim
    assert checkpoint.network.config["dim_mults"] == [1, 2, 4, 8]
    assert checkpoint.metadata["step"] == (77 if name == "diffmask" else 1234)
    assert checkpoint.metadata["schedule"] == {"kind": "cosine", "num_steps": 300}
    assert not checkpoint.network.training


@pytest.mark.parametrize("name", DATA_TYPES)
def test_schedule(golden, name):
    numbers = golden[name]
    assert torch.equal(SCHEDULE.betas, numbers["betas"])
    assert torch.equal(SCHEDULE.alphas_cumprod, numbers["alphas_cumprod"])
    assert_close(SCHEDULE.q_sample(numbers["x0"], numbers["t"], numbers["noise"]), numbers["q_sample"], 1e-6)
    assert_close(
        SCHEDULE.predict_x0(numbers["x"], numbers["t"], numbers["noise"]), numbers["predict_x0"], 1e-6
    )
    mean, variance, log_variance = SCHEDULE.posterior(numbers["x0"], numbers["x"], numbers["t"])
    assert_close(mean, numbers["posterior_mean"], 1e-6)
    assert_close(variance, numbers["posterior_variance"], 1e-6)
    assert_close(log_variance, numbers["posterior_log_variance"], 1e-6)


def lesions_of(label: torch.Tensor, name: str) -> torch.Tensor:
    values = (1,) if name == "lidc" else (3, 4)
    return torch.cat([label == value for value in values], dim=1)


@pytest.mark.parametrize("level", [0, 150, 299])
@pytest.mark.parametrize("name", DATA_TYPES)
@torch.no_grad()
def test_repaint_step(golden, name, level):
    numbers, step = golden[name], golden[name][f"repaint_step_t{level}"]
    errors = []
    for weights in ("model", "ema"):
        network = load_checkpoint(GOLDEN / f"{name}.pt", weights).network
        out = repaint_step(
            lambda x, t, network=network: network(x, t, numbers["cond"]),
            numbers["x"],
            level,
            level - 1,
            numbers["x0"],
            lesions_of(numbers["label"], name),
            SCHEDULE,
            step["noise_background"],
            step["noise_step"],
        )
        errors.append(float((out - step["out"]).norm() / step["out"].norm()))
    assert min(errors) < 1e-5


@pytest.mark.parametrize("name", DATA_TYPES)
def test_undo(golden, name):
    undo = golden[name]["undo_t41"]
    t = torch.full((2,), 41)
    assert_close(SCHEDULE.renoise(golden[name]["x"], t, undo["noise"]), undo["out"], 1e-6)
    assert_close(SCHEDULE.renoise(golden[name]["x"], t, undo["noise"], t - 1), undo["out"], 1e-6)


def test_jump_lists(golden):
    assert golden["jump"]
    for key, walk in golden["jump"].items():
        num_steps, jump_length, jump_n_sample = (int(v) for v in key.strip("()").split(","))
        assert repaint_times(num_steps, jump_length, jump_n_sample) == walk


@pytest.mark.parametrize("loss_type", ["l1", "l2"])
@pytest.mark.parametrize("name", DATA_TYPES)
@torch.no_grad()
def test_loss(golden, name, loss_type):
    """Averaged over the whole volume, as the released networks were trained."""
    numbers = golden[name]
    x_t = SCHEDULE.q_sample(numbers["x0"], numbers["t"], numbers["noise"])
    errors = []
    for weights in ("model", "ema"):
        network = load_checkpoint(GOLDEN / f"{name}.pt", weights).network
        predicted = network(x_t, numbers["t"], numbers["cond"])
        lesions = lesions_of(numbers["label"], name)
        loss = lesion_loss(predicted, numbers["noise"], lesions, loss_type, "volume")
        errors.append(abs(float(loss / numbers[f"loss_{loss_type}"]) - 1))
    assert min(errors) < 1e-5


@torch.no_grad()
def test_diffmask_loss(golden):
    numbers = golden["diffmask"]
    sphere = numbers["sphere_uint8"].float().expand(2, 1, -1, -1, -1)
    x_t = SCHEDULE.q_sample(numbers["x0"], numbers["t"], numbers["noise"])
    errors = []
    for weights in ("model", "ema"):
        network = load_checkpoint(GOLDEN / "diffmask.pt", weights).network
        predicted = network(torch.cat([x_t, sphere], dim=1), numbers["t"])
        loss = (predicted - numbers["noise"]).abs().mean()
        errors.append(abs(float(loss / numbers["loss_l1"]) - 1))
    assert min(errors) < 1e-5


@pytest.mark.parametrize("name", DATA_TYPES)
def test_histogram(golden, name):
    numbers = golden[name]
    lesions = lesions_of(numbers["label"], name)
    for i in range(2):
        assert_close(lesion_histogram(numbers["x0"][i], lesions[i]), numbers["histogram"][i], 1e-6)
