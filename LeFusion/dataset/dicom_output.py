"""Write a painted DICOM series as a series derived from its source."""

from pathlib import Path

import numpy as np

from LeFusion.dataset.dicom import decoded, scale_of
from LeFusion.dataset.dicom_series import Series
from LeFusion.dataset.storage import atomic_folder
from LeFusion.dataset.volume import Volume
from LeFusion.errors import UserError

DESCRIPTION = "synthetic lesions"
DERIVATION = "Synthetic lesions painted by LeFusion; not for diagnosis"
LONGEST = 64  # characters of a series description
NUMBERS_FROM = 1000  # what the number of a derived series is above its source's
WRITER = ("ImplementationClassUID", "ImplementationVersionName")
STALE = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "DigitalSignaturesSequence",
    "MACParametersSequence",
)


def write_dicom(volume: Volume) -> None:
    """Write a volume that was read from DICOM to the folder `volume.path`, a file for each of its source.

    Patient, study, frame of reference and all else stay; new are the UIDs of series and images, ImageType
    DERIVED, "synthetic lesions" in the series description, the source images' references and the pixels. The
    UIDs follow from the source's and the voxels: what is written twice has the same ones. Voxels that did not
    change keep their stored bits; compressed pixels are written uncompressed.

    Raises UserError, before anything is written, for a value that the stored bits cannot hold; OSError when
    the folder cannot be written.
    """
    import pydicom

    series, path = volume.header, volume.path
    digest = volume.sha256
    by_file: dict[Path, list[int]] = {}
    for number, one in enumerate(series.slices):
        by_file.setdefault(one.path, []).append(number)
    with atomic_folder(path) as folder:
        for number, (source, numbers) in enumerate(by_file.items(), start=1):
            dataset = pydicom.dcmread(source, force=True)
            _put_pixels(dataset, volume, numbers)
            _derive(dataset, series, digest)
            dataset.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)


def derived_uid(*sources: str) -> str:
    """A UID that follows from these texts."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=list(sources)))


def _put_pixels(dataset, volume: Volume, numbers: list[int]) -> None:
    """Puts what is new in these slices of a volume into the file of all of them; the rest keeps its bits."""
    from pydicom.uid import ExplicitVRLittleEndian

    slices = volume.header.slices
    pixels, before = slices[numbers[0]].pixels, decoded(dataset, slices[numbers[0]])
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_little_endian:
        raise UserError(
            f"{slices[numbers[0]].path}: is stored in big-endian order, which is retired and not "
            "written; convert the series to Explicit VR Little Endian, for example with gdcmconv"
        )
    native = not syntax.is_compressed
    kind = np.dtype(f"<{'i' if pixels.signed else 'u'}{pixels.bits_allocated // 8}")
    content = bytearray(dataset.PixelData if native else before.astype(kind).tobytes())
    size = pixels.size[0] * pixels.size[1]
    shift = pixels.high_bit + 1 - pixels.bits_stored if native else 0
    for number in numbers:
        one = slices[number]
        new, stored = _changes(volume, number, before if one.frame is None else before[one.frame])
        frame = np.frombuffer(content, kind, size, (one.frame or 0) * size * kind.itemsize)
        frame.reshape(new.shape)[new] = stored << shift
    if not native:
        syntax, dataset.HighBit = ExplicitVRLittleEndian, pixels.bits_stored - 1
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = bytes(content) + bytes(len(content) % 2)
    dataset["PixelData"].VR = "OW" if kind.itemsize > 1 or syntax.is_implicit_VR else "OB"
    dataset["PixelData"].is_undefined_length = False


def _changes(volume: Volume, number: int, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is new in a slice that stored `before`: (rows, columns) bool, and (N,) numbers to store there."""
    series, now = volume.header, volume.raw[:, :, number].T
    one = series.slices[number]
    if scale_of(series) is not None:
        new = now != before
        stored = now[new].astype(np.int64)
    else:
        new = now != (before * np.float64(one.slope) + one.inter).astype(now.dtype)
        stored = np.rint((now[new].astype(np.float64) - one.inter) / one.slope).astype(np.int64)
    bits = one.pixels.bits_stored
    lowest, highest = (-(1 << bits - 1), (1 << bits - 1) - 1) if one.pixels.signed else (0, (1 << bits) - 1)
    beyond = (stored < lowest) | (stored > highest)
    if beyond.any():
        value = stored[beyond][0] * one.slope + one.inter
        raise UserError(
            f"{volume.path}: {np.count_nonzero(beyond)} new voxels of {one}, such as {value:g}, do not fit "
            f"into the {bits} bits that {series.folder} stores; nothing was written. Save the source as NIfTI"
        )
    return new, stored


def _derive(dataset, series: Series, digest: str) -> None:
    """Makes a data set an image of the derived series."""
    from pydicom.dataset import Dataset

    source = Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = (
        dataset.SOPClassUID,
        dataset.SOPInstanceUID,
    )
    dataset.SourceImageSequence = [source]
    uid = derived_uid(dataset.SOPInstanceUID, digest)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    for name in WRITER:
        if name in dataset.file_meta:
            delattr(dataset.file_meta, name)  # pydicom then writes its own
    dataset.SeriesInstanceUID = derived_uid(series.uid, digest)
    dataset.SeriesNumber = (series.number or 0) + NUMBERS_FROM
    text = str(dataset.get("SeriesDescription", "")).strip()[: LONGEST - len(DESCRIPTION) - 1]
    dataset.SeriesDescription = f"{text} {DESCRIPTION}".strip()
    before = str(dataset.get("DerivationDescription", "")).strip()
    dataset.DerivationDescription = f"{before}; {DERIVATION}" if before else DERIVATION
    dataset.ImageType = _derived_type(dataset.get("ImageType"))
    for groups in (
        *dataset.get("SharedFunctionalGroupsSequence", ()),
        *dataset.get("PerFrameFunctionalGroupsSequence", ()),
    ):
        for element in groups:
            if element.keyword.endswith("FrameTypeSequence"):
                element.value[0].FrameType = _derived_type(element.value[0].get("FrameType"))
    for name in STALE:
        if name in dataset:
            delattr(dataset, name)


def _derived_type(words) -> list[str]:
    return ["DERIVED", "SECONDARY", *(str(word) for word in list(words or [])[2:])]
