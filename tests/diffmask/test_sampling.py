"""Sampling with networks whose answer is known, and with a tiny one."""

import pytest
import torch
from torch import nn

from DiffMask.sampling import sample_masks
from LeFusion.diffusion import NoiseSchedule, UNet3D

SCHEDULE = NoiseSchedule.cosine(50)
SAMPLERS = ["repaint", "ddim", "dpmpp"]


class Copies(nn.Module):
    """Believes that the mask is the sphere: predicts the noise, or velocity, that says so."""

    def __init__(self, prediction="noise"):
        super().__init__()
        self.prediction, self.unused = prediction, nn.Parameter(torch.zeros(1))

    def forward(self, x, t):
        x_t, sphere = x.split(1, dim=1)
        signal, spread = (v.float().reshape(-1, 1, 1, 1, 1) for v in SCHEDULE.signal_and_noise(t))
        noise = (x_t - signal * sphere) / spread
        return noise if self.prediction == "noise" else signal * noise - spread * sphere


@pytest.fixture
def spheres():
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(3, 1, 4, 8, 8, generator=generator) < 0.4) * 2.0 - 1


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_mask_that_the_network_believes_in_comes_out(spheres, sampler, prediction):
    masks = sample_masks(
        Copies(prediction),
        SCHEDULE,
        spheres,
        [(0, i) for i in range(3)],
        sampler,
        num_steps=10,
        prediction=prediction,
    )
    torch.testing.assert_close(masks, spheres, atol=1e-3, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_mask_depends_on_its_sphere_and_address_only(spheres, tiny_model, sampler):
    torch.manual_seed(0)
    network = UNet3D(in_channels=2, out_channels=1, **tiny_model).eval()

    def sample(rows, numbers, num_steps=3):
        addresses = [(0, "case", n) for n in numbers]
        return sample_masks(network, SCHEDULE, spheres[rows], addresses, sampler, num_steps)

    together = sample([0, 1, 2], [0, 1, 2])
    assert together.shape == spheres.shape and float(together.abs().max()) <= 1
    torch.manual_seed(5)
    assert torch.equal(sample([2, 0], [2, 0]), together[[2, 0]])
    assert not torch.equal(sample([0], [9]), together[:1])
    assert not torch.equal(sample([1], [0]), together[:1])


def test_all_levels_are_visited_unless_told_otherwise(spheres):
    class Counting(Copies):
        calls = 0

        def forward(self, x, t):
            self.calls += 1
            return super().forward(x, t)

    network = Counting()
    sample_masks(network, SCHEDULE, spheres[:1], [(0,)])
    assert network.calls == 50


def test_an_unknown_sampler_is_named(spheres):
    with pytest.raises(ValueError, match="'euler'.*repaint, ddim, dpmpp"):
        sample_masks(Copies(), SCHEDULE, spheres, [(0,)] * 3, "euler")
