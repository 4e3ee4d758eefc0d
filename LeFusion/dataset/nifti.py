"""Read NIfTI files exactly as stored, and write them."""

import gzip
import io
import math
import os
import zlib
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from LeFusion.dataset.storage import atomic_file, one_line
from LeFusion.dataset.volume import Volume
from LeFusion.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"
GZIP_LEVEL = 4  # CT volumes shrink a few percent more at level 9, for several times the time


def read_nifti(path: str | os.PathLike) -> Volume:
    """Read a `.nii` or `.nii.gz` file (NIfTI-1 or NIfTI-2, either byte order) completely into memory.

    Raises UserError when it is damaged, is no NIfTI file, is not 3D (or a series of one volume), or has an
    affine that does not say where voxels lie. The message is one line and names the file.
    """
    path = Path(path)
    content = _decompressed(path)
    header, affine, slope, inter = _parse_header(path, content)
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    if len(shape) > 3 and set(shape[3:]) == {1}:  # one volume, written as a series
        shape = shape[:3]
        header.set_data_shape(shape)
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
    return Volume(path, raw, slope, inter, affine, header)


def write_nifti(volume: Volume) -> None:
    """Write a volume to its path, with its header where it comes from NIfTI. Raises OSError when that cannot
    be."""
    path, start = volume.path, _start(volume)
    with atomic_file(path) as temporary, open(temporary, "xb") as file:
        if path.name.lower().endswith(".gz"):
            # No time and no name in the gzip header: the same voxels give the same bytes.
            with gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) as packed:
                packed.write(start)
                packed.write(volume.raw.tobytes(order="F"))
        else:
            file.write(start)
            file.write(volume.raw.tobytes(order="F"))


def nifti_bytes(volume: Volume) -> bytes:
    """The content of the uncompressed file."""
    return _start(volume) + volume.raw.tobytes(order="F")


def _start(volume: Volume) -> bytes:
    """The header as it is written, with its extensions."""
    header = _header_of(volume)
    header["vox_offset"] = 0  # nibabel then puts the voxels right behind the header and its extensions
    start = io.BytesIO()
    header.write_to(start)
    return start.getvalue()


def label_header(header: object, dtype: np.dtype) -> Nifti1Header | None:
    """The header of an unscaled label map beside an image of this header; None where that is not NIfTI's."""
    if not isinstance(header, Nifti1Header):
        return None
    header = header.copy()
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0  # the source's display window does not suit labels
    return header


def _header_of(volume: Volume) -> Nifti1Header:
    if isinstance(volume.header, Nifti1Header):
        return volume.header.copy()
    header = Nifti1Header()
    header.set_data_dtype(volume.raw.dtype)
    header.set_data_shape(volume.raw.shape)
    header.set_sform(volume.affine, "scanner")
    header.set_qform(volume.affine, "scanner", strip_shears=True)
    header.set_xyzt_units("mm")
    header.set_slope_inter(volume.slope, volume.inter)
    return header


def is_nifti(head: bytes) -> bool:
    """Whether a file that begins like this, and is not compressed, has a NIfTI header."""
    return any(header.may_contain_header(head) for header in (Nifti1Header, Nifti2Header))


def _decompressed(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{path}: is a damaged gzip file ({one_line(error)}); copy or download it again"
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
        raise UserError(f"{path}: has a damaged NIfTI header ({one_line(error)}); export it again") from error
    if not header["magic"].item().startswith(b"n+"):
        raise UserError(f"{path}: is the header of a .hdr/.img pair; save it as one .nii.gz file")
    if np.isinf(header["scl_slope"]):
        raise UserError(f"{path}: its scale factor is infinite; export it again")
    if slope is None:  # 0 or NaN: the standard says "no scaling"
        slope, inter = 1.0, 0.0
    return header, affine, slope, inter
