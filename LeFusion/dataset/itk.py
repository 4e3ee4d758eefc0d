"""Read and write MetaImage (.mha, .mhd with .raw or .zraw) and NRRD (.nrrd, .nhdr), by SimpleITK."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LeFusion.dataset.storage import atomic_files, one_line
from LeFusion.dataset.volume import TO_RAS, Volume
from LeFusion.errors import StorageError, UserError

METAIMAGE, NRRD = "MetaImage", "NRRD"
NRRD_ONLY = "NRRD_"  # how ITK names the entries that say what NRRD itself knows
HEADER_BYTES = 1 << 16  # within which a header is looked at
COMPRESSED = re.compile(rb"^(CompressedData\s*=\s*True|encoding:\s*(gz|gzip|bz2|bzip2))\s*$", re.M | re.I)
VOXELS_IN = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)[ \t]*(.*?)\s*$", re.M | re.I)


@dataclass(frozen=True)
class ItkHeader:
    """What a MetaImage or NRRD file keeps besides voxels and geometry: entries, and whether it is packed."""

    entries: tuple[tuple[str, str], ...] = ()
    compressed: bool = True


def read_itk(path: str | os.PathLike, kind: str) -> Volume:
    """Read a 3D file of one value a voxel. kind: METAIMAGE or NRRD.

    Raises UserError, naming the file, when it is damaged or holds something else.
    """
    import SimpleITK

    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
    _refuse_files_elsewhere(path, head.replace(b"\r\n", b"\n"), kind)
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()  # errors are raised; the rest would be noise
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(f"{'Meta' if kind == METAIMAGE else 'Nrrd'}ImageIO")
    try:
        reader.ReadImageInformation()
        size, channels = reader.GetSize(), reader.GetNumberOfComponents()
        if len(size) != 3 or channels != 1:
            values = "" if channels == 1 else f" of {channels} values a voxel"
            raise UserError(
                f"{path}: has shape {size}{values} but must be a 3D volume; save one 3D volume per file"
            )
        image = reader.Execute()
    except RuntimeError as error:
        reason = one_line(error).rpartition("ERROR: ")[2] or "it cannot be read"
        raise UserError(
            f"{path}: is a damaged {kind} file ({reason}); copy it again, with its voxels' file beside it"
        ) from error
    raw = SimpleITK.GetArrayFromImage(image).T
    names = (name for name in image.GetMetaDataKeys() if not name.startswith("ITK_"))
    entries = tuple((name, image.GetMetaData(name)) for name in names)
    header = ItkHeader(entries, COMPRESSED.search(head) is not None)
    return Volume(path, raw, 1.0, 0.0, affine_of(image), header)


def affine_of(image) -> np.ndarray:
    """(4, 4), voxel index to mm of RAS, of a SimpleITK image."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return TO_RAS @ affine


def _refuse_files_elsewhere(path: Path, head: bytes, kind: str) -> None:
    """A header may name the files of its voxels, and these are read: it must not lead out of its folder."""
    found = VOXELS_IN.search(head.partition(b"\n\n")[0] if kind == NRRD else head)
    if not found:
        return
    names = [found[1]]
    if found[1].upper().startswith(b"LIST"):
        names = found.string[found.end() :].splitlines()
    for name in names:
        place = os.path.normpath(os.fsdecode(name.strip()))
        if os.path.isabs(place) or place.split(os.sep)[0] == os.pardir:
            raise UserError(
                f"{path}: its voxels are in {place}, outside of its folder; put it beside it, with its "
                "name alone in the header"
            )


def write_itk(volume: Volume) -> None:
    """Write a volume to its path, whose ending says the format; scaled values of other formats as they are.

    Of `.mhd` and `.nhdr` the voxels lie in a file beside it; the header appears last. Raises OSError when the
    files cannot be written.
    """
    import SimpleITK

    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    path = volume.path
    header = volume.header if isinstance(volume.header, ItkHeader) else ItkHeader()
    stored = _unscaled(volume)
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(stored.T))
    affine = TO_RAS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    for name, value in header.entries:
        if not name.startswith(NRRD_ONLY) or path.suffix in (".nrrd", ".nhdr"):
            image.SetMetaData(name, value)
    with atomic_files(path) as folder:
        try:
            SimpleITK.WriteImage(image, str(folder / path.name), useCompression=header.compressed)
        except RuntimeError as error:
            raise StorageError(f"cannot write {path}: {one_line(error).rpartition('ERROR: ')[2]}") from error


def _unscaled(volume: Volume) -> np.ndarray:
    """The values of a volume in a type that holds them: its own, int16 for HU, else int32 or floats."""
    if volume.slope == 1 and volume.inter == 0:
        return volume.raw
    values = volume.values
    if np.array_equal(values, np.rint(values)):
        for dtype in (np.int16, np.int32):
            limits = np.iinfo(dtype)
            if limits.min <= values.min() and values.max() <= limits.max:
                return values.astype(dtype)
    return values
