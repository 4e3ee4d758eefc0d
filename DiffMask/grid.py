"""Between a scan and the box of voxels in which the mask network works, with the sphere in its middle."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from DiffMask.sphere import Sphere, draw_sphere
from LeFusion.errors import UserError

ROOM = 2  # voxels that a sphere leaves free along the shortest side of the box


@dataclass(frozen=True)
class MaskGrid:
    """A box of `size` voxels of `spacing_mm` (depth, height, width) over a scan.

    centre: voxel of the scan, fractions allowed, on which the box's middle voxel size // 2 lies.
    scan_spacing_mm: of the scan's voxels. All depth first.
    """

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    centre: tuple[float, float, float]
    scan_spacing_mm: tuple[float, float, float]

    @classmethod
    def around(
        cls,
        centre: Sequence[float],
        diameter_mm: float,
        scan_spacing_mm: Sequence[float],
        size: Sequence[int],
        spacing_mm: Sequence[float],
    ) -> "MaskGrid":
        """The grid of a network that was trained on `size` voxels of `spacing_mm`.

        Around a sphere that is too large for it the voxels are larger, all axes by one factor.
        """
        room = min((n - ROOM) * s for n, s in zip(size, spacing_mm, strict=True))
        factor = max(1.0, diameter_mm / room)
        spacing = tuple(float(s * factor) for s in spacing_mm)
        return cls(tuple(size), spacing, tuple(map(float, centre)), tuple(map(float, scan_spacing_mm)))

    def sphere(self, diameter_mm: float) -> Tensor:
        """The sphere in the middle, (D, H, W) bool; its radius is cut to whole voxels, as in training."""
        radius = int(diameter_mm / 2 / max(self.spacing_mm) + 1e-6)
        return draw_sphere(Sphere(tuple(n // 2 for n in self.size), radius), self.size)

    def box(self, shape: Sequence[int]) -> tuple[slice, slice, slice]:
        """The voxels of a scan of `shape` that lie in the grid. ValueError when there are none."""
        box = []
        for n, s, centre, scan_s, length in zip(
            self.size, self.spacing_mm, self.centre, self.scan_spacing_mm, shape, strict=True
        ):
            first = max(int(np.ceil(centre - (n // 2) * s / scan_s - 1e-9)), 0)
            last = min(int(np.floor(centre + (n - 1 - n // 2) * s / scan_s + 1e-9)), length - 1)
            if first > last:
                raise UserError(f"the sphere at {self.centre} lies outside the volume of {tuple(shape)}")
            box.append(slice(first, last + 1))
        return tuple(box)

    def to_scan(self, soft: Tensor | np.ndarray, box: Sequence[slice]) -> np.ndarray:
        """A soft mask (D, H, W) of the grid at the scan's voxels in `box`, interpolated linearly."""
        axes = [
            n // 2 + (np.arange(part.start, part.stop) - centre) * scan_s / s
            for n, s, centre, scan_s, part in zip(
                self.size, self.spacing_mm, self.centre, self.scan_spacing_mm, box, strict=True
            )
        ]
        values = soft.numpy() if isinstance(soft, torch.Tensor) else soft
        places = np.stack(np.meshgrid(*axes, indexing="ij"))
        return ndimage.map_coordinates(values.astype(np.float32), places, order=1, mode="nearest")
