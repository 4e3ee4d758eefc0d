"""The network: shapes, independence of the batch, its two ways of computing, and each layer by its formula.

Parity with the released network is in test_golden.py.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from LeFusion.diffusion import UNet3D, unet
from LeFusion.diffusion.unet import (
    DepthAttention,
    PlaneAttention,
    PlaneLinearAttention,
    RelativePositionBias,
    SinusoidalEmbedding,
    SliceConv2d,
    SliceConvTranspose2d,
)
from LeFusion.errors import UserError

TINY = {"attn_heads": 2, "attn_dim_head": 8}


def make(seed=0, **sizes) -> UNet3D:
    torch.manual_seed(seed)
    return UNet3D(**({"dim": 8, "in_channels": 1, "cond_dim": 16} | TINY | sizes)).eval()


@pytest.fixture(scope="module")
def network() -> UNet3D:
    return make()


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_t, t and a condition for a batch of 3; odd depth, planes that are not square."""
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(3, 1, 5, 8, 16, generator=generator)
    return x_t, torch.tensor([0, 120, 299]), torch.rand(3, 16, generator=generator)


def relative_error(ours: torch.Tensor, expected: torch.Tensor) -> float:
    assert ours.shape == expected.shape
    return float((ours - expected).norm() / expected.norm())


# --- shapes and what is refused


@pytest.mark.parametrize(
    "in_channels, out_channels, shape",
    [(1, None, (1, 3, 8, 16)), (2, None, (2, 1, 8, 8)), (2, 1, (1, 5, 16, 8)), (1, 3, (3, 2, 8, 8))],
)
@torch.no_grad()
def test_output_shape(in_channels, out_channels, shape):
    network = make(in_channels=in_channels, out_channels=out_channels, cond_dim=None)
    out = network(torch.randn(2, in_channels, *shape[1:]), torch.tensor([5, 9]))
    assert out.shape == (2, *shape) and bool(out.isfinite().all())
    assert network.config["out_channels"] == shape[0]


@torch.no_grad()
def test_planes_may_be_odd_multiples_and_levels_decide_of_what():
    network = make(dim_mults=(1, 2))
    assert network.plane_multiple == 2 and make(dim_mults=(1, 2, 4, 8)).plane_multiple == 8
    assert network(torch.randn(1, 1, 3, 6, 10), torch.tensor([3])).shape == (1, 1, 3, 6, 10)


@pytest.mark.parametrize(
    "x_shape, cond_shape, message",
    [
        ((2, 3, 4, 8, 8), (2, 16), r"x_t must have shape \(B, 1, D, H, W\), got \(2, 3, 4, 8, 8\)"),
        ((2, 4, 8, 8), (2, 16), "x_t must have shape"),
        ((2, 1, 4, 12, 8), (2, 16), r"multiples of 8, got \(12, 8\)"),
        ((2, 1, 4, 8, 12), (2, 16), r"multiples of 8, got \(8, 12\)"),
        ((2, 1, 4, 8, 8), (2, 32), r"cond must be \(2, 16\), got \(2, 32\)"),
        ((2, 1, 4, 8, 8), (1, 16), r"cond must be \(2, 16\), got \(1, 16\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(network, x_shape, cond_shape, message):
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(x_shape), torch.zeros(2, dtype=torch.long), torch.zeros(cond_shape))


def test_a_network_without_condition_refuses_one():
    with pytest.raises(ValueError, match=r"cond must be None, got \(1, 16\)"):
        make(cond_dim=None)(torch.zeros(1, 1, 2, 8, 8), torch.tensor([0]), torch.zeros(1, 16))


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="dim=12 must be a multiple of 8"):
        make(dim=12)
    with pytest.raises(ValueError, match="attn_dim_head=7 must be even"):
        make(attn_dim_head=7)


def test_the_config_builds_the_same_network(network):
    twin = UNet3D(**network.config)
    twin.load_state_dict(network.state_dict(), strict=True)
    assert twin.config == network.config


# --- what the output depends on


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(network, inputs):
    x_t, t, cond = inputs
    dropped = torch.tensor([False, True, False])
    together = network(x_t, t, cond, dropped)
    for i in range(3):
        alone = network(*(values[i : i + 1] for values in (x_t, t, cond, dropped)))[0]
        assert relative_error(alone, together[i]) < 1e-5


@torch.no_grad()
def test_a_dropped_condition_is_no_condition(network, inputs):
    x_t, t, cond = inputs
    without, given = network(x_t, t), network(x_t, t, cond)
    mixed = network(x_t, t, cond, torch.tensor([False, True, False]))
    assert torch.equal(mixed[1], without[1]) and torch.equal(mixed[[0, 2]], given[[0, 2]])
    assert relative_error(given, without) > 1e-3
    assert torch.equal(network(x_t, t, cond, torch.zeros(3, dtype=torch.bool)), given)


def test_nan_in_a_condition_is_refused(network, inputs):
    x_t, t, cond = inputs
    cond[1, 3] = torch.nan
    with pytest.raises(UserError, match="cond holds NaN in row 1"):
        network(x_t, t, cond)


@torch.no_grad()
def test_level_and_order_of_slices_matter(network, inputs):
    x_t, t, cond = inputs
    out = network(x_t, t, cond)
    assert relative_error(network(x_t, t.flip(0), cond), out) > 1e-3
    assert relative_error(network(x_t.flip(2), t, cond).flip(2), out) > 1e-3


@torch.no_grad()
def test_slices_are_placed_by_rotary_frequencies(inputs):
    network = make(attn_dim_head=64)  # 32 of the 64 channels of a head are turned
    expected = torch.tensor([10_000 ** (-i / 16) for i in range(16)])
    assert torch.allclose(network.rotary_frequencies, expected)
    assert make(attn_dim_head=8).rotary_frequencies.shape == (4,)
    out = network(*inputs)
    network.rotary_frequencies.zero_()
    assert relative_error(network(*inputs), out) > 1e-4


# --- with and without gradients, in pieces, in half precision


def test_the_path_without_gradients_computes_the_same(network, inputs):
    with_gradients = network(*inputs)
    with torch.no_grad():
        without = network(*inputs)
    assert with_gradients.requires_grad and not without.requires_grad
    assert relative_error(without, with_gradients.detach()) < 1e-5


@pytest.mark.parametrize("in_channels", [1, 2])
def test_inputs_are_left_alone(in_channels):
    network = make(in_channels=in_channels)
    x_t, t, cond = torch.randn(2, in_channels, 3, 8, 8), torch.tensor([1, 2]), torch.rand(2, 16)
    before = [v.clone() for v in (x_t, t, cond)]
    weights = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        network(x_t, t, cond)
    network(x_t, t, cond)
    assert all(torch.equal(a, b) for a, b in zip((x_t, t, cond), before, strict=True))
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


@torch.no_grad()
def test_attention_in_pieces_is_attention_in_one_go(network, inputs, monkeypatch):
    pieces = {}
    for chunk_bytes in (1, 1 << 40):
        calls = []
        for layer in (PlaneLinearAttention, DepthAttention):
            attend = layer.attend

            def counted(self, x, *args, attend=attend, calls=calls):
                calls.append(type(self))
                return attend(self, x, *args)

            monkeypatch.setattr(layer, "attend", counted)
        monkeypatch.setattr(unet, "CHUNK_BYTES", chunk_bytes)
        pieces[chunk_bytes] = network(*inputs), calls
        monkeypatch.undo()
    (finest, many), (whole, few) = pieces[1], pieces[1 << 40]
    assert few.count(PlaneLinearAttention) == 8 and few.count(DepthAttention) == 10  # one call a layer
    assert many.count(PlaneLinearAttention) == 8 * 3 * 5  # one slice at a time
    pixels = 8 * 16 + 2 * (8 * 16 + 4 * 8 + 2 * 4 + 1 * 2) + 1 * 2  # first, down and up, middle
    assert many.count(DepthAttention) == pixels  # one pixel at a time
    assert relative_error(finest, whole) < 1e-5


def test_gradients_reach_every_parameter():
    network = make(dim=16, dim_mults=(1, 2))  # two channels a group: with one, a bias before the norm is lost
    x_t, t, cond = torch.randn(2, 1, 3, 8, 8), torch.tensor([20, 250]), torch.rand(2, 16)
    dropped = torch.tensor([False, True])  # so that the empty condition takes part
    network(x_t, t, cond, dropped).square().mean().backward()
    missing = [n for n, p in network.named_parameters() if p.grad is None or not float(p.grad.norm()) > 1e-9]
    assert not missing


@torch.no_grad()
def test_bfloat16_weights_stay_close(inputs):
    network = make()
    exact = network(*inputs)
    rounded = network.to(torch.bfloat16)(*inputs)
    assert rounded.dtype == torch.float32  # that of x_t
    assert relative_error(rounded, exact) < 0.03
    assert network(inputs[0].bfloat16(), *inputs[1:]).dtype == torch.bfloat16


# --- layers, each against its formula


def volume(channels=16, depth=5, height=4, width=6, batch=2) -> torch.Tensor:
    return torch.randn(batch, depth, height, width, channels, generator=torch.Generator().manual_seed(2))


def heads_of(layer, x):
    """q, k, v of a layer, each (..., heads, channels)."""
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    projected = (normed * layer.norm.gamma) @ layer.to_qkv.weight.T
    return projected.unflatten(-1, (3, layer.heads, -1)).unbind(-3)


@pytest.fixture
def attention(request):
    torch.manual_seed(4)
    layer = request.param(16, 2, 8)
    torch.nn.init.normal_(layer.norm.gamma, 1, 0.2)
    return layer


@pytest.mark.parametrize("attention", [PlaneLinearAttention], indirect=True)
@torch.no_grad()
def test_plane_linear_attention(attention):
    x = volume()
    q, k, v = (y.flatten(2, 3) for y in heads_of(attention, x))  # (B, D, pixels, heads, c)
    context = torch.einsum("bdphc,bdphe->bdhce", k.softmax(dim=2), v)
    out = torch.einsum("bdhce,bdphc->bdphe", context, q.softmax(dim=-1) * 8**-0.5)
    expected = x + attention.to_out(out.flatten(-2)).view_as(x)
    assert relative_error(attention(x.clone()), expected) < 1e-5


@pytest.mark.parametrize("attention", [PlaneAttention], indirect=True)
@torch.no_grad()
def test_plane_attention(attention):
    x = volume()
    q, k, v = (y.flatten(2, 3) for y in heads_of(attention, x))
    weight = torch.einsum("bdphc,bdqhc->bdhpq", q, k).mul(8**-0.5).softmax(dim=-1)
    out = torch.einsum("bdhpq,bdqhc->bdphc", weight, v)
    assert relative_error(attention(x), x + attention.to_out(out.flatten(-2)).view_as(x)) < 1e-5


@pytest.mark.parametrize("attention", [DepthAttention], indirect=True)
@torch.no_grad()
def test_depth_attention(attention):
    """Each pair of channels of q and k is turned by position x frequency; here 3 of the 4 pairs of a head."""
    x, frequencies = volume(), torch.tensor([1.0, 0.3, 0.05])
    bias = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(5))
    angle = torch.arange(5)[:, None] * frequencies
    q, k, v = heads_of(attention, x)

    def turned(y, d):
        y = y[:, d].clone()
        for i in range(3):
            a, b, cos, sin = (
                y[..., 2 * i].clone(),
                y[..., 2 * i + 1].clone(),
                angle[d, i].cos(),
                angle[d, i].sin(),
            )
            y[..., 2 * i], y[..., 2 * i + 1] = a * cos - b * sin, a * sin + b * cos
        return y

    scores = torch.stack(
        [
            torch.stack([(turned(q, i) * turned(k, j)).sum(-1) * 8**-0.5 + bias[:, i, j] for j in range(5)])
            for i in range(5)
        ]
    )  # (query, key, B, H, W, heads)
    out = torch.einsum("ijbyxn,bjyxnc->biyxnc", scores.softmax(dim=1), v)
    rotation = torch.stack([angle.cos(), angle.sin()], dim=-1)[:, None]
    expected = x + attention.to_out(out.flatten(-2))
    assert relative_error(attention(x.clone(), rotation, bias), expected) < 1e-5


def test_relative_position_buckets():
    """T5's rule: distances 0..7 have a bucket each, eight more grow as the logarithm to 32; 16 more ahead."""
    layer = RelativePositionBias(1)
    with torch.no_grad():
        layer.relative_attention_bias.weight.copy_(torch.arange(32.0)[:, None])
    bucket = layer(60)[0].long()
    behind = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 24, 31, 32, 59]
    expected = [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 10, 14, 15, 15, 15]
    assert bucket[59, [59 - d for d in behind]].tolist() == expected
    assert bucket[0, behind].tolist() == [0, *(b + 16 for b in expected[1:])]


def test_sinusoidal_embedding():
    embedded = SinusoidalEmbedding(8)(torch.tensor([0, 3]))
    frequencies = [10_000 ** (-i / 3) for i in range(4)]
    assert embedded[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    expected = [math.sin(3 * f) for f in frequencies] + [math.cos(3 * f) for f in frequencies]
    assert embedded[1].tolist() == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_slice_convolutions_are_planar_3d_convolutions():
    x = volume(channels=3)
    channels_first = x.permute(0, 4, 1, 2, 3)
    down = SliceConv2d(3, 5, 4, stride=2, padding=1)
    up = SliceConvTranspose2d(3, 5, 4, stride=2, padding=1)
    for layer, convolve in ((down, F.conv3d), (up, F.conv_transpose3d)):
        expected = convolve(channels_first, layer.weight[:, :, None], layer.bias, (1, 2, 2), (0, 1, 1))
        assert relative_error(layer(x).permute(0, 4, 1, 2, 3), expected) < 1e-5
