"""Read NIfTI files exactly as stored; write results that equal their source outside a mask, bit for bit."""

import gzip
import hashlib
import io
import itertools
import math
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from LeFusion.errors import MissingFileError, StorageError, UserError

GZIP_MAGIC = b"\x1f\x8b"
WHOLE = (slice(None),) * 3
Piece = tuple[np.ndarray, np.ndarray, tuple[slice, slice, slice]]
GRID_TOLERANCE = 0.1  # voxels by which the corners of two volumes on one grid may lie apart
LABEL_TOLERANCE = 1e-3  # by which a label may differ from a whole number where a mask has a scale factor
FLAT = 1e-3  # volume of a voxel whose edges are scaled to 1, below which its axes span no space
GZIP_LEVEL = 4  # CT volumes shrink a few percent more at level 9, for several times the time


@dataclass(frozen=True)
class Volume:
    """A 3D NIfTI file held in memory.

    raw: the stored numbers, in the stored data type, byte order and axis order.
    slope, inter: a voxel's value is raw * slope + inter.
    affine: (4, 4) voxel index to mm.
    header: the file's header with its extensions, scl_slope as stored.

    Raises UserError, naming the file, for an affine that does not say where voxels lie.
    """

    path: Path
    raw: np.ndarray
    slope: float
    inter: float
    affine: np.ndarray
    header: Nifti1Header  # a Nifti2Header is one, too

    def __post_init__(self):
        axes = self.affine[:3, :3]
        with np.errstate(invalid="ignore", divide="ignore"):
            space = abs(np.linalg.det(axes / np.linalg.norm(axes, axis=0)))
        if not (np.isfinite(self.affine).all() and space > FLAT):
            raise UserError(
                f"{self.path}: its affine {np.round(self.affine[:3], 3).tolist()} does not say where voxels "
                "lie; write the file again with its geometry"
            )

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
        """The same of a mask: whole numbers that a scale factor has moved a little are whole again."""
        return self.values if self.slope == 1 and self.inter == 0 else whole_numbers(self.values)

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


def read_volume(path: str | os.PathLike) -> Volume:
    """Read a `.nii` or `.nii.gz` file (NIfTI-1 or NIfTI-2, either byte order) completely into memory.

    Raises FileNotFoundError when there is no such file and ValueError when it is damaged, is no NIfTI file,
    is not 3D, has an affine that does not say where voxels lie, or holds NaN or infinite values. The message
    is one line and names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; check the path")
    content = _decompressed(path)
    header, affine, slope, inter = _parse_header(path, content)
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    if len(shape) != 3 or min(shape) < 1:
        raise UserError(f"{path}: has shape {shape} but must be a 3D volume; save one 3D volume per file")
    if dtype.kind not in "iuf":
        raise UserError(f"{path}: has data type {dtype}; save it as integers or floats")
    needed = header.get_data_offset() + math.prod(shape) * dtype.itemsize
    if len(content) < needed:
        raise UserError(
            f"{path}: is cut short at {len(content)} of {needed} bytes; copy or download it again"
        )
    raw = header.raw_data_from_fileobj(io.BytesIO(content))
    volume = Volume(path, raw, slope, inter, affine, header)
    if not np.isfinite(np.array([raw.min(), raw.max()], np.float64) * slope + inter).all():
        bad = raw.size - np.count_nonzero(np.isfinite(volume.values))
        raise UserError(
            f"{path}: holds {bad} NaN or infinite voxels; replace them by numbers (air in CT is -1000)"
        )
    return volume


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
    raw = source.raw.copy()
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


def write_volume(volume: Volume) -> None:
    """Write a volume to its path. Raises OSError when that cannot be."""
    _write(volume.header.copy(), volume.raw, volume.path)


def write_volume_like(source: Volume, values: np.ndarray, mask: np.ndarray, path: str | os.PathLike) -> None:
    """Write a copy of `source` in which only the voxels under `mask` are new, see `with_values`; both have
    the shape of the source. Raises OSError when the file cannot be written."""
    write_volume(with_values(source, [(values, mask, WHOLE)], path))


def write_label_like(source: Volume, labels: np.ndarray, path: str | os.PathLike) -> None:
    """Write a label map (stored axis order, shape of `source`) in the geometry of `source`, unscaled.

    labels: uint8, bool (written as uint8) or uint16. Raises ValueError for another shape or type, OSError
    when the file cannot be written.
    """
    if np.shape(labels) != source.raw.shape:
        raise UserError(
            f"{path}: labels {np.shape(labels)} must have the shape {source.raw.shape} of {source.path}"
        )
    if not np.can_cast(labels.dtype, np.uint16):
        raise UserError(f"{path}: labels must be uint8 or uint16, not {labels.dtype}; convert them first")
    stored = np.asarray(labels).astype(np.result_type(labels.dtype, np.uint8))
    header = source.header.copy()
    header.set_data_dtype(stored.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # the source's display window does not suit labels
    _write(header, stored, path)


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`: what is written there appears at `path` complete or not at all.

    Makes missing folders. On a clean exit the file is synced and renamed; on any error or interrupt it is
    removed; what a killed process left is removed by the next that writes to `path`. The temporary name
    starts with a dot (so no case finder takes it) and keeps the ending (so np.save and others do not add
    one). An OSError, such as a full disk, becomes an OSError of one line that
    names `path` and the reason.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid():08x}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # some libraries write files that only their owner may read
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise StorageError(f"cannot write {path}: {error.strerror or _one_line(error)}") from error
        raise


def _remove_leftovers(path: Path) -> None:
    """Removes the temporary files for `path` of processes that run no more, and those of this one."""
    ending = f".{path.name}"
    with os.scandir(path.parent) as entries:
        found = [entry.name for entry in entries if entry.name.endswith(ending)]
    for name in found:
        process = re.fullmatch(r"\.([0-9a-f]{8})", name.removesuffix(ending))
        if process and not _runs(int(process[1], 16)):
            with suppress(OSError):
                path.with_name(name).unlink()


def _runs(process: int) -> bool:
    """Whether another process of this number runs on this machine."""
    if process in (0, os.getpid()):
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _decompressed(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{path}: is a damaged gzip file ({_one_line(error)}); copy or download it again"
        ) from error


def _parse_header(path: Path, content: bytes) -> tuple[Nifti1Header, np.ndarray, float, float]:
    """The header, its affine, slope and intercept."""
    header_class = next((c for c in (Nifti1Header, Nifti2Header) if c.may_contain_header(content)), None)
    if header_class is None:
        raise UserError(f"{path}: is not a NIfTI file; convert it to .nii.gz")
    try:
        header = header_class.from_fileobj(io.BytesIO(content))
        header.get_data_dtype()
        affine = header.get_best_affine()
        slope, inter = header.get_slope_inter()
    except (HeaderDataError, WrapStructError, ValueError) as error:
        raise UserError(
            f"{path}: has a damaged NIfTI header ({_one_line(error)}); export it again"
        ) from error
    if not header["magic"].item().startswith(b"n+"):
        raise UserError(f"{path}: is the header of a .hdr/.img pair; save it as one .nii.gz file")
    if np.isinf(header["scl_slope"]):
        raise UserError(f"{path}: its scale factor is infinite; export it again")
    if slope is None:  # 0 or NaN: the standard says "no scaling"
        slope, inter = 1.0, 0.0
    return header, affine, slope, inter


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


def _write(header: Nifti1Header, raw: np.ndarray, path: str | os.PathLike) -> None:
    header["vox_offset"] = 0  # nibabel then puts the voxels right behind the header and its extensions
    start = io.BytesIO()
    header.write_to(start)
    with atomic_file(path) as temporary, open(temporary, "xb") as file:
        if str(path).endswith(".gz"):
            # No time and no name in the gzip header: the same voxels give the same bytes.
            with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:
                packed.write(start.getvalue())
                packed.write(raw.tobytes(order="F"))
        else:
            file.write(start.getvalue())
            file.write(raw.tobytes(order="F"))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
