"""Scans of any format that is read: found, read, and written again in the format that they came in."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from LeFusion.dataset.dicom import read_dicom
from LeFusion.dataset.dicom_output import write_dicom
from LeFusion.dataset.dicom_series import Series, dicom_files, find_series, is_dicom
from LeFusion.dataset.itk import METAIMAGE, NRRD, read_itk, write_itk
from LeFusion.dataset.nifti import GZIP_MAGIC, is_nifti, label_header, read_nifti, write_nifti
from LeFusion.dataset.volume import WHOLE, Volume, refuse_not_finite, with_values
from LeFusion.errors import MissingFileError, UserError

NIFTI_ENDINGS = (".nii.gz", ".nii")
ITK_ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr")
DETACHED = {".mhd": (".raw", ".zraw"), ".nhdr": (".raw", ".raw.gz")}  # headers, voxels in a file beside them
VOXEL_ENDINGS = tuple({ending for endings in DETACHED.values() for ending in endings})
ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS)  # of files that are scans; how one is read is for its content to say
NIFTI, DICOM = "NIfTI", "DICOM"
UID = re.compile(r"[0-9]+(\.[0-9]+)+")
HEAD_BYTES = 1 << 16
META_KEYS = (b"ObjectType", b"NDims", b"Comment", b"ObjectSubType", b"TransformType", b"Name")


@dataclass(frozen=True)
class Scan:
    """A scan. name: the file's without its ending; of a DICOM series the folder's, with the number of the
    series where the folder holds several, and the folders above where two have one name. path: the file; the
    folder of a series; where it holds several, FOLDER/<SeriesInstanceUID>, which `read_volume` knows."""

    name: str
    path: Path


def find_scans(path: str | os.PathLike, skipped: list[str] | None = None) -> list[Scan]:
    """The scans at a path, sorted by path: the one file or series, or those at any depth below a folder.

    Files whose names start with a dot are left out, and so are DICOM files that are no scan, such as
    localizers, contours and reports; why each of these was is added to `skipped`. Links are followed, but not
    back to a folder that they lie in.

    Raises MissingFileError where there is nothing at all at the path, UserError for what is no scan and for a
    link to nothing.
    """
    path, skipped = Path(path), [] if skipped is None else skipped
    if path.is_file():
        if not ending_of(path) and format_of(path) == DICOM:
            return [Scan(path.name.removesuffix(".dcm"), path)]
        return [Scan(stem(path.name), path)]
    if path.is_dir():
        found = _told_apart(list(_scans_below(path, skipped)), path)
        if skipped and not found:
            raise UserError(skipped[0].replace("; left out", "; give a folder of scans"))
        return found
    if _is_series(path):
        found = [scan for scan in _series_in(path.parent, skipped) if scan.path == path]
        return found or [Scan(path.parent.name, path)]  # the only series of its folder
    raise MissingFileError(f"{path}: no such folder or file; check the path")


def exists(path: Path) -> bool:
    """Whether there is something at the path of a scan, which may be that of one series of a folder."""
    return path.exists() or _is_series(path)


def read_volume(path: str | os.PathLike) -> Volume:
    """Read a scan completely into memory: NIfTI, MetaImage (.mha, .mhd), NRRD (.nrrd, .nhdr), or a DICOM
    series (its folder; FOLDER/<SeriesInstanceUID>, where the folder holds several; a multi-frame file).

    The content says which it is, not the ending. Raises FileNotFoundError when there is nothing at the path
    and ValueError when it is damaged, is none of these, is not 3D, has an affine that does not say where
    voxels lie, or holds NaN or infinite values. The message is one line and names the file.
    """
    path = Path(path)
    if path.is_dir() or _is_series(path):
        return read_dicom(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; check the path")
    kind = format_of(path)
    if kind == DICOM:
        return read_dicom(path)
    volume = read_nifti(path) if kind == NIFTI else read_itk(path, kind)
    refuse_not_finite(volume)
    return volume


def format_of(path: Path) -> str:
    """NIFTI, METAIMAGE, NRRD or DICOM, by a file's content. Raises UserError for anything else."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(GZIP_MAGIC) or is_nifti(head):
        return NIFTI
    if head.startswith(b"NRRD0"):
        return NRRD
    if head.lstrip().startswith(META_KEYS) and b"ElementDataFile" in head:
        return METAIMAGE
    if is_dicom(head):
        return DICOM
    raise UserError(f"{path}: is no NIfTI, MetaImage, NRRD or DICOM file; convert it to .nii.gz")


def write_volume(volume: Volume) -> None:
    """Write a volume to its path, in the format that its ending says; without one, what was read from DICOM
    as a folder, see `write_dicom`. Raises OSError when that cannot be."""
    ending = ending_of(volume.path)
    if ending in ITK_ENDINGS:
        write_itk(volume)
    elif ending in NIFTI_ENDINGS:
        write_nifti(volume)
    elif isinstance(volume.header, Series):
        write_dicom(volume)
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
    """What stem takes off a file's name, in small letters; "" where it takes nothing off."""
    return path.name[len(stem(path.name)) :].lower()


def stem(file_name: str) -> str:
    """A file's name without the ending of a scan, which may be in capitals."""
    for ending in ENDINGS:
        if file_name.lower().endswith(ending):
            file_name = file_name[: -len(ending)]
    return file_name


def _is_series(path: Path) -> bool:
    """Whether a path is that of one series of a folder, FOLDER/<SeriesInstanceUID>."""
    return UID.fullmatch(path.name) is not None and not path.exists() and path.parent.is_dir()


def _series_in(folder: Path, skipped: list[str]) -> list[Scan]:
    """The DICOM series in a folder itself."""
    series = find_series(dicom_files(folder, (*ENDINGS, *VOXEL_ENDINGS)), skipped)
    name = os.path.basename(os.path.abspath(folder))
    if len(series) == 1:
        return [Scan(name, folder)]
    numbers = [one.number for one in series]
    if None in numbers or len(set(numbers)) < len(numbers):
        numbers = range(1, len(series) + 1)
    return [
        Scan(f"{name}_series{number}", folder / one.uid) for number, one in zip(numbers, series, strict=True)
    ]


def _told_apart(scans: list[Scan], root: Path) -> list[Scan]:
    """Series of one name, as in <patient>/<study>/1-CT, get the names of the folders above before theirs."""
    names = Counter(scan.name for scan in scans)
    found = []
    for scan in scans:
        if names[scan.name] > 1 and not scan.path.is_file():
            folder = scan.path if scan.path.is_dir() else scan.path.parent
            scan = replace(scan, name="_".join([*folder.relative_to(root).parts[:-1], scan.name]))
        found.append(scan)
    return found


def _scans_below(folder: Path, skipped: list[str], above: tuple[str, ...] = ()) -> Iterator[Scan]:
    """above: real paths of the folders that this one lies in."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name.startswith("."):
            continue
        if path.is_dir():
            yield from _scans_below(path, skipped, (*above, real))
        elif name.lower().endswith(ENDINGS) and not path.exists():
            raise UserError(f"{path}: is a link to {os.readlink(path)}, which is not there; get that file")
        elif name.lower().endswith(ENDINGS) and path.is_file():
            yield Scan(stem(name), path)
    yield from _series_in(folder, skipped)
