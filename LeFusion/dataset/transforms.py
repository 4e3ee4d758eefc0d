"""Units, axes and boxes: each change from a stored volume to the network's view of it, beside its inverse.

Network view: depth first (D, H, W), intensities in [-1, 1], one boolean channel per lesion class.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch

Array = np.ndarray | torch.Tensor
Size = tuple[int, int, int]
Window = str | Sequence[float] | Mapping[str, Sequence[float]]  # see IntensityMap.of

AIR = -1.0  # lowest network intensity; pads an image that is smaller than its box


@dataclass(frozen=True)
class IntensityMap:
    """Linear map of the window [low, high], in the image's units, onto [-1, 1]."""

    low: float
    high: float

    def __post_init__(self):
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"intensity window ({self.low}, {self.high}) must be two numbers, low below high"
            )

    @classmethod
    def of(cls, volume_values: Array, window: Window) -> "IntensityMap":
        """The map for one volume.

        window: (low, high) in the image's units, "minmax" for the volume's own range, or
            {"percentiles": (low, high)} for percentiles of the volume, in 0 to 100.
        Raises ValueError for another window and for a range that is empty.
        """
        if window == "minmax":
            window = {"percentiles": (0, 100)}
        if isinstance(window, Mapping) and set(window) == {"percentiles"}:
            shares = window["percentiles"]
            pair = isinstance(shares, Sequence) and [type(share) in (int, float) for share in shares]
            if pair != [True, True] or not 0 <= shares[0] < shares[1] <= 100:
                raise ValueError(f"window percentiles {shares} must be two numbers, 0 <= low < high <= 100")
            shares = [float(share) for share in shares]
            low, high = (float(v) for v in np.percentile(np.asarray(volume_values), shares))
            if low == high:
                what = "minmax: every voxel is" if shares == [0, 100] else f"percentiles {shares} are both"
                raise ValueError(f"{what} {low:g}, so there is no range to map to [-1, 1]; is it the image?")
            return cls(low, high)
        if not isinstance(window, Sequence) or isinstance(window, str) or len(window) != 2:
            raise ValueError(
                f"window {window!r} must be 'minmax', {{percentiles: [low, high]}} or two numbers [low, high]"
            )
        return cls(float(window[0]), float(window[1]))

    def to_network(self, values: Array) -> Array:
        """Clamp to the window and scale: any shape and number type -> same shape, float32 in [-1, 1]."""
        if isinstance(values, torch.Tensor):
            return self._scale(values.double().clamp(self.low, self.high)).float()
        return self._scale(np.clip(np.asarray(values, np.float64), self.low, self.high)).astype(np.float32)

    def to_source(self, x: Array) -> Array:
        """Inverse of `to_network` within the window: any shape -> same shape, float64 in image units."""
        wide = x.double() if isinstance(x, torch.Tensor) else np.asarray(x, np.float64)
        return (wide + 1) / 2 * (self.high - self.low) + self.low

    def bin_edges(self, bins: int) -> np.ndarray:
        """The (bins + 1,) edges of the histogram's equal bins, in the image's units."""
        return np.linspace(self.low, self.high, bins + 1)

    def _scale(self, clamped: Array) -> Array:
        return (clamped - self.low) / (self.high - self.low) * 2 - 1


def to_depth_first(array: Array, depth_axis: int) -> Array:
    """Stored axis order -> (D, H, W); a view. depth_axis 2: (H, W, D) -> (D, H, W)."""
    return _move_axis(array, depth_axis, 0)


def from_depth_first(array: Array, depth_axis: int) -> Array:
    """(D, H, W) -> stored axis order; a view. The inverse of `to_depth_first`."""
    return _move_axis(array, 0, depth_axis)


def spacing_depth_first(affine: np.ndarray, depth_axis: int) -> tuple[float, float, float]:
    """Distance of voxels in mm along (depth, height, width), from a (4, 4) affine of the stored axes."""
    stored = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0).tolist()
    return stored.pop(depth_axis), *stored


def resample(image: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Channels (C, D, H, W) on a grid of another shape over the same extent.

    Axes that get coarser take means, so that nothing is skipped; the others are interpolated linearly.
    """
    coarser = tuple(min(n, m) for n, m in zip(image.shape[1:], shape, strict=True))
    for step, mode in ((coarser, "area"), (tuple(shape), "trilinear")):
        if tuple(image.shape[1:]) != step:
            image = _like(_monai().Resize(step, mode=mode, dtype=None)(image), image)
    return image


def resample_masks(masks: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Masks (K, D, H, W) bool on another grid: a voxel is in where at least half of it is, or, in a mask too
    thin for that, where half as much of it is as in the fullest voxel. No mask vanishes."""
    if tuple(masks.shape[1:]) == tuple(shape):
        return masks
    shares = resample(masks.float(), shape)
    most = shares.flatten(1).amax(dim=1).reshape(-1, 1, 1, 1)
    return (shares >= most / 2) & (most > 0)


@dataclass(frozen=True)
class Box:
    """A box in depth-first voxel coordinates. It may overhang the volume; what lies outside is padding."""

    start: Size
    size: Size


def lesion_box(mask_dhw: Array, size: Sequence[int]) -> Box:
    """The box of exactly `size` centred on the lesion's bounding box, then shifted to lie inside the volume.

    Along an axis where the volume is not larger than the box, the box is centred on the volume.
    mask_dhw: (D, H, W) bool. Raises ValueError when the mask is empty or the lesion is larger than `size`.
    """
    first, end = _extent(mask_dhw)
    _require_fit(first, end, size)
    return _centred(first, end, tuple(size), mask_dhw.shape)


def tight_box(
    mask_dhw: Array,
    volume_shape: Sequence[int],
    margin: int,
    max_size: Sequence[int],
    multiple: Sequence[int] = (1, 8, 8),
) -> Box:
    """The lesion's bounding box plus `margin` voxels on each side, rounded up to `multiple`.

    At most `max_size`, and no larger than the volume, itself rounded up: more would be padding only. Placed
    like `lesion_box`. mask_dhw: (D, H, W) bool, of the shape `volume_shape`. Raises ValueError when the mask
    is empty, the lesion is larger than `max_size`, or `max_size` is no multiple of `multiple`.
    """
    assert tuple(mask_dhw.shape) == tuple(volume_shape), (
        f"mask {tuple(mask_dhw.shape)}, volume {tuple(volume_shape)}"
    )
    if any(most % unit for most, unit in zip(max_size, multiple, strict=True)):
        raise ValueError(
            f"the largest box {tuple(max_size)} must be a multiple of {tuple(multiple)} along each axis"
        )
    first, end = _extent(mask_dhw)
    _require_fit(first, end, max_size)
    size = tuple(
        min(math.ceil(min(e - f + 2 * margin, length) / unit) * unit, most)
        for f, e, length, unit, most in zip(first, end, volume_shape, multiple, max_size, strict=True)
    )
    return _centred(first, end, size, volume_shape)


def random_box(mask_dhw: Array, size: Sequence[int], generator: torch.Generator) -> Box:
    """A random box of `size` for training that holds as much of the lesion as possible.

    Along an axis where the lesion fits, the box holds all of it at a uniformly random place inside the volume
    (centred on the volume, as in inference, where that is not larger than the box). Along the others the box
    lies within the lesion's extent, and it always holds at least one lesion voxel. mask_dhw: (D, H, W) bool;
    an empty one raises ValueError.
    """
    first, end = _extent(mask_dhw)
    seed_voxel = _random_lesion_voxel(mask_dhw, generator)
    start = []
    for f, e, wanted, length, seed in zip(first, end, size, mask_dhw.shape, seed_voxel, strict=True):
        if length <= wanted:
            start.append(-((wanted - length) // 2))
        elif e - f <= wanted:
            start.append(_randint(max(e - wanted, 0), min(f, length - wanted), generator))
        else:
            start.append(_randint(max(f, seed - wanted + 1), min(seed, e - wanted), generator))
    return Box(tuple(start), tuple(size))


def crop(array: Array, box: Box, pad_value: float | bool) -> Array:
    """Cut `box` out of an array (..., D, H, W) -> (..., *box.size), filling what overhangs with `pad_value`.

    Raises ValueError when the box lies outside the volume altogether.
    """
    inner, before, after = _overlap(box, array.shape[-3:])
    flat = array.reshape(-1, *array.shape[-3:])
    cut = _monai().SpatialCrop(roi_start=[s.start for s in inner], roi_end=[s.stop for s in inner])(flat)
    if any(before) or any(after):
        pad = [(0, 0), *zip(before, after, strict=True)]
        cut = _monai().Pad(to_pad=pad, mode="constant", value=pad_value)(cut)
    cut = _like(cut, array)
    return cut.reshape(*array.shape[:-3], *box.size)


def paste(patch: Array, box: Box, into: Array) -> Array:
    """A copy of `into` (..., D, H, W) with the in-volume part of `patch` (..., *box.size) written back.

    The inverse of `crop`: what was cropped and is pasted where it came from changes nothing.
    """
    assert tuple(patch.shape[-3:]) == tuple(box.size), (
        f"patch {tuple(patch.shape)} does not fit box {box.size}"
    )
    inner, before, _ = _overlap(box, into.shape[-3:])
    kept = tuple(slice(b, b + s.stop - s.start) for b, s in zip(before, inner, strict=True))
    result = into.clone() if isinstance(into, torch.Tensor) else into.copy()
    result[(..., *inner)] = patch[(..., *kept)]
    return result


def lesion_histogram(image: torch.Tensor, lesions: torch.Tensor, bins: int = 16) -> torch.Tensor:
    """Intensity histogram of each lesion class, one after the other.

    image: (1, D, H, W) in [-1, 1]. lesions: (K, D, H, W) bool. Returns (K * bins,) float32: equal bins over
    [-1, 1] (1 belongs to the last one), divided by the class's voxel count, so that each class sums to 1; all
    zeros for a class that is absent.
    """
    counts = torch.stack([torch.histc(image[0][lesion], bins, -1, 1) for lesion in lesions])
    return (counts / lesions.flatten(1).sum(1, keepdim=True).clamp(min=1)).flatten()


def flip(
    image: torch.Tensor, lesions: torch.Tensor, axes: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror image (1, D, H, W) and lesions (K, D, H, W) together; its own inverse. axes: of 0, 1, 2."""
    if not axes:
        return image, lesions
    mirror = _monai().Flip(spatial_axis=tuple(axes))
    return _like(mirror(image), image), _like(mirror(lesions), lesions)


def remap_contrast(image: torch.Tensor, lesion: torch.Tensor, factor: float, gamma: float) -> torch.Tensor:
    """Lesion intensities remapped relative to the dark surroundings: brighter or fainter, sharper or softer.

    A lesion voxel at a height u above the surroundings (1 = the lesion's 95th percentile) goes to
    factor * u ** gamma. gamma < 1 fills the soft border, gamma > 1 widens it. The surroundings' intensity is
    the 10th percentile of the image; what is not above it stays. The factor is held down so that the 95th
    percentile does not rise above 0.65 (150 HU in CT), unless it is there already.

    image (1, D, H, W) in [-1, 1]; lesion (D, H, W) bool, not empty.
    """
    surroundings = float(torch.quantile(image.flatten()[::4], 0.1))
    peak = float(torch.quantile(image[0][lesion], 0.95)) - surroundings
    if peak <= 0 or (factor, gamma) == (1.0, 1.0):
        return image
    factor = min(factor, max(1.0, (0.65 - surroundings) / peak))
    height = (image - surroundings) / peak
    remapped = (surroundings + factor * peak * height.clamp(min=0) ** gamma).clamp(-1, 1)
    return torch.where(lesion[None] & (height > 0), remapped, image)


def match_intensities(values: torch.Tensor, histogram: torch.Tensor) -> torch.Tensor:
    """Intensities (N,) remapped, in rank order, onto a histogram (bins,) over [-1, 1] that is not all zero.

    The darkest stays the darkest: its new value is the histogram's quantile at its rank, intensities being
    even within a bin. On the device of `values`.
    """
    shares = histogram.to(values.device, torch.float64)
    below = (shares / shares.sum()).cumsum(0)
    ranks = (torch.arange(len(values), device=values.device, dtype=torch.float64) + 0.5) / len(values)
    index = torch.searchsorted(below, ranks, right=True).clamp(max=len(shares) - 1)
    within = (ranks - (below - shares / shares.sum())[index]) / (shares / shares.sum())[index]
    quantiles = (index + within.clamp(0, 1)) * (2 / len(shares)) - 1
    matched = torch.empty_like(values)
    matched[torch.argsort(values, stable=True)] = quantiles.to(values.dtype)
    return matched


def match_histogram(image: torch.Tensor, lesions: torch.Tensor, histogram: torch.Tensor) -> torch.Tensor:
    """The image with the intensities of each lesion class remapped onto another histogram.

    image (1, D, H, W) in [-1, 1]; lesions (K, D, H, W) bool; histogram (K * bins,). See match_intensities. A
    class without histogram or without voxels keeps its intensities.
    """
    matched = image.clone()
    for lesion, shares in zip(lesions, histogram.reshape(len(lesions), -1), strict=True):
        if bool(lesion.any()) and float(shares.sum()) > 0:
            matched[0][lesion] = match_intensities(matched[0][lesion], shares)
    return matched


def shift_histogram(histogram: torch.Tensor, shift: float, bins: int) -> torch.Tensor:
    """The histogram (K * bins,) of the same intensities plus `shift` (network units), clamped to [-1, 1].

    A bin's share goes to the two bins that its shifted interval overlaps, by overlap.
    """
    places = (np.arange(bins) + 0.5 + shift * bins / 2).clip(0.5, bins - 0.5) - 0.5
    lower = np.floor(places).astype(int)
    upper = np.minimum(lower + 1, bins - 1)
    above = places - lower
    moved = torch.zeros_like(histogram.reshape(-1, bins))
    for source in range(bins):
        shares = histogram.reshape(-1, bins)[:, source]
        moved[:, lower[source]] += shares * (1 - above[source])
        moved[:, upper[source]] += shares * above[source]
    return moved.flatten()


def blend_histograms(first: torch.Tensor, second: torch.Tensor, share: float, bins: int) -> torch.Tensor:
    """The histogram between two, (K * bins,): its quantiles are (1 - share) first's + share second's.

    A class that one of them lacks is taken from the other.
    """
    edges = np.linspace(-1, 1, bins + 1)
    ranks = (np.arange(1000) + 0.5) / 1000
    blended = []
    for one, other in zip(first.reshape(-1, bins), second.reshape(-1, bins), strict=True):
        if one.sum() == 0 or other.sum() == 0:
            blended.append(one + other)
            continue
        quantiles = [
            np.interp(ranks, np.concatenate([[0.0], np.cumsum((h / h.sum()).double().numpy())]), edges)
            for h in (one, other)
        ]
        mixed = (1 - share) * quantiles[0] + share * quantiles[1]
        blended.append(torch.from_numpy(np.histogram(mixed, edges)[0] / len(ranks)).float())
    return torch.cat(blended)


def draw_contrast(
    generator: torch.Generator,
    bounds: Sequence[float],
    gammas: Sequence[float] = (0.3, 1.25),
    probability: float = 0.7,
) -> tuple[float, float]:
    """Factor (log-uniform within bounds) and gamma for remap_contrast, with that probability; else 1, 1."""
    applied, first, second = torch.rand(3, generator=generator).tolist()
    if applied >= probability:
        return 1.0, 1.0
    low, high = (math.log(bound) for bound in bounds)
    return math.exp(low + (high - low) * first), gammas[0] + (gammas[1] - gammas[0]) * second


def draw_flip_axes(generator: torch.Generator, probability: float = 0.5) -> tuple[int, ...]:
    """The axes to flip this time: each of depth, height and width on its own with `probability`."""
    chosen = torch.rand(3, generator=generator) < probability
    return tuple(axis for axis in range(3) if chosen[axis])


def _move_axis(array: Array, source: int, target: int) -> Array:
    if isinstance(array, torch.Tensor):
        return array.movedim(source, target)
    return np.moveaxis(array, source, target)


def _extent(mask_dhw: Array) -> tuple[Size, Size]:
    """First index of the lesion's bounding box along each axis, and the index behind its last one."""
    mask = np.asarray(mask_dhw)
    lines = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not lines[0].size:
        raise ValueError("the mask is empty, so there is no lesion to put a box around")
    return tuple(int(line[0]) for line in lines), tuple(int(line[-1]) + 1 for line in lines)


def _require_fit(first: Size, end: Size, size: Sequence[int]) -> None:
    extent = tuple(e - f for f, e in zip(first, end, strict=True))
    if any(e > s for e, s in zip(extent, size, strict=True)):
        raise ValueError(
            f"the lesion spans {extent} voxels (depth, height, width), more than the box {tuple(size)}"
        )


def _centred(first: Size, end: Size, size: Size, volume_shape: Sequence[int]) -> Box:
    start = tuple(
        min(max((f + e - wanted) // 2, 0), length - wanted) if length > wanted else -((wanted - length) // 2)
        for f, e, wanted, length in zip(first, end, size, volume_shape, strict=True)
    )
    return Box(start, size)


def _overlap(box: Box, volume_shape: Sequence[int]) -> tuple[tuple[slice, ...], Size, Size]:
    """The part of the volume under the box, and how far the box overhangs before and after it."""
    end = tuple(start + size for start, size in zip(box.start, box.size, strict=True))
    inner = tuple(slice(max(s, 0), min(e, n)) for s, e, n in zip(box.start, end, volume_shape, strict=True))
    if any(part.stop <= part.start for part in inner):
        raise ValueError(
            f"box at {box.start} of size {box.size} lies outside the volume {tuple(volume_shape)}"
        )
    before = tuple(max(-s, 0) for s in box.start)
    after = tuple(max(e - n, 0) for e, n in zip(end, volume_shape, strict=True))
    return inner, before, after


def _monai() -> ModuleType:
    """MONAI's transforms, imported when the first is needed: that takes longer than all else at a start."""
    from monai import transforms

    return transforms


def _like(result, original: Array) -> Array:
    """MONAI returns a MetaTensor; give back the caller's kind of array."""
    plain = result.as_tensor() if hasattr(result, "as_tensor") else torch.as_tensor(result)
    return plain if isinstance(original, torch.Tensor) else plain.numpy().astype(original.dtype, copy=False)


def _random_lesion_voxel(mask_dhw: Array, generator: torch.Generator) -> Size:
    voxels = np.argwhere(np.asarray(mask_dhw))
    return tuple(int(i) for i in voxels[_randint(0, len(voxels) - 1, generator)])


def _randint(lowest: int, highest: int, generator: torch.Generator) -> int:
    return int(torch.randint(lowest, highest + 1, (), generator=generator))
