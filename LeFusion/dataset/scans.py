"""Scans of any format that is read: found, read, and written again in the format that they came in."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from LeFusion.dataset.itk import METAIMAGE, NRRD, read_itk, write_itk
from LeFusion.dataset.nifti import GZIP_MAGIC, is_nifti, label_header, read_nifti, write_nifti
from LeFusion.dataset.volume import WHOLE, Volume, with_values
from LeFusion.errors import MissingFileError, UserError

NIFTI_ENDINGS = (".nii.gz", ".nii")
ITK_ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr")
ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS)  # of files that are scans; how one is read is for its content to say
NIFTI = "NIfTI"
HEAD_BYTES = 1 << 16
META_KEYS = (b"ObjectType", b"NDims", b"Comment", b"ObjectSubType", b"TransformType", b"Name")


@dataclass(frozen=True)
class Scan:
    """A scan in a folder. name: the file's without its ending."""

    name: str
    path: Path


def find_scans(path: str | os.PathLike) -> list[Scan]:
    """The scans at a path, sorted by path: the one file, or those at any depth below a folder.

    Names that start with a dot are left out. Links are followed, but not back to a folder that they lie in.
    Raises MissingFileError where there is nothing at all at the path, UserError for a file that is no scan.
    """
    path = Path(path)
    if path.is_file():
        if not ending_of(path):
            format_of(path)
        return [Scan(stem(path.name), path)]
    if not path.is_dir():
        raise MissingFileError(f"{path}: no such folder or file; check the path")
    return list(_scans_below(path))


def read_volume(path: str | os.PathLike) -> Volume:
    """Read a scan completely into memory: NIfTI, MetaImage (.mha, .mhd) or NRRD (.nrrd, .nhdr).

    The content says which it is, not the ending. Raises FileNotFoundError when there is nothing at the path
    and ValueError when it is damaged, is none of these, is not 3D, has an affine that does not say where
    voxels lie, or holds NaN or infinite values. The message is one line and names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; check the path")
    kind = format_of(path)
    volume = read_nifti(path) if kind == NIFTI else read_itk(path, kind)
    ends = np.array([volume.raw.min(), volume.raw.max()], np.float64)
    if not np.isfinite(ends * volume.slope + volume.inter).all():
        bad = volume.raw.size - np.count_nonzero(np.isfinite(volume.values))
        raise UserError(
            f"{path}: holds {bad} NaN or infinite voxels; replace them by numbers (air in CT is -1000)"
        )
    return volume


def format_of(path: Path) -> str:
    """NIFTI, METAIMAGE or NRRD, by content. Raises UserError for anything else."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(GZIP_MAGIC) or is_nifti(head):
        return NIFTI
    if head.startswith(b"NRRD0"):
        return NRRD
    if head.lstrip().startswith(META_KEYS) and b"ElementDataFile" in head:
        return METAIMAGE
    raise UserError(f"{path}: is no NIfTI, MetaImage or NRRD file; convert it to .nii.gz")


def write_volume(volume: Volume) -> None:
    """Write a volume to its path, in the format that its ending says. Raises OSError when that cannot be."""
    ending = ending_of(volume.path)
    if ending in ITK_ENDINGS:
        write_itk(volume)
    elif ending in NIFTI_ENDINGS:
        write_nifti(volume)
    else:
        raise UserError(f"{volume.path}: must end in one of {', '.join(ENDINGS)}")


def write_volume_like(source: Volume, values: np.ndarray, mask: np.ndarray, path: str | os.PathLike) -> None:
    """Write a copy of `source` in which only the voxels under `mask` are new, see `with_values`; both have
    the shape of the source. Raises OSError when the file cannot be written."""
    write_volume(with_values(source, [(values, mask, WHOLE)], path))


def write_label_like(source: Volume, labels: np.ndarray, path: str | os.PathLike) -> None:
    """Write a label map (stored axis order, shape of `source`) in the geometry of `source`, unscaled.

    labels: uint8, bool (written as uint8) or uint16. path: its ending says the format. Raises ValueError for
    another shape or type, OSError when the file cannot be written.
    """
    if np.shape(labels) != source.raw.shape:
        raise UserError(
            f"{path}: labels {np.shape(labels)} must have the shape {source.raw.shape} of {source.path}"
        )
    if not np.can_cast(labels.dtype, np.uint16):
        raise UserError(f"{path}: labels must be uint8 or uint16, not {labels.dtype}; convert them first")
    stored = np.asarray(labels).astype(np.result_type(labels.dtype, np.uint8))
    header = label_header(source.header, stored.dtype)
    write_volume(replace(source, path=Path(path), raw=stored, slope=1.0, inter=0.0, header=header))


def ending_of(path: Path) -> str:
    """What stem takes off a file's name; "" where it takes nothing off."""
    return path.name[len(stem(path.name)) :]


def stem(file_name: str) -> str:
    """A file's name without the ending of a scan."""
    for ending in ENDINGS:
        file_name = file_name.removesuffix(ending)
    return file_name


def _scans_below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Scan]:
    """above: real paths of the folders that this one lies in."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name.startswith("."):
            continue
        if path.is_dir():
            yield from _scans_below(path, (*above, real))
        elif name.endswith(ENDINGS) and path.is_file():
            yield Scan(stem(name), path)
