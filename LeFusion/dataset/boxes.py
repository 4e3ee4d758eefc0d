"""Boxes in depth-first voxel coordinates: around a lesion, at random for training, cut out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from LeFusion.dataset.intensity import Array
from LeFusion.errors import UserError

Size = tuple[int, int, int]

AIR = -1.0  # lowest network intensity; pads an image that is smaller than its box


@dataclass(frozen=True)
class Box:
    """A box in depth-first voxel coordinates. It may overhang the volume; what lies outside is padding."""

    start: Size
    size: Size

    @classmethod
    def between(cls, start: Sequence[int], end: Sequence[int]) -> "Box":
        """From voxel `start` to before voxel `end`."""
        return cls(tuple(start), tuple(e - s for s, e in zip(start, end, strict=True)))

    @property
    def end(self) -> Size:
        return tuple(start + size for start, size in zip(self.start, self.size, strict=True))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """For a box within its volume."""
        return tuple(slice(start, end) for start, end in zip(self.start, self.end, strict=True))

    def moved(self, by: Sequence[int]) -> "Box":
        """So many voxels further along each axis."""
        return Box(tuple(s + n for s, n in zip(self.start, by, strict=True)), self.size)

    def grown(self, by: Sequence[int]) -> "Box":
        """With so many voxels more on each side of each axis."""
        start = [s - n for s, n in zip(self.start, by, strict=True)]
        return Box.between(start, [e + n for e, n in zip(self.end, by, strict=True)])

    def within(self, shape: Sequence[int]) -> "Box":
        """What of it lies in a volume of this shape."""
        start = [max(s, 0) for s in self.start]
        return Box.between(start, [min(e, n) for e, n in zip(self.end, shape, strict=True)])


def lesion_box(mask_dhw: Array, size: Sequence[int]) -> Box:
    """The box of exactly `size` centred on the lesion's bounding box, then shifted to lie inside the volume.

    Along an axis where the volume is not larger than the box, the box is centred on the volume.
    mask_dhw: (D, H, W) bool. Raises ValueError when the mask is empty or the lesion is larger than `size`.
    """
    return box_around(extent(mask_dhw), mask_dhw.shape, size)


def box_around(lesion: Box, volume_shape: Sequence[int], size: Sequence[int]) -> Box:
    """`lesion_box` of a lesion with this bounding box."""
    _require_fit(lesion, size)
    return _centred(lesion, tuple(size), volume_shape)


def tight_box_around(
    lesion: Box,
    volume_shape: Sequence[int],
    margin: int,
    max_size: Sequence[int],
    multiple: Sequence[int] = (1, 8, 8),
    step: tuple[int, int] | None = None,
) -> Box:
    """A lesion's bounding box plus `margin` voxels on each side, rounded up to `multiple`.

    At most `max_size`, and no larger than the volume, itself rounded up: more would be padding only. Placed
    like `lesion_box`. Raises UserError when the lesion is larger than `max_size`, or that is no multiple of
    `multiple`.

    step: (of the depth, of the plane) so that lesions of like size have boxes of one size: a box is as high
    as wide and rounded up to a multiple of it, as far as the volume and `max_size` go.
    """
    if any(most % unit for most, unit in zip(max_size, multiple, strict=True)):
        raise UserError(
            f"the largest box {tuple(max_size)} must be a multiple of {tuple(multiple)} along each axis"
        )
    _require_fit(lesion, max_size)
    wanted = [_up(length + 2 * margin, unit) for length, unit in zip(lesion.size, multiple, strict=True)]
    if step is not None:
        wanted = [_up(wanted[0], step[0]), *[_up(max(wanted[1:]), step[1])] * 2]
    size = tuple(
        min(n, _up(length, unit), most)
        for n, length, unit, most in zip(wanted, volume_shape, multiple, max_size, strict=True)
    )
    return _centred(lesion, size, volume_shape)


def random_box(mask_dhw: Array, size: Sequence[int], generator: torch.Generator) -> Box:
    """A random box of `size` for training that holds as much of the lesion as possible.

    Along an axis where the lesion fits, the box holds all of it at a uniformly random place inside the volume
    (centred on the volume, as in inference, where that is not larger than the box). Along the others the box
    lies within the lesion's extent, and it always holds at least one lesion voxel. mask_dhw: (D, H, W) bool;
    an empty one raises ValueError.
    """
    lesion = extent(mask_dhw)
    first, end = lesion.start, lesion.end
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
    """A copy of `box` out of an array (..., D, H, W) -> (..., *box.size), `pad_value` where it overhangs.

    Raises ValueError when the box lies outside the volume altogether.
    """
    whole, shape = Box((0, 0, 0), tuple(array.shape[-3:])), (*array.shape[:-3], *box.size)
    if isinstance(array, torch.Tensor):
        part = array.new_full(shape, pad_value)
    else:
        part = np.full(shape, pad_value, array.dtype)
    if not copy_overlap(array, whole, part, box):
        raise UserError(f"box at {box.start} of size {box.size} lies outside the volume {whole.size}")
    return part


def copy_overlap(voxels: Array, place: Box, into: Array, box: Box) -> bool:
    """Writes voxels (..., *place.size) that lie at `place` into (..., *box.size) at `box`, where both are;
    False: nowhere."""
    starts = [max(a, b) for a, b in zip(place.start, box.start, strict=True)]
    ends = [min(a, b) for a, b in zip(place.end, box.end, strict=True)]
    if any(end <= start for start, end in zip(starts, ends, strict=True)):
        return False
    here, there = (
        tuple(slice(s - o, e - o) for s, e, o in zip(starts, ends, origin.start, strict=True))
        for origin in (place, box)
    )
    into[(..., *there)] = voxels[(..., *here)]
    return True


def extent(mask_dhw: Array) -> Box:
    """The bounding box of a mask (D, H, W) bool. Raises UserError when the mask is empty."""
    mask = np.asarray(mask_dhw)
    lines = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not lines[0].size:
        raise UserError("the mask is empty, so there is no lesion to put a box around")
    return Box.between([int(line[0]) for line in lines], [int(line[-1]) + 1 for line in lines])


def _up(length: int, unit: int) -> int:
    return math.ceil(length / unit) * unit


def _require_fit(lesion: Box, size: Sequence[int]) -> None:
    if any(e > s for e, s in zip(lesion.size, size, strict=True)):
        raise UserError(
            f"the lesion spans {lesion.size} voxels (depth, height, width), more than the box {tuple(size)}"
        )


def _centred(lesion: Box, size: Size, volume_shape: Sequence[int]) -> Box:
    start = tuple(
        min(max((f + e - wanted) // 2, 0), length - wanted) if length > wanted else -((wanted - length) // 2)
        for f, e, wanted, length in zip(lesion.start, lesion.end, size, volume_shape, strict=True)
    )
    return Box(start, size)


def _random_lesion_voxel(mask_dhw: Array, generator: torch.Generator) -> Size:
    voxels = np.argwhere(np.asarray(mask_dhw))
    return tuple(int(i) for i in voxels[_randint(0, len(voxels) - 1, generator)])


def _randint(lowest: int, highest: int, generator: torch.Generator) -> int:
    return int(torch.randint(lowest, highest + 1, (), generator=generator))
