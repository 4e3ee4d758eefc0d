"""A 3D image as stored, whatever its format: its numbers, what they mean, and where its voxels lie."""

import hashlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform

from LeFusion.errors import UserError

WHOLE = (slice(None),) * 3
Piece = tuple[np.ndarray, np.ndarray, tuple[slice, slice, slice]]
GRID_TOLERANCE = 0.1  # voxels by which the corners of two volumes on one grid may lie apart
LABEL_TOLERANCE = 1e-3  # by which a label may differ from a whole number after scaling or resampling
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # of LPS, the world of DICOM and ITK; and back
FLAT = 1e-3  # volume of a voxel whose edges are scaled to 1, below which its axes span no space


@dataclass(frozen=True)
class Volume:
    """A 3D image held in memory.

    raw: the stored numbers, in the stored data type, byte order and axis order (fastest axis first).
    slope, inter: a voxel's value is raw * slope + inter.
    affine: (4, 4) voxel index to mm of RAS, as NIfTI has it.
    header: what the format keeps besides, for writing: of NIfTI the header with its extensions, scl_slope as
        stored; of MetaImage and NRRD an ItkHeader; of DICOM the Series. None: nothing.

    Raises UserError, naming the file, for an affine that does not say where voxels lie.
    """

    path: Path
    raw: np.ndarray
    slope: float
    inter: float
    affine: np.ndarray
    header: object = None

    def __post_init__(self):
        axes = self.affine[:3, :3]
        with np.errstate(invalid="ignore", divide="ignore"):
            space = abs(np.linalg.det(axes / np.linalg.norm(axes, axis=0)))
        if not (np.isfinite(self.affine).all() and space > FLAT):
            raise UserError(
                f"{self.path}: its affine {np.round(self.affine[:3], 3).tolist()} does not say where voxels "
                "lie; write the file again with its geometry"
            )

    @property
    def modality(self) -> str | None:
        """As DICOM names it (CT, MR, PT); None where the format does not say."""
        return getattr(self.header, "modality", None)

    @cached_property
    def sha256(self) -> str:
        """Of the stored numbers, their scaling and the affine."""
        digest = hashlib.sha256(repr((self.slope, self.inter, self.affine.tolist(), self.raw.shape)).encode())
        digest.update(np.ascontiguousarray(self.raw.T))
        return digest.hexdigest()

    @property
    def values(self) -> np.ndarray:
        """Voxel values in the file's units: float32, or float64 if float32 cannot hold each one exactly."""
        return self.part(WHOLE)

    @property
    def labels(self) -> np.ndarray:
        """The same of a mask: whole numbers that a scale factor or a resampler in floating point has moved a
        little are whole again."""
        exact = self.slope == 1 and self.inter == 0 and self.raw.dtype.kind != "f"
        return self.values if exact else whole_numbers(self.values)

    @cached_property
    def found_labels(self) -> np.ndarray:
        """The different values of a mask, sorted, float64."""
        found = np.unique(self.raw).astype(np.float64) * self.slope + self.inter
        return np.unique(whole_numbers(found))

    def part(self, slices: tuple[slice, slice, slice]) -> np.ndarray:
        """The same of a part of the stored array."""
        raw = self.raw[slices]
        if self.slope == 1 and self.inter == 0 and np.can_cast(raw.dtype, np.float32):
            return raw.astype(np.float32)
        values = raw.astype(np.float64) * self.slope + self.inter
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32)
        return narrow if np.array_equal(narrow, values) else values


def whole_numbers(values: np.ndarray) -> np.ndarray:
    """Values within LABEL_TOLERANCE of a whole number set to it: 255 stored with a slope of 1/255 is 1."""
    whole = np.rint(values)
    return np.where(np.abs(values - whole) <= LABEL_TOLERANCE, whole, values)


def refuse_not_finite(volume: Volume) -> None:
    """Raises UserError, naming the file, for NaN or infinite voxels."""
    ends = np.array([volume.raw.min(), volume.raw.max()], np.float64)
    if not np.isfinite(ends * volume.slope + volume.inter).all():
        bad = volume.raw.size - np.count_nonzero(np.isfinite(volume.values))
        raise UserError(
            f"{volume.path}: holds {bad} NaN or infinite voxels; replace them by numbers (air in CT is -1000)"
        )


def check_same_grid(volume: Volume, other: Volume) -> None:
    """Raises UserError, naming both files, unless the shapes are equal and every voxel lies where the other's
    does, to GRID_TOLERANCE voxels."""
    if volume.raw.shape != other.raw.shape:
        raise UserError(
            f"{volume.path}: has shape {volume.raw.shape} but {other.path} has {other.raw.shape}; "
            "resample it to that grid"
        )
    corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in volume.raw.shape))])
    apart = (volume.affine - other.affine) @ corners.T  # mm, at their largest in a corner
    if np.abs(np.linalg.solve(other.affine[:3, :3], apart[:3])).max() > GRID_TOLERANCE:
        raise UserError(
            f"{volume.path}: its affine differs from that of {other.path}: voxels lie up to "
            f"{np.abs(apart).max():.4g} mm apart; resample it to that grid"
        )


def on_grid_of(volume: Volume, other: Volume) -> Volume:
    """The volume with its axes in order and direction of the other's, whose voxels lie at the same places.

    Raises UserError, naming both files, where there are no such voxels.
    """
    try:
        check_same_grid(volume, other)
        return volume
    except UserError as error:
        turn = ornt_transform(io_orientation(volume.affine), io_orientation(other.affine))
        affine = volume.affine @ inv_ornt_aff(turn, volume.raw.shape)
        turned = replace(volume, raw=apply_orientation(volume.raw, turn), affine=affine)
        try:
            check_same_grid(turned, other)
        except UserError:
            raise error from None
        return replace(turned, affine=other.affine, header=other.header)


def with_values(source: Volume, pieces: Sequence[Piece], path: str | os.PathLike) -> Volume:
    """A copy of `source`, to be at `path`, in which only the voxels under masks are new.

    pieces: (values, mask, part) each. values: in the source's units and stored axis order, of the shape of
    the part of the source; read only where mask is True. mask: bool, same shape. Inside it values are
    converted to the stored data type (rounded for integers); every voxel outside is the stored
    number itself, so bit-identical. Header, geometry and scaling are the source's.

    Raises ValueError for another shape, a mask that is not bool or values in it that are not finite or that
    the data type cannot hold.
    """
    raw = source.raw.copy(order="K")
    for values, mask, part in pieces:
        shape = source.raw[part].shape
        if np.shape(values) != shape or np.shape(mask) != shape:
            raise UserError(
                f"{path}: values {np.shape(values)} and mask {np.shape(mask)} must have the shape "
                f"{shape} of the source {source.path}"
            )
        if mask.dtype != np.bool_:
            raise UserError(
                f"{path}: the mask must be boolean, not {mask.dtype}; compare it with the label first"
            )
        new_values = np.asarray(values)[mask].astype(np.float64)
        bad = new_values.size - np.count_nonzero(np.isfinite(new_values))
        if bad:
            raise UserError(
                f"{path}: {bad} of {new_values.size} new voxels are NaN or infinite; nothing was written"
            )
        scaled = (new_values - source.inter) / source.slope
        stored = _to_stored(scaled, raw.dtype)
        beyond = np.abs(stored - scaled) > np.maximum(0.51, 1e-6 * np.abs(scaled))
        if beyond.any():
            raise UserError(
                f"{path}: {np.count_nonzero(beyond)} of {new_values.size} new voxels, such as "
                f"{new_values[beyond][0]:g}, do not fit into {raw.dtype}, the type of {source.path}; nothing "
                "was written. Save the source as int16 or float32"
            )
        raw[part][mask] = stored
    return replace(source, path=Path(path), raw=raw)


def _to_stored(scaled: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Round and clip float64 numbers to `dtype`."""
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        return np.clip(scaled, limits.min, limits.max).astype(dtype)
    limits = np.iinfo(dtype)
    highest = float(limits.max)
    if highest > limits.max:  # 64-bit: the nearest float lies outside the type
        highest = np.nextafter(highest, 0)
    return np.clip(np.rint(scaled), limits.min, highest).astype(dtype)
