"""The 3D U-Net of LeFusion: planar convolutions, linear attention in plane, softmax attention along depth.

The function computed is that of the released weights (the space-time factored U-Net of Ho et al., "Video
Diffusion Models", 2022, with depth in the place of time). How it is computed is ours: activations are kept in
(batch, depth, height, width, channel) order throughout, so that every convolution is a channels-last 2D
convolution over the slices, every projection a matrix product, and nothing is transposed in memory.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from LeFusion.errors import UserError

GROUPS = 8  # of every group normalisation
POSITION_BUCKETS = 32  # of the relative position bias; also the distance beyond which it is constant
# An attention layer works on pieces whose projections take about this much: what a CPU keeps in cache, and
# on a GPU little beside the activations, but enough to keep it busy
CHUNK_BYTES = 4 << 20
GPU_CHUNK_BYTES = 256 << 20


class SliceConv2d(nn.Conv2d):
    """A convolution of each slice: (B, D, H, W, C) -> (B, D, H', W', C'); a (1, k, k) kernel in 3D terms."""

    def forward(self, x: Tensor) -> Tensor:
        return _as_slices(super().forward, x)


class SliceConvTranspose2d(nn.ConvTranspose2d):
    """The transposed convolution of each slice: (B, D, H, W, C) -> (B, D, H', W', C')."""

    def forward(self, x: Tensor) -> Tensor:
        return _as_slices(super().forward, x)


def _as_slices(convolve: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    slices = x.flatten(0, 1).permute(0, 3, 1, 2)  # a channels-last view, nothing moves
    return convolve(slices).permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


class Block(nn.Module):
    """Convolution, group norm, optional scale and shift, SiLU."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.proj = SliceConv2d(channels_in, channels_out, 3, padding=1)
        self.norm = nn.GroupNorm(GROUPS, channels_out)

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """x (B, D, H, W, C); scale and shift (B, C) act on the normalised activations."""
        channels_first = self.proj(x).permute(0, 4, 1, 2, 3)  # a channels-last view, nothing moves
        x = self.norm(channels_first).permute(0, 2, 3, 4, 1)
        in_place = not torch.is_grad_enabled()
        if scale is not None:
            scale, shift = scale[:, None, None, None] + 1, shift[:, None, None, None]
            x = x.mul_(scale).add_(shift) if in_place else torch.addcmul(shift, x, scale)
        return F.silu(x, inplace=in_place)


class ResnetBlock(nn.Module):
    """Two blocks and a shortcut; the time and condition embedding scales and shifts the first one."""

    def __init__(self, channels_in: int, channels_out: int, embedding_dim: int | None = None):
        super().__init__()
        self.mlp = None
        if embedding_dim is not None:
            self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(embedding_dim, channels_out * 2))
        self.block1 = Block(channels_in, channels_out)
        self.block2 = Block(channels_out, channels_out)
        self.res_conv = nn.Linear(channels_in, channels_out) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        scale = shift = None
        if self.mlp is not None:
            scale, shift = self.mlp(embedding).chunk(2, dim=1)
        h = self.block2(self.block1(x, scale, shift))
        return h + self.res_conv(x) if torch.is_grad_enabled() else h.add_(self.res_conv(x))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each voxel, with a gain and no offset."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.gamma.shape, self.gamma, eps=1e-5)


class Attention(nn.Module):
    """The parameters of an attention layer."""

    out_bias = False

    def __init__(self, channels: int, heads: int, dim_head: int):
        super().__init__()
        self.heads, self.dim_head = heads, dim_head
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Linear(channels, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, channels, bias=self.out_bias)


class PlaneLinearAttention(Attention):
    """Residual linear attention within each slice (Shen et al., "Efficient Attention", 2018)."""

    out_bias = True

    def forward(self, x: Tensor) -> Tensor:
        slices = x.flatten(0, 1).flatten(1, 2)  # (slice, H W, C)
        return _residual(
            self.attend, slices, dim=0, width=slices.shape[1] * self.to_qkv.out_features
        ).view_as(x)

    def attend(self, x: Tensor) -> Tensor:
        """x (slices, pixels, C) -> the attention's output, same shape."""
        q, k, v = self.to_qkv(self.norm(x)).chunk(3, dim=-1)
        q = q.unflatten(-1, (self.heads, self.dim_head)).softmax(dim=-1).flatten(-2)
        k = k.softmax(dim=1)
        k, v = (rearrange(y, "s p (h c) -> s h c p", h=self.heads) for y in (k, v))
        context = k @ v.transpose(-1, -2) * self.dim_head**-0.5  # (slices, heads, c of keys, c of values)
        # q is needed only as q @ context @ to_out: the small product is taken first
        to_out = rearrange(self.to_out.weight, "o (h c) -> h c o", h=self.heads)
        return torch.baddbmm(self.to_out.bias.expand(x.shape[0], 1, -1), q, (context @ to_out).flatten(1, 2))


class PlaneAttention(Attention):
    """Residual softmax attention among the pixels of each slice (used at the lowest resolution only)."""

    def forward(self, x: Tensor) -> Tensor:
        qkv = rearrange(self.to_qkv(self.norm(x)), "b d y x (n h c) -> n (b d) h (y x) c", n=3, h=self.heads)
        out = F.scaled_dot_product_attention(*qkv)
        return x + self.to_out(rearrange(out, "s h p c -> s p (h c)")).view_as(x)


class DepthAttention(Attention):
    """Residual softmax attention along depth, for each pixel, with rotary and relative position."""

    def forward(self, x: Tensor, rotation: Tensor, bias: Tensor) -> Tensor:
        """x (B, D, H, W, C); rotation (D, 1, r, 2), cosines and sines for 2 r channels of a head; bias
        (heads, D, D)."""
        batch, depth = x.shape[:2]
        columns = x.flatten(2, 3)  # (B, D, H W, C)
        attend = lambda y: self.attend(y, rotation, bias)  # noqa: E731
        return _residual(attend, columns, dim=2, width=batch * depth * self.to_qkv.out_features).view_as(x)

    def attend(self, x: Tensor, rotation: Tensor, bias: Tensor) -> Tensor:
        """x (B, D, pixels, C) -> the attention's output, same shape."""
        qkv = self.to_qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))  # (B, D, pixels, 3, heads, c)
        qk = _rotate(qkv[..., :2, :, :], rotation[:, None])
        q, k, v = (rearrange(y, "b d p h c -> (b p) h d c") for y in (*qk.unbind(3), qkv[..., 2, :, :]))
        bias = bias.to(v.dtype)
        if x.is_cuda:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        else:
            out = _short_attention(q, k, v, bias)
        out = self.to_out(rearrange(out, "n h d c -> n d (h c)"))
        return rearrange(out, "(b p) d c -> b d p c", b=x.shape[0])


def _short_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention of (n, heads, depth, c) with a bias (heads, depth, depth) on the scores, by matrix
    products, which on a CPU take half the time for sequences as short as a depth."""
    q, k, v = (y.flatten(0, 1) for y in (q, k, v))
    scores = (q @ k.transpose(1, 2)).unflatten(0, (-1, len(bias)))
    weights = scores.mul_(q.shape[-1] ** -0.5).add_(bias).softmax(dim=-1)
    return (weights.flatten(0, 1) @ v).unflatten(0, (-1, len(bias)))


def _called(layer: nn.Module, *arguments: Tensor) -> Tensor:
    return layer(*arguments)


def _rotate(y: Tensor, rotation: Tensor) -> Tensor:
    """Rotary position embedding (Su et al., "RoFormer", 2021): pairs times e^(i position frequency)."""
    rotary_dim = 2 * rotation.shape[-2]
    pairs = y[..., :rotary_dim].float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # the compiler has no complex numbers, but makes one kernel of this
        cos, sin = rotation[..., None, :, :].unbind(-1)
        even, odd = pairs.unbind(-1)
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    else:
        turns = torch.view_as_complex(rotation)[..., None, :]
        turned = torch.view_as_real(torch.view_as_complex(pairs) * turns)
    turned = turned.flatten(-2).to(y.dtype)
    return turned if rotary_dim == y.shape[-1] else torch.cat([turned, y[..., rotary_dim:]], dim=-1)


def _residual(branch: Callable[[Tensor], Tensor], x: Tensor, dim: int, width: int) -> Tensor:
    """x + branch(x); without gradients in place, piece by piece along `dim`, so that what the branch computes
    on the way (`width` numbers for each index of `dim`) stays in cache, or needs little memory."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return x + branch(x)
    limit = GPU_CHUNK_BYTES if x.is_cuda else CHUNK_BYTES
    for piece in x.split(max(1, limit // (width * x.element_size())), dim):
        piece += branch(piece)
    return x


class RelativePositionBias(nn.Module):
    """A learned bias for each head and bucket of signed distance (Raffel et al., "T5", 2020, section 2.1)."""

    def __init__(self, heads: int):
        super().__init__()
        self.relative_attention_bias = nn.Embedding(POSITION_BUCKETS, heads)

    def forward(self, depth: int) -> Tensor:
        """-> (heads, depth, depth), indexed by (query, key)."""
        position = torch.arange(depth, device=self.relative_attention_bias.weight.device)
        behind = position[:, None] - position[None, :]  # > 0: the key lies before the query
        half = POSITION_BUCKETS // 2
        exact = half // 2
        distance = behind.abs()
        # half of the buckets are single distances, the other half grow as the logarithm of the distance
        growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(POSITION_BUCKETS / exact)
        far = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
        bucket = torch.where(distance < exact, distance, far) + half * (behind < 0)
        return self.relative_attention_bias(bucket).permute(2, 0, 1)


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of t at geometrically spaced frequencies: (B,) -> (B, dim), float32."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        half = self.dim // 2
        frequency = torch.exp(torch.arange(half, device=t.device) * (-math.log(10000) / (half - 1)))
        phase = t[:, None].float() * frequency
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


class UNet3D(nn.Module):
    """Predicts the noise in x_t.

    Args:
        dim: channels at full resolution; a multiple of 8.
        in_channels: channels of x_t, one for each lesion class.
        out_channels: channels of the output; as many as `in_channels` if None.
        cond_dim: length of the condition vector (classes x histogram bins); None for no condition.
        dim_mults: channels at each resolution, in multiples of `dim`; each halves height and width.
        attn_heads, attn_dim_head: of every attention layer.
    """

    def __init__(
        self,
        dim: int,
        in_channels: int,
        out_channels: int | None = None,
        cond_dim: int | None = None,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        attn_heads: int = 8,
        attn_dim_head: int = 32,
    ):
        super().__init__()
        if dim % GROUPS:
            raise UserError(f"dim={dim} must be a multiple of {GROUPS} (the groups of the normalisation)")
        if attn_dim_head % 2:
            raise UserError(f"attn_dim_head={attn_dim_head} must be even (rotary positions turn pairs)")
        self.config = {
            "dim": dim,
            "in_channels": in_channels,
            "out_channels": out_channels or in_channels,
            "cond_dim": cond_dim,
            "dim_mults": list(dim_mults),
            "attn_heads": attn_heads,
            "attn_dim_head": attn_dim_head,
        }
        heads = (attn_heads, attn_dim_head)
        rotary_dim = min(32, attn_dim_head)
        frequencies = 10000.0 ** -(torch.arange(0, rotary_dim, 2).float() / rotary_dim)
        self.register_buffer("rotary_frequencies", frequencies)
        self.time_rel_pos_bias = RelativePositionBias(attn_heads)

        time_dim = dim * 4
        self.time_mlp = nn.Sequential(
            SinusoidalEmbedding(dim), nn.Linear(dim, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim)
        )
        self.null_cond_emb = None if cond_dim is None else nn.Parameter(torch.randn(1, cond_dim))
        embedding_dim = time_dim + (cond_dim or 0)

        self.init_conv = SliceConv2d(in_channels, dim, 7, padding=3)
        self.init_temporal_attn = DepthAttention(dim, *heads)

        widths = [dim, *(dim * mult for mult in dim_mults)]
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level, (narrow, wide) in enumerate(pairs):
            last = level == len(pairs) - 1
            down = nn.Identity() if last else SliceConv2d(wide, wide, 4, stride=2, padding=1)
            self.downs.append(self._level(narrow, wide, embedding_dim, heads, down))
        for level, (narrow, wide) in enumerate(reversed(pairs)):
            last = level == len(pairs) - 1
            up = nn.Identity() if last else SliceConvTranspose2d(narrow, narrow, 4, stride=2, padding=1)
            self.ups.append(self._level(2 * wide, narrow, embedding_dim, heads, up))

        widest = widths[-1]
        self.mid_block1 = ResnetBlock(widest, widest, embedding_dim)
        self.mid_spatial_attn = PlaneAttention(widest, *heads)
        self.mid_temporal_attn = DepthAttention(widest, *heads)
        self.mid_block2 = ResnetBlock(widest, widest, embedding_dim)
        self.final_conv = nn.Sequential(
            ResnetBlock(2 * dim, dim), nn.Linear(dim, out_channels or in_channels)
        )
        self.to(memory_format=torch.channels_last)
        self.checkpointing = False  # True: layers are computed again in the backward pass, for memory

    @staticmethod
    def _level(channels_in, channels_out, embedding_dim, heads, resample) -> nn.ModuleList:
        return nn.ModuleList(
            [
                ResnetBlock(channels_in, channels_out, embedding_dim),
                ResnetBlock(channels_out, channels_out, embedding_dim),
                PlaneLinearAttention(channels_out, *heads),
                DepthAttention(channels_out, *heads),
                resample,
            ]
        )

    @property
    def plane_multiple(self) -> int:
        """Height and width must be multiples of this."""
        return 2 ** (len(self.downs) - 1)

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Tensor | None = None, dropped: Tensor | None = None
    ) -> Tensor:
        """Noise predicted in x_t.

        Args:
            x_t: (B, in_channels, D, H, W), float; H and W multiples of `plane_multiple`, any D.
            t: (B,) integer time levels in 0..T-1.
            cond: (B, cond_dim) histograms; None: the learned empty condition (classifier-free guidance) for
                all samples. Must be None for a network without condition. NaN is refused on a CPU; a GPU,
                which looking would wait for, hands it on.
            dropped: (B,) bool, samples whose condition is the empty one; None: none of them.

        Returns:
            (B, out_channels, D, H, W), in the dtype of x_t.
        """
        self._check(x_t, cond)
        x = rearrange(x_t, "b c d y x -> b d y x c").to(self.init_conv.weight.dtype).contiguous()
        depth = x.shape[1]
        angle = torch.arange(depth, device=x.device)[:, None] * self.rotary_frequencies.float()
        rotation = torch.stack([angle.cos(), angle.sin()], dim=-1)[:, None]
        positions = (rotation, self.time_rel_pos_bias(depth))

        embedding = self.time_mlp[1:](self.time_mlp[0](t).to(x.dtype))
        if self.null_cond_emb is not None:
            empty = self.null_cond_emb.expand(x.shape[0], -1)
            if cond is not None:
                cond = cond.to(x.dtype)
                empty = cond if dropped is None else torch.where(dropped[:, None], empty, cond)
            embedding = torch.cat([embedding, empty], dim=-1)

        run = self._recomputed if self.checkpointing and torch.is_grad_enabled() else _called
        full_resolution, skips = self.init_conv(x), []
        x = run(self.init_temporal_attn, full_resolution.clone(), *positions)
        for block1, block2, plane_attention, depth_attention, downsample in self.downs:
            x = run(block2, run(block1, x, embedding), embedding)
            x = run(depth_attention, run(plane_attention, x), *positions)
            skips.append(x)
            x = downsample(x)
        x = run(self.mid_block1, x, embedding)
        x = run(self.mid_temporal_attn, run(self.mid_spatial_attn, x), *positions)
        x = run(self.mid_block2, x, embedding)
        for block1, block2, plane_attention, depth_attention, upsample in self.ups:
            x = torch.cat([x, skips.pop()], dim=-1)
            x = run(block2, run(block1, x, embedding), embedding)
            x = upsample(run(depth_attention, run(plane_attention, x), *positions))
        x = run(self.final_conv, torch.cat([x, full_resolution], dim=-1))
        return rearrange(x, "b d y x c -> b c d y x").to(x_t.dtype)

    @staticmethod
    def _recomputed(layer: nn.Module, *arguments: Tensor) -> Tensor:
        return checkpoint(layer, *arguments, use_reentrant=False)

    def _check(self, x_t: Tensor, cond: Tensor | None) -> None:
        channels, multiple = self.config["in_channels"], self.plane_multiple
        if x_t.ndim != 5 or x_t.shape[1] != channels:
            raise UserError(f"x_t must have shape (B, {channels}, D, H, W), got {tuple(x_t.shape)}")
        if x_t.shape[3] % multiple or x_t.shape[4] % multiple:
            raise UserError(f"height and width must be multiples of {multiple}, got {tuple(x_t.shape[3:])}")
        cond_dim = self.config["cond_dim"]
        if cond is not None and (cond_dim is None or cond.shape != (x_t.shape[0], cond_dim)):
            wanted = "None" if cond_dim is None else f"({x_t.shape[0]}, {cond_dim})"
            raise UserError(f"cond must be {wanted}, got {tuple(cond.shape)}")
        unseen = cond is None or cond.is_cuda or torch.compiler.is_compiling()
        if not unseen and bool(cond.isnan().any()):
            raise UserError(f"cond holds NaN in row {int(cond.isnan().any(dim=1).nonzero()[0])}")
