"""The yardstick of benchmarks/network.py computes the same numbers as UNet3D."""

import math
import os
from pathlib import Path

import pytest
import torch
from plain_unet import PlainUNet3D, quarter_turn, rotate, rotate_complex

from LeFusion.diffusion import UNet3D, load_checkpoint

GOLDEN = Path(os.environ.get("LEFUSION_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
OPTIONS = [
    {},
    {"sdpa": True},
    {"complex_rotary": True},
    {"sdpa": True, "complex_rotary": True},
]


def make(**sizes) -> UNet3D:
    """A tiny network whose gains are not all 1 and biases not all small."""
    torch.manual_seed(0)
    tiny = {"dim": 8, "in_channels": 1, "cond_dim": 16, "attn_heads": 2, "attn_dim_head": 8}
    network = UNet3D(**(tiny | sizes)).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def inputs(channels=1, depth=5, classes=1) -> tuple[torch.Tensor, ...]:
    """A batch of 3 whose second condition is dropped; planes that are not square."""
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(3, channels, depth, 8, 16, generator=generator)
    cond = torch.rand(3, 16 * classes, generator=generator)
    return x_t, torch.tensor([0, 120, 299]), cond, torch.tensor([False, True, False])


def relative_error(plain: torch.Tensor, ours: torch.Tensor) -> float:
    assert plain.shape == ours.shape and plain.dtype == ours.dtype
    return float((plain - ours).norm() / ours.norm())


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
@pytest.mark.parametrize(
    "sizes, depth",
    [
        ({}, 5),
        ({"in_channels": 2, "cond_dim": 32}, 4),
        ({"in_channels": 3, "out_channels": 1, "dim_mults": (1, 2)}, 1),
        ({"attn_dim_head": 40, "dim_mults": (2, 1)}, 3),  # 32 of the 40 channels of a head are turned
        ({"dim_mults": (1,)}, 70),  # no downsampling; distances beyond the last bucket
    ],
    ids=["one class", "two classes", "context channels", "part of a head turned", "deep"],
)
@torch.no_grad()
def test_the_same_numbers(sizes, depth, options):
    network = make(**sizes)
    plain = PlainUNet3D.like(network, **options)
    x_t, t, cond, dropped = inputs(network.config["in_channels"], depth, network.config["cond_dim"] // 16)
    assert relative_error(plain(x_t, t, cond, dropped), network(x_t, t, cond, dropped)) < 1e-5
    assert relative_error(plain(x_t, t), network(x_t, t)) < 1e-5


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options) or "plain")
@torch.no_grad()
def test_the_same_numbers_without_condition(options):
    network = make(cond_dim=None, in_channels=2, dim_mults=(1, 2))
    x_t, t, *_ = inputs(2)
    assert relative_error(PlainUNet3D.like(network, **options)(x_t, t), network(x_t, t)) < 1e-5


@torch.no_grad()
def test_weights_are_copies_with_planar_kernels():
    network = make()
    plain = PlainUNet3D.like(network)
    shapes = {name: tuple(value.shape) for name, value in plain.state_dict().items()}
    assert shapes.keys() == network.state_dict().keys()
    assert shapes["init_conv.weight"] == (8, 1, 1, 7, 7)
    assert shapes["downs.0.2.to_qkv.weight"] == (48, 8, 1, 1, 1)
    x_t, t, cond, dropped = inputs()
    before = network(x_t, t, cond, dropped)
    for parameter in plain.parameters():
        parameter.zero_()
    assert torch.equal(network(x_t, t, cond, dropped), before) and not plain.training


@torch.no_grad()
def test_an_input_is_left_alone():
    x_t, t, cond, dropped = inputs()
    plain, before = PlainUNet3D.like(make(dim_mults=(1, 2))), (x_t.clone(), t.clone(), cond.clone())
    plain(x_t, t, cond, dropped)
    for given, kept in zip((x_t, t, cond), before, strict=True):
        assert torch.equal(given, kept)


def test_rotary_by_hand():
    """One pair at position 2, frequency 0.5, is turned by 1 radian; what lies beyond the pairs is kept."""
    y, frequencies = torch.zeros(1, 1, 3, 4), torch.tensor([0.5])
    y[..., 2, :] = torch.tensor([3.0, 4.0, 5.0, 6.0])
    cos, sin = math.cos(1), math.sin(1)
    expected = torch.tensor([3 * cos - 4 * sin, 3 * sin + 4 * cos, 5, 6])
    angle = torch.arange(3)[:, None] * frequencies
    rotation = torch.polar(torch.ones_like(angle), angle)
    for turned in (rotate(y, frequencies), rotate_complex(y, rotation)):
        assert torch.allclose(turned[0, 0, 2], expected) and torch.equal(turned[..., :2, :], y[..., :2, :])
    assert quarter_turn(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [-2, 1, -4, 3]


@pytest.mark.skipif(
    not (GOLDEN / "golden.pt").exists(),
    reason=f"reference numbers not found in {GOLDEN} (set LEFUSION_GOLDEN)",
)
@pytest.mark.parametrize("name", ["lidc", "emidec"])
@torch.no_grad()
def test_reference_numbers(name):
    numbers = torch.load(GOLDEN / "golden.pt", weights_only=True)[name]
    plain = PlainUNet3D.like(load_checkpoint(GOLDEN / f"{name}.pt").network)
    out = plain(numbers["x"], numbers["t"], numbers["cond"])
    assert relative_error(out, numbers["forward_ema"]) < 1e-5
