"""The yardstick of benchmarks/network.py: the function of LeFusion's UNet3D, computed the textbook way.

Activations are (batch, channel, depth, height, width), convolutions are 3D with (1, k, k) kernels, attention
is two einsums and a softmax over tokens that are rearranged for it and back, and every layer computes its own
rotary tables. Nothing is fused, cut into pieces or done in place; float32. Two options switch on single
optimisations in this layout. The embedding of t and the table of relative positions, a few numbers a call,
are UNet3D's own modules.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from LeFusion.diffusion import UNet3D
from LeFusion.diffusion.unet import RelativePositionBias, SinusoidalEmbedding

GROUPS = 8


def plane_conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, padding: int = 0):
    """A 3D convolution that looks at one slice at a time."""
    return nn.Conv3d(
        channels_in,
        channels_out,
        (1, kernel, kernel),
        stride=(1, stride, stride),
        padding=(0, padding, padding),
    )


class Block(nn.Module):
    """(B, C, D, H, W) -> (B, C', D, H, W): convolution, group norm, optional scale and shift, SiLU."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.proj = plane_conv(channels_in, channels_out, 3, padding=1)
        self.norm = nn.GroupNorm(GROUPS, channels_out)
        self.act = nn.SiLU()

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """scale_shift: two of (B, C', 1, 1, 1)."""
        x = self.norm(self.proj(x))
        if scale_shift is not None:
            scale, shift = scale_shift
            x = x * (scale + 1) + shift
        return self.act(x)


class ResnetBlock(nn.Module):
    """(B, C, D, H, W) and (B, E) -> (B, C', D, H, W)."""

    def __init__(self, channels_in: int, channels_out: int, embedding_dim: int | None = None):
        super().__init__()
        self.mlp = None
        if embedding_dim is not None:
            self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(embedding_dim, channels_out * 2))
        self.block1 = Block(channels_in, channels_out)
        self.block2 = Block(channels_out, channels_out)
        self.res_conv = (
            plane_conv(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        )

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        scale_shift = None
        if self.mlp is not None:
            scale_shift = rearrange(self.mlp(embedding), "b c -> b c 1 1 1").chunk(2, dim=1)
        h = self.block1(x, scale_shift)
        h = self.block2(h)
        return h + self.res_conv(x)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each voxel of (B, C, D, H, W), with a gain and no offset."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance = torch.var(x, dim=1, unbiased=False, keepdim=True)
        mean = torch.mean(x, dim=1, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt() * self.gamma


class PlaneLinearAttention(nn.Module):
    """Linear attention within each slice of (B, C, D, H, W); its projections are 1 x 1 x 1 convolutions."""

    def __init__(self, channels: int, heads: int, dim_head: int):
        super().__init__()
        self.heads, self.dim_head = heads, dim_head
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Conv3d(channels, 3 * heads * dim_head, 1, bias=False)
        self.to_out = nn.Conv3d(heads * dim_head, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        depth, height = x.shape[2:4]
        qkv = self.to_qkv(self.norm(x)).chunk(3, dim=1)
        q, k, v = (rearrange(y, "b (h c) d y x -> (b d) h c (y x)", h=self.heads) for y in qkv)
        q = q.softmax(dim=-2) * self.dim_head**-0.5
        k = k.softmax(dim=-1)
        context = torch.einsum("nhcp,nhep->nhce", k, v)
        out = torch.einsum("nhce,nhcp->nhep", context, q)
        return x + self.to_out(rearrange(out, "(b d) h c (y x) -> b (h c) d y x", d=depth, y=height))


class TokenAttention(nn.Module):
    """Softmax attention among tokens: (N, tokens, C) -> the same shape; `sdpa` fuses it."""

    def __init__(self, channels: int, heads: int, dim_head: int, sdpa: bool):
        super().__init__()
        self.heads, self.dim_head, self.sdpa = heads, dim_head, sdpa
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, channels, bias=False)

    def queries_keys_values(self, tokens: Tensor) -> list[Tensor]:
        """Three of (N, heads, tokens, c)."""
        return [rearrange(y, "n t (h c) -> n h t c", h=self.heads) for y in self.to_qkv(tokens).chunk(3, -1)]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """bias (heads, tokens, tokens) -> (N, tokens, C)."""
        if self.sdpa:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias[None])
        else:
            score = torch.einsum("nhic,nhjc->nhij", q * self.dim_head**-0.5, k)
            if bias is not None:
                score = score + bias
            out = torch.einsum("nhij,nhjc->nhic", score.softmax(dim=-1), v)
        return self.to_out(rearrange(out, "n h t c -> n t (h c)"))


class PlaneAttention(TokenAttention):
    """Softmax attention among the pixels of each slice of (B, C, D, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        depth, height = x.shape[2:4]
        tokens = rearrange(self.norm(x), "b c d y x -> (b d) (y x) c")
        out = self.attend(*self.queries_keys_values(tokens))
        return x + rearrange(out, "(b d) (y x) c -> b c d y x", d=depth, y=height)


class DepthAttention(TokenAttention):
    """Softmax attention along depth for each pixel of (B, C, D, H, W), with rotary and relative position."""

    def forward(self, x: Tensor, frequencies: Tensor, bias: Tensor, rotation: Tensor | None) -> Tensor:
        """frequencies (r,); bias (heads, D, D); rotation (D, r) complex, or None to use sines and cosines."""
        height, width = x.shape[3:]
        tokens = rearrange(self.norm(x), "b c d y x -> (b y x) d c")
        q, k, v = self.queries_keys_values(tokens)
        if rotation is None:
            q, k = rotate(q, frequencies), rotate(k, frequencies)
        else:
            q, k = rotate_complex(q, rotation), rotate_complex(k, rotation)
        out = self.attend(q, k, v, bias)
        return x + rearrange(out, "(b y x) d c -> b c d y x", y=height, x=width)


def rotate(y: Tensor, frequencies: Tensor) -> Tensor:
    """Turns each pair of the first 2 r channels of y (N, heads, D, c) by position times frequency (r,)."""
    angle = torch.arange(y.shape[-2], device=y.device)[:, None] * frequencies
    angle = angle.repeat_interleave(2, dim=-1)  # (D, 2 r)
    turned, kept = y[..., : angle.shape[-1]], y[..., angle.shape[-1] :]
    turned = turned * angle.cos() + quarter_turn(turned) * angle.sin()
    return torch.cat([turned, kept], dim=-1)


def quarter_turn(y: Tensor) -> Tensor:
    """Each pair of channels (a, b) -> (-b, a)."""
    first, second = rearrange(y, "... (r two) -> ... r two", two=2).unbind(dim=-1)
    return rearrange(torch.stack([-second, first], dim=-1), "... r two -> ... (r two)")


def rotate_complex(y: Tensor, rotation: Tensor) -> Tensor:
    """The same as one complex product with e^(i angle), rotation (D, r)."""
    channels = 2 * rotation.shape[-1]
    pairs = torch.view_as_complex(y[..., :channels].unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * rotation).flatten(-2)
    return turned if channels == y.shape[-1] else torch.cat([turned, y[..., channels:]], dim=-1)


class PlainUNet3D(nn.Module):
    """Computes what UNet3D with these sizes computes, parameters under the same names.

    Args:
        dim, in_channels, out_channels, cond_dim, dim_mults, attn_heads, attn_dim_head: as of UNet3D.
        sdpa: fused attention in the depth layers and in the middle.
        complex_rotary: rotary positions as complex products, with tables made once a call for all layers.
    """

    def __init__(
        self,
        dim: int,
        in_channels: int,
        out_channels: int,
        cond_dim: int | None,
        dim_mults: Sequence[int],
        attn_heads: int,
        attn_dim_head: int,
        sdpa: bool = False,
        complex_rotary: bool = False,
    ):
        super().__init__()
        self.complex_rotary = complex_rotary
        linear, fused = (attn_heads, attn_dim_head), (attn_heads, attn_dim_head, sdpa)
        rotary_dim = min(32, attn_dim_head)
        self.register_buffer("rotary_frequencies", 10000 ** -(torch.arange(0, rotary_dim, 2) / rotary_dim))
        self.time_rel_pos_bias = RelativePositionBias(attn_heads)
        time_dim = dim * 4
        self.time_mlp = nn.Sequential(
            SinusoidalEmbedding(dim), nn.Linear(dim, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim)
        )
        self.null_cond_emb = None if cond_dim is None else nn.Parameter(torch.randn(1, cond_dim))
        embedding_dim = time_dim + (cond_dim or 0)

        def level(channels_in: int, channels_out: int, resample: nn.Module) -> nn.ModuleList:
            return nn.ModuleList(
                [
                    ResnetBlock(channels_in, channels_out, embedding_dim),
                    ResnetBlock(channels_out, channels_out, embedding_dim),
                    PlaneLinearAttention(channels_out, *linear),
                    DepthAttention(channels_out, *fused),
                    resample,
                ]
            )

        self.init_conv = plane_conv(in_channels, dim, 7, padding=3)
        self.init_temporal_attn = DepthAttention(dim, *fused)
        widths = [dim, *(dim * mult for mult in dim_mults)]
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for i in range(len(dim_mults)):
            narrow, wide = widths[i], widths[i + 1]
            down, up = nn.Identity(), nn.Identity()
            if i < len(dim_mults) - 1:
                down = plane_conv(wide, wide, 4, stride=2, padding=1)
            if i > 0:
                up = nn.ConvTranspose3d(narrow, narrow, (1, 4, 4), stride=(1, 2, 2), padding=(0, 1, 1))
            self.downs.append(level(narrow, wide, down))
            self.ups.insert(0, level(2 * wide, narrow, up))
        self.mid_block1 = ResnetBlock(widths[-1], widths[-1], embedding_dim)
        self.mid_spatial_attn = PlaneAttention(widths[-1], *fused)
        self.mid_temporal_attn = DepthAttention(widths[-1], *fused)
        self.mid_block2 = ResnetBlock(widths[-1], widths[-1], embedding_dim)
        self.final_conv = nn.Sequential(ResnetBlock(2 * dim, dim), nn.Conv3d(dim, out_channels, 1))

    @classmethod
    def like(cls, network: UNet3D, sdpa: bool = False, complex_rotary: bool = False) -> "PlainUNet3D":
        """The plain network with copies of another's weights, float32, in eval mode, on the same device."""
        plain = cls(**network.config, sdpa=sdpa, complex_rotary=complex_rotary)
        device = network.init_conv.weight.device
        shapes = {name: value.shape for name, value in plain.state_dict().items()}
        weights = {  # kernels differ by axes of length 1 only
            name: value.detach().float().reshape(shapes[name]) for name, value in network.state_dict().items()
        }
        plain.load_state_dict(weights, strict=True)
        return plain.to(device).eval()

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Tensor | None = None, dropped: Tensor | None = None
    ) -> Tensor:
        """x_t (B, in_channels, D, H, W), t (B,), cond (B, cond_dim) or None, dropped (B,) bool or None
        -> (B, out_channels, D, H, W)."""
        bias = self.time_rel_pos_bias(x_t.shape[2])
        rotation = None
        if self.complex_rotary:
            angle = torch.arange(x_t.shape[2], device=x_t.device)[:, None] * self.rotary_frequencies
            rotation = torch.polar(torch.ones_like(angle), angle)
        positions = (self.rotary_frequencies, bias, rotation)

        embedding = self.time_mlp(t)
        if self.null_cond_emb is not None:
            empty = self.null_cond_emb.expand(len(x_t), -1)
            if cond is None:
                cond = empty
            elif dropped is not None:
                cond = torch.where(dropped[:, None], empty, cond)
            embedding = torch.cat([embedding, cond], dim=-1)

        x = self.init_conv(x_t)
        full_resolution, skips = x, []
        x = self.init_temporal_attn(x, *positions)
        for block1, block2, plane_attention, depth_attention, downsample in self.downs:
            x = block1(x, embedding)
            x = block2(x, embedding)
            x = plane_attention(x)
            x = depth_attention(x, *positions)
            skips.append(x)
            x = downsample(x)
        x = self.mid_block1(x, embedding)
        x = self.mid_spatial_attn(x)
        x = self.mid_temporal_attn(x, *positions)
        x = self.mid_block2(x, embedding)
        for block1, block2, plane_attention, depth_attention, upsample in self.ups:
            x = torch.cat([x, skips.pop()], dim=1)
            x = block1(x, embedding)
            x = block2(x, embedding)
            x = plane_attention(x)
            x = depth_attention(x, *positions)
            x = upsample(x)
        x = torch.cat([x, full_resolution], dim=1)
        return self.final_conv(x)
