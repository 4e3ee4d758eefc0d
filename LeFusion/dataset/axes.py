"""Between arrays as stored and arrays depth first: which axis is which, and which way each of them runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from LeFusion.dataset.boxes import Box, Size
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.volume import Volume
from LeFusion.errors import UserError

TOWARDS_BASE = np.array([0.6, -0.5, 0.6])  # from apex to base: right, posterior, superior; roughly, of adults
THICK = 1.2  # slices this much thicker than all other sides of a voxel are the slices of the scan
NANOMETRE = 6  # decimals of a millimetre
WHOLE = 3  # times the slices of the network's region: a volume with more of them is no region


@dataclass(frozen=True)
class Axes:
    """How a stored array becomes (D, H, W): axis i of that is the stored axis order[i], reversed where
    flips[i]. Arrays are NumPy's; what is returned is a view."""

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool] = (False, False, False)

    @classmethod
    def of(cls, volume: Volume, layout: Layout) -> "Axes":
        """With a layout's orientation from the affine; without one the depth axis first, nothing reversed,
        but hearts always seen from one side, see `of_heart`."""
        if layout.orientation is None and layout.cavity_label is not None:
            return cls.of_heart(volume, layout.depth_axis)
        if layout.orientation is None:
            others = [axis for axis in range(3) if axis != layout.depth_axis]
            return cls((layout.depth_axis, *others))
        turn = ornt_transform(io_orientation(volume.affine), axcodes2ornt(layout.orientation))
        order = np.argsort(turn[:, 0])
        return cls(tuple(int(axis) for axis in order), tuple(bool(turn[axis, 1] < 0) for axis in order))

    @classmethod
    def of_heart(cls, volume: Volume, depth_axis: int) -> "Axes":
        """Slices from apex to base, rows to the left and columns to the back as far as a stack of short-axis
        slices allows, and always right-handed: labels do not tell a heart from its mirror image.

        Slices are along the axis of the longest and fewest voxels, where there is one, else depth_axis.
        """
        sides_mm, thick = np.linalg.norm(volume.affine[:3, :3], axis=0), int(np.argmin(volume.raw.shape))
        if sides_mm[thick] > THICK * np.delete(sides_mm, thick).max():
            depth_axis = thick
        towards = (volume.affine[:3, :3] / sides_mm).round(6)  # columns: where a stored axis runs to, R A S
        first, second = (axis for axis in range(3) if axis != depth_axis)
        order = max(
            ((depth_axis, first, second), (depth_axis, second, first)),
            key=lambda axes: abs(towards[0, axes[1]]) + abs(towards[1, axes[2]]),
        )
        depth, height, width = towards[:, order].T
        flips = [bool(TOWARDS_BASE @ depth < 0), bool(height[0] > 0)]
        mirrored = np.linalg.det([depth, height, width]) < 0
        return cls(order, (*flips, bool(mirrored ^ flips[0] ^ flips[1])))

    def to_dhw(self, stored: np.ndarray) -> np.ndarray:
        """Stored order -> (D, H, W)."""
        return stored.transpose(self.order)[self._steps]

    def to_stored(self, dhw: np.ndarray) -> np.ndarray:
        """(D, H, W) -> stored order; the inverse of `to_dhw`."""
        return dhw[self._steps].transpose(np.argsort(self.order))

    def slices(self, box: Box, shape: Size) -> tuple[slice, slice, slice]:
        """Where a box within a (D, H, W) volume of this shape lies in the stored array."""
        found = [slice(0)] * 3
        for axis, flip, start, end, n in zip(self.order, self.flips, box.start, box.end, shape, strict=True):
            found[axis] = slice(n - end, n - start) if flip else slice(start, end)
        return tuple(found)

    def stored_index(self, dhw: Sequence[float], shape: Size) -> tuple[float, float, float]:
        """A voxel (fractions too) of a (D, H, W) volume of this shape -> its index in the stored array."""
        found = [0.0] * 3
        for axis, flip, index, n in zip(self.order, self.flips, dhw, shape, strict=True):
            found[axis] = n - 1 - index if flip else index
        return tuple(found)

    def dhw_index(self, stored: Sequence[float], shape: Size) -> tuple[float, float, float]:
        """The inverse of `stored_index`."""
        return tuple(
            n - 1 - stored[axis] if flip else stored[axis]
            for axis, flip, n in zip(self.order, self.flips, shape, strict=True)
        )

    def spacing_mm(self, volume: Volume) -> tuple[float, float, float]:
        """Distance of voxels along (depth, height, width), to a nanometre: formats that keep 4, 8 or any
        number of digits then agree, and so do sizes that are computed from it."""
        stored = np.linalg.norm(volume.affine[:3, :3], axis=0).round(NANOMETRE).tolist()
        return tuple(stored[axis] for axis in self.order)

    @property
    def _steps(self) -> tuple[slice, slice, slice]:
        return tuple(slice(None, None, -1 if flip else None) for flip in self.flips)


def refuse_turned(volume: Volume, layout: Layout, region_depth: int, data_type: str) -> None:
    """Raises UserError for a whole CT whose slices lie along another axis than the layout's.

    region_depth: slices of the network's region. Regions pass, as do volumes with square slices along the
    layout's axis: the affines of LIDC regions give the voxel size only. So does everything where the layout
    has an orientation.
    """
    if layout.orientation is not None:
        return
    axis = layout.depth_axis
    axial = int(np.abs(volume.affine[2, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)).argmax())
    rows, columns = np.delete(volume.raw.shape, axis)
    if axial != axis and volume.raw.shape[axis] > WHOLE * region_depth and rows != columns:
        raise UserError(
            f"{volume.path}: the slices of this whole CT of {volume.raw.shape} lie along axis {axial}, not "
            f"{axis} as with data_type={data_type}; use data_type=chest_ct (or layout.orientation=SPL)"
        )
