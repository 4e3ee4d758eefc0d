"""Parity of DiffMask with the reference implementation, on numbers computed with it."""

import os
from pathlib import Path

import pytest
import torch

from DiffMask.losses import MaskLoss, mask_loss
from DiffMask.sampling import sample_masks
from DiffMask.sphere import Sphere, bounding_sphere, draw_sphere, encode_sphere, sphere_encoding
from LeFusion.diffusion import NoiseSchedule, load_checkpoint

GOLDEN = Path(os.environ.get("LEFUSION_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
pytestmark = pytest.mark.skipif(
    not (GOLDEN / "golden.pt").exists(),
    reason=f"reference numbers not found in {GOLDEN} (set LEFUSION_GOLDEN)",
)
SCHEDULE = NoiseSchedule.cosine(300)


@pytest.fixture(scope="module")
def golden() -> dict:
    return torch.load(GOLDEN / "golden.pt", weights_only=True)["diffmask"]


def sphere_of(golden) -> torch.Tensor:
    """The sphere as the released networks see it, (2, 1, D, H, W)."""
    lesion = golden["lesion"][0]
    encoded = encode_sphere(draw_sphere(bounding_sphere(lesion), lesion.shape), "released")
    return encoded.expand(2, 1, -1, -1, -1)


def test_the_sphere(golden):
    sphere = bounding_sphere(golden["lesion"][0])
    assert sphere == Sphere(tuple(golden["sphere_centre"].tolist()), int(golden["sphere_radius"]))
    assert torch.equal(sphere_of(golden)[0], golden["sphere_uint8"].float())


@torch.no_grad()
def test_output_and_loss(golden):
    """Computed with one of the two sets of weights, both with the same."""
    x_t = SCHEDULE.q_sample(golden["x0"], golden["t"], golden["noise"])
    errors = []
    for weights in ("ema", "model"):
        network = load_checkpoint(GOLDEN / "diffmask.pt", weights).network
        forward, output = (
            network(torch.cat([x, sphere_of(golden)], dim=1), golden["t"]) for x in (golden["x"], x_t)
        )
        far = (forward - golden["forward"]).norm() / golden["forward"].norm()
        errors.append(
            max(float(far), abs(float(mask_loss(output, golden["noise"], "l1") / golden["loss_l1"]) - 1))
        )
    assert min(errors) < 1e-5


@torch.no_grad()
def test_the_loss_function_takes_a_released_network(golden):
    """The loss of a batch is that of the levels and noises drawn, put in by hand."""
    checkpoint = load_checkpoint(GOLDEN / "diffmask.pt")
    batch = {"mask": golden["x0"], "sphere": sphere_of(golden), "draw": [0, 1]}
    shown = []

    def spy(x, t):
        shown.append((x, t))
        return checkpoint.network(x, t)

    loss = MaskLoss(SCHEDULE, seed=0)(spy, batch)
    (x, t) = shown[0]
    assert torch.equal(x[:, 1:], sphere_of(golden))
    signal = SCHEDULE.alphas_cumprod[t].reshape(-1, 1, 1, 1, 1)
    noise = (x[:, :1] - signal.sqrt() * golden["x0"]) / (1 - signal).sqrt()
    assert float(loss) == pytest.approx(float((checkpoint.network(x, t) - noise).abs().mean()), rel=1e-4)


def test_the_released_format_samples_with_its_own_sphere(golden):
    checkpoint = load_checkpoint(GOLDEN / "diffmask.pt")
    assert sphere_encoding(checkpoint.metadata) == "released"
    masks = [
        sample_masks(checkpoint.network, SCHEDULE, sphere, [(0, "golden")], "dpmpp", num_steps=4)
        for sphere in (sphere_of(golden)[:1], encode_sphere(golden["sphere_uint8"][None] == 1, "signed"))
    ]
    assert masks[0].shape == (1, 1, 8, 16, 16) and bool(masks[0].isfinite().all())
    assert not torch.equal(*masks)  # the encoding matters
