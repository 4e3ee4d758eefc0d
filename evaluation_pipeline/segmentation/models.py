"""The networks of the segmenters: SwinUNETR, nnUNet and UNet, all from MONAI.

`nnUNet` is MONAI's DynUNet with what nnU-Net (Isensee et al., Nature Methods 18, 2021) decides by rule.
As nnU-Net: which axes each stage halves and where kernels are 3 wide, from patch size and spacing; two
convolutions a stage, instance norm, leaky ReLU, filters doubled up to 320; deep supervision with halved
weights, Dice + cross entropy; SGD with Nesterov momentum 0.99, weight decay 3e-5, rate 0.01 x (1 - t)^0.9,
gradients clipped at 12; median spacing as the target spacing; mirroring and Gaussian blending at prediction.
Not nnU-Net: its residual presets and the choice between 2D, 3D and cascade; patch and batch size from the
memory of a GPU (here a number of voxels, and --batch_size); normalisation by intensities of the foreground
(here a fixed CT window); its third-order resampling; some of its augmentations; 1000 epochs of 250
iterations; ensembling of folds. `--model_name nnUNetv2` runs the original.
"""

import math
from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from monai.networks import one_hot
from monai.networks.nets import DynUNet, SwinUNETR, UNet
from torch import Tensor, nn
from torch.nn import functional

from LeFusion.errors import UserError

MODEL_NAMES = ("SwinUNETR", "nnUNet", "UNet")
SIZES = ("standard", "small")
SWIN_MULTIPLE = 32  # five halvings, in every axis
SMALLEST_FEATURE_MAP = 4  # nnU-Net's: no axis is halved below
# Voxels of the largest default patch; standard is nnU-Net's 128^3 for a GPU of 11 GB, small is for a CPU.
PATCH_VOXELS = {"standard": 128**3, "small": 32 * 48 * 48}

Pooling = tuple[tuple[int, int, int], ...]


def plan_pooling(patch_size: Sequence[int], spacing_mm: Sequence[float]) -> tuple[Pooling, Pooling]:
    """nnU-Net's topology: (strides, kernels), one of each for every stage, the bottleneck last.

    A stage halves each axis that still has at least 8 voxels and whose spacing is less than twice the
    smallest, so that coarse axes (slices of 10 mm) wait until the others have caught up; a kernel is 3 wide
    in an axis once its spacing is within that factor. (Isensee et al. 2021, supplementary note on topology.)
    """
    size, spacing = list(patch_size), list(spacing_mm)
    strides, kernels = [(1, 1, 1)], []
    wide = [False] * 3
    while large := [axis for axis in range(3) if size[axis] >= 2 * SMALLEST_FEATURE_MAP]:
        finest = min(spacing[axis] for axis in large)
        halved = [axis for axis in large if spacing[axis] < 2 * finest]
        if len(halved) == 1 and size[halved[0]] < 3 * SMALLEST_FEATURE_MAP:
            break
        wide = [wide[axis] or spacing[axis] < 2 * min(spacing) for axis in range(3)]
        kernels.append(tuple(3 if w else 1 for w in wide))
        strides.append(tuple(2 if axis in halved else 1 for axis in range(3)))
        for axis in halved:
            size[axis], spacing[axis] = math.ceil(size[axis] / 2), spacing[axis] * 2
    kernels.append((3, 3, 3))
    return tuple(strides), tuple(kernels)


def patch_multiple(name: str, patch_size: Sequence[int], spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    """What the network's input must be a multiple of in each axis."""
    if name == "SwinUNETR":
        return (SWIN_MULTIPLE,) * 3
    strides, _ = plan_pooling(patch_size, spacing_mm)
    return tuple(math.prod(stride[axis] for stride in strides) for axis in range(3))


def round_up(patch_size: Sequence[int], name: str, spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    """The smallest patch around this one that the network takes."""
    multiple = patch_multiple(name, patch_size, spacing_mm)
    patch = [math.ceil(side / m) * m for side, m in zip(patch_size, multiple, strict=True)]
    if name == "SwinUNETR" and math.prod(patch) == SWIN_MULTIPLE**3:
        # halved five times, one voxel would be left, and instance norm cannot train on one
        patch[max(range(3), key=lambda axis: patch_size[axis])] *= 2
    return tuple(patch)


def default_patch_size(
    name: str, median_shape: Sequence[int], spacing_mm: Sequence[float], size: str = "standard"
) -> tuple[int, int, int]:
    """The data set's median shape, its longest sides (in mm) cut until it has few enough voxels.

    median_shape: voxels at the target spacing. As in nnU-Net, the patch keeps the volumes' proportions as far
    as it can, and becomes a cube in mm when it can't.
    """
    sides = [int(side) for side in median_shape]
    limit = PATCH_VOXELS[size]
    padded = name == "SwinUNETR"  # multiples of 32: what is padded counts, and few voxels leave no choice
    limit = max(limit, 32 * 64 * 64) if padded else limit
    while math.prod(round_up(sides, name, spacing_mm) if padded else sides) > limit:
        longest = max(range(3), key=lambda axis: sides[axis] * spacing_mm[axis] if sides[axis] > 1 else 0)
        side = sides[longest]
        sides[longest] = (side - 1) // 8 * 8 if side > 8 else side - 1
    patch = round_up(sides, name, spacing_mm)
    if math.prod(patch) > limit:
        multiple = patch_multiple(name, sides, spacing_mm)
        patch = tuple(max(side // m, 1) * m for side, m in zip(sides, multiple, strict=True))
    return patch


def build_model(
    name: str,
    in_channels: int,
    out_channels: int,
    patch_size: Sequence[int],
    size: str = "standard",
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
) -> nn.Module:
    """A network (B, in_channels, *patch) -> logits (B, out_channels, *patch).

    While training, nnUNet gives (B, heads, out_channels, *patch): deep supervision, full resolution first.
    size: `small` has few filters, for a CPU and small data sets.

    Raises ValueError for an unknown name or size and a patch that is no multiple of what the network halves.
    """
    if name not in MODEL_NAMES:
        raise UserError(f"model {name!r} is unknown; choose one of {', '.join(MODEL_NAMES)}")
    if size not in SIZES:
        raise UserError(f"--model_size {size!r} is unknown; choose one of {', '.join(SIZES)}")
    if tuple(patch_size) != round_up(patch_size, name, spacing_mm):
        multiple = patch_multiple(name, patch_size, spacing_mm)
        raise UserError(
            f"--patch_size {' '.join(map(str, patch_size))} does not suit {name}: its sides must be "
            f"multiples of {' '.join(map(str, multiple))}; {round_up(patch_size, name, spacing_mm)} would do"
        )
    small = size == "small"
    if name == "SwinUNETR":
        # windows of 4 voxels instead of 7 cost a third, and suit the small patches of a CPU
        feature_size, window_size = (12, 4) if small else (48, 7)
        return SwinUNETR(in_channels, out_channels, feature_size=feature_size, window_size=window_size)
    strides, kernels = plan_pooling(patch_size, spacing_mm)
    if name == "UNet":
        first = 8 if small else 16
        channels = [min(first * 2**stage, 256) for stage in range(len(strides))]
        return UNet(3, in_channels, out_channels, channels, strides[1:], num_res_units=2)
    if len(strides) < 3:
        raise UserError(
            f"--patch_size {' '.join(map(str, patch_size))} is too small for nnUNet, which needs to halve it "
            "twice; take sides of 16 or more, or --model_name UNet"
        )
    first, most = (8, 128) if small else (32, 320)
    return DynUNet(
        3,
        in_channels,
        out_channels,
        kernel_size=kernels,
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=[min(first * 2**stage, most) for stage in range(len(strides))],
        deep_supervision=len(strides) > 3,
        deep_supr_num=max(1, len(strides) - 3),  # nnU-Net gives the coarsest one no weight: it has no head
    )


class SegmentationLoss(nn.Module):
    """Dice (background left out) + cross entropy; with deep supervision, weights of 1, 1/2, 1/4, ... / sum.

    logits: (B, C, *patch) or (B, heads, C, *patch). labels: (B, 1, *patch), whole numbers below C.
    ignore: the label of voxels that do not count, None: all count.
    """

    def __init__(self, ignore: int | None = None):
        super().__init__()
        self.ignore = ignore
        self.dice = DiceLoss(include_background=False, smooth_nr=1e-5, smooth_dr=1e-5)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        heads = logits.unbind(1) if logits.ndim == labels.ndim + 1 else (logits,)
        weights = [0.5**number for number in range(len(heads))]
        total = sum(
            weight * self._loss(head.float(), labels) for weight, head in zip(weights, heads, strict=True)
        )
        return total / sum(weights)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        known = torch.ones_like(labels) if self.ignore is None else (labels != self.ignore).float()
        true = (labels * known).long()
        classes = one_hot(true, logits.shape[1], dtype=logits.dtype)
        entropy = functional.cross_entropy(logits, true[:, 0], reduction="none") * known[:, 0]
        dice = self.dice(logits.softmax(dim=1) * known, classes * known)
        return dice + entropy.sum() / known.sum().clamp(min=1)


def default_learning_rate(name: str) -> float:
    return 0.01 if name == "nnUNet" else 1e-3


def build_optimizer(name: str, network: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """nnU-Net's SGD for nnUNet, AdamW for the others."""
    if name == "nnUNet":
        return torch.optim.SGD(
            network.parameters(), learning_rate, momentum=0.99, nesterov=True, weight_decay=3e-5
        )
    return torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-5)


def learning_rate_at(name: str, learning_rate: float, progress: float) -> float:
    """nnU-Net's polynomial decay; the others rise for the first 3 % of the training.

    progress: the share of all iterations that is done, in [0, 1).
    """
    warmup = 0.0 if name == "nnUNet" else 0.03
    rise = min(1.0, (progress + 1e-3) / (warmup + 1e-3)) if warmup else 1.0
    return learning_rate * rise * (1 - progress) ** 0.9
