"""Which DICOM series a folder holds, and where the slices of each lie."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from LeFusion.dataset.storage import one_line
from LeFusion.dataset.volume import GRID_TOLERANCE, TO_RAS
from LeFusion.errors import MissingFileError, UserError

MAGIC_AT, MAGIC = 128, b"DICM"
FIRST_TAGS = ((2, 0), (8, 0), (8, 5), (8, 8), (8, 0x16))  # with which files begin that lack it
LONGEST_FIRST = 64  # bytes of the value of such a tag
NO_SCANS = ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "RTIMAGE", "SR", "PR", "KO", "REG", "DOC")
SAME_DIRECTION = 1e-3  # by which direction cosines of slices of one series may differ
TAGS = (
    "PatientID "
    "SOPClassUID SOPInstanceUID SeriesInstanceUID SeriesNumber SeriesDescription Modality ImageType "
    "Rows Columns ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness "
    "SpacingBetweenSlices RescaleSlope RescaleIntercept ModalityLUTSequence BitsAllocated BitsStored HighBit "
    "PixelRepresentation SamplesPerPixel NumberOfFrames PixelPaddingValue SharedFunctionalGroupsSequence "
    "PerFrameFunctionalGroupsSequence"
).split()


@dataclass(frozen=True)
class Pixels:
    """How a slice stores its numbers. padding: the number that stands for "nothing was measured here"."""

    size: tuple[int, int]  # rows, columns
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    padding: int | None = None


@dataclass(frozen=True)
class Slice:
    """One slice: a file, or a frame of one (from 0).

    position: mm of LPS, of the first pixel. orientation: (2, 3) directions of a row and of a column.
    pixel_mm: distance of (rows, columns). slope, inter: a value is stored * slope + inter.
    """

    path: Path
    frame: int | None
    uid: str
    position: tuple[float, ...]
    orientation: tuple[tuple[float, ...], tuple[float, ...]]
    pixel_mm: tuple[float, float]
    thickness_mm: float
    slope: float
    inter: float
    pixels: Pixels

    def __str__(self) -> str:
        return self.path.name if self.frame is None else f"{self.path.name}, frame {self.frame + 1}"


@dataclass(frozen=True, eq=False)
class Series:
    """A DICOM series that is a scan; what a Volume keeps as its header. slices: in order along the normal,
    once `arranged` has been there."""

    folder: Path
    uid: str
    number: int | None
    description: str
    modality: str
    patient: str
    slices: tuple[Slice, ...]

    def __str__(self) -> str:
        words = f"series {self.number}" if self.number is not None else "a series"
        return f"{words} {self.description!r} ({self.modality}, {len(self.slices)} slices)"


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins like this is DICOM."""
    if head[MAGIC_AT : MAGIC_AT + 4] == MAGIC:
        return True
    group, element, length = (
        int.from_bytes(head[at : at + n], "little") for at, n in ((0, 2), (2, 2), (4, 4))
    )
    named = head[4:6] in (b"UL", b"CS", b"UI")
    return (group, element) in FIRST_TAGS and (named or 0 < length <= LONGEST_FIRST and length % 2 == 0)


def dicom_files(folder: Path, others: tuple[str, ...] = ()) -> list[Path]:
    """The DICOM files in a folder itself, sorted by name. others: how names end that need no look."""
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name == "DICOMDIR" or not entry.is_file():
            continue
        if others and entry.name.lower().endswith(others):
            continue
        with open(entry.path, "rb") as file:
            if is_dicom(file.read(MAGIC_AT + 4)):
                found.append(folder / entry.name)
    return found


def find_series(files: Sequence[Path], skipped: list[str] | None = None) -> list[Series]:
    """The series of these files that are scans, sorted by number and UID.

    Localizers, images without a place (such as screenshots) and what is no image (contours, reports) are no
    scans; why they are left out is reported to `skipped`, in one line for all files alike.
    """
    others: dict[str, list[Path]] = {}
    found: dict[str, tuple] = {}
    for path in files:
        header = read_header(path)
        uid = str(header.get("SeriesInstanceUID", ""))
        reason = _no_scan(header)
        if reason:
            others.setdefault(reason, []).append(path)
            continue
        if not uid:
            raise UserError(f"{path}: has no SeriesInstanceUID; export it again")
        first, slices = found.setdefault(uid, (header, []))
        if header.get("PatientID") != first.get("PatientID"):
            raise UserError(
                f"{path}: has another PatientID than {slices[0].path} of the same SeriesInstanceUID; put "
                "each patient into a folder of its own"
            )
        slices.extend(_slices(path, header))
    for reason, paths in others.items() if skipped is not None else ():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        skipped.append(f"{paths[0]}{more}: {reason}; left out")
    series = []
    for uid, (header, slices) in found.items():
        number = header.get("SeriesNumber")
        series.append(
            Series(
                slices[0].path.parent,
                uid,
                None if number is None else int(number),
                str(header.get("SeriesDescription", "")),
                str(header.get("Modality", "")),
                str(header.get("PatientID", "") or ""),
                tuple(slices),
            )
        )
    return sorted(series, key=lambda one: (one.number is None, one.number or 0, one.uid))


def series_at(path: Path) -> Series:
    """The series of a folder, of a multi-frame file, or FOLDER/<SeriesInstanceUID>, which need not exist.

    Raises UserError where there is none, or more than one to choose from.
    """
    if path.is_file():
        slices = find_series([path])
        if slices and slices[0].slices[0].frame is None and len(dicom_files(path.parent)) > 1:
            raise UserError(f"{path}: is one slice of a DICOM series; give its folder, {path.parent}")
        wanted = None
        files = [path]
    elif path.is_dir():
        files, wanted = dicom_files(path), None
    else:
        files, wanted = dicom_files(path.parent), path.name
    skipped: list[str] = []
    found = find_series(files, skipped)
    if wanted is not None:
        found = [series for series in found if series.uid == wanted]
    if not found:
        if skipped and wanted is None:
            raise UserError(skipped[0].rpartition("; ")[0] + "; give the folder of a series of images")
        raise MissingFileError(f"{path}: holds no DICOM series; check the path")
    if len(found) > 1:
        listed = ", ".join(f"{series} is {path / series.uid}" for series in found)
        raise UserError(f"{path}: holds {len(found)} DICOM series; give one of them: {listed}")
    return found[0]


def read_header(path: Path):
    """What of a DICOM file is looked at, without its pixels."""
    import pydicom

    try:
        with pydicom.config.disable_value_validation():
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=TAGS)
            header.decode()
        return header
    except Exception as error:  # of many kinds, for files that are cut off or wrong inside
        if isinstance(error, OSError):
            raise
        with open(path, "rb") as file:
            if file.read(MAGIC_AT + 4)[MAGIC_AT:] != MAGIC:
                return pydicom.Dataset()  # it only begins like one
        raise UserError(f"{path}: is a damaged DICOM file ({one_line(error)}); copy it again") from error


def arranged(series: Series, path: Path) -> tuple[Series, np.ndarray]:
    """The series with its slices in order along their normal, and the affine (column, row, slice) -> mm RAS.

    Raises UserError, naming `path`, where the slices are no even stack: of several sizes or directions,
    twice at a place, missing, at uneven distances, or shifted sideways (gantry tilt).
    """
    slices = _without_copies(series.slices, path)
    first = slices[0]
    for other in slices[1:]:
        for what, a, b in (
            ("sizes", first.pixels.size, other.pixels.size),
            ("pixel distances", first.pixel_mm, other.pixel_mm),
        ):
            if not np.allclose(a, b, rtol=1e-4):
                raise UserError(
                    f"{path}: its slices have {what} {a} ({first}) and {b} ({other}); put them into "
                    "folders of their own"
                )
        if not np.allclose(first.orientation, other.orientation, atol=SAME_DIRECTION):
            raise UserError(
                f"{path}: its slices lie in different directions ({first} and {other}); put the "
                "localizer, or the other plane, into a folder of its own"
            )
    row, column = np.array(first.orientation)
    normal = np.cross(row, column)
    if not 0.99 < np.linalg.norm(normal) < 1.01:
        raise UserError(f"{path}: its ImageOrientationPatient {first.orientation} is no pair of directions")
    slices = sorted(slices, key=lambda one: (float(normal @ one.position), one.uid, one.frame or 0))
    places = np.array([one.position for one in slices])
    along = places @ normal
    step = _step(slices, along, path)
    sideways = places - places[0] - np.outer(along - along[0], normal)
    if np.abs(sideways).max() > GRID_TOLERANCE * min(*first.pixel_mm, abs(step)):
        shift = np.linalg.norm(sideways[-1]) / (along[-1] - along[0])
        tilt = math.degrees(math.atan(shift))
        raise UserError(
            f"{path}: its slices are shifted sideways, by a gantry tilt of {tilt:.1f} degrees; "
            "resample it to an upright grid, for example with dcm2niix"
        )
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = row * first.pixel_mm[1], column * first.pixel_mm[0]
    lps[:3, 2], lps[:3, 3] = normal * step, places[0]
    return replace(series, slices=tuple(slices)), TO_RAS @ lps


def _step(slices: Sequence[Slice], along: np.ndarray, path: Path) -> float:
    """The distance of slices, which lie at `along` mm in order. Raises UserError where it is not one."""
    if len(slices) == 1:
        if not slices[0].thickness_mm > 0:
            raise UserError(f"{path}: is one slice without SliceThickness; give the folder of the series")
        return slices[0].thickness_mm
    steps = np.diff(along)
    step = float(np.median(steps))
    double = np.flatnonzero(steps < 1e-3)
    if len(double):
        at = int(double[0])
        places = len(np.unique(along.round(2)))
        if places > 1 and len(slices) % places == 0 and len(slices) > places:
            raise UserError(
                f"{path}: holds {len(slices) // places} slices at each of its {places} places, such as "
                f"{slices[at]} and {slices[at + 1]}: time points or reconstructions; put each into a folder "
                "of its own"
            )
        raise UserError(
            f"{path}: {slices[at]} and {slices[at + 1]} lie at the same place ({along[at]:g} mm); remove one"
        )
    even = along[0] + np.arange(len(along)) * (along[-1] - along[0]) / (len(along) - 1)
    if np.abs(along - even).max() <= GRID_TOLERANCE * step:
        return (along[-1] - along[0]) / (len(along) - 1)
    at = int(np.argmax(steps))
    times = steps / step
    if np.all(np.abs(times - times.round()) <= GRID_TOLERANCE * times.round()):
        missing = int((times.round() - 1).sum())
        raise UserError(
            f"{path}: {missing} of {len(slices) + missing} slices are missing, the first between "
            f"{slices[int(np.argmax(times > 1.5))]} and the next; copy the series again"
        )
    raise UserError(
        f"{path}: its slices lie at uneven distances, {steps.min():.4g} to {steps.max():.4g} mm (after "
        f"{slices[at]}); resample it to an even grid"
    )


def _without_copies(slices: Sequence[Slice], path: Path) -> list[Slice]:
    """One of each image: a file that was copied beside itself is the same image twice."""
    found: dict[tuple, Slice] = {}
    for one in slices:
        before = found.setdefault((one.uid, one.frame), one)
        if before is not one and replace(one, path=before.path) != before:
            raise UserError(
                f"{path}: {before} and {one} have the same SOPInstanceUID, but differ; remove one"
            )
    return list(found.values())


def _no_scan(header) -> str:
    """Why an object is no part of a scan; "" for one that is."""
    modality = header.get("Modality", "")
    if "SOPClassUID" not in header:
        return "is no DICOM image"
    if "Rows" not in header or modality in NO_SCANS:
        return f"is no scan ({modality or 'unknown modality'})"
    if "LOCALIZER" in [str(word).upper() for word in header.get("ImageType") or []]:
        return "is a localizer (scout view)"
    if "ImagePositionPatient" not in header and "PerFrameFunctionalGroupsSequence" not in header:
        frames = int(header.get("NumberOfFrames") or 1)
        return "does not say where its " + (
            "frames lie" if frames > 1 else "image lies, such as a screenshot"
        )
    return ""


def _slices(path: Path, header) -> list[Slice]:
    """All slices of a file. Raises UserError for a header that says too little, or colour."""
    try:
        if int(header.get("SamplesPerPixel", 1)) != 1:
            raise UserError(f"{path}: is a colour image; give the original series")
        if header.get("ModalityLUTSequence"):
            raise UserError(f"{path}: its values are given by a table (Modality LUT), which is not read")
        padding = header.get("PixelPaddingValue")
        pixels = Pixels(
            (int(header.Rows), int(header.Columns)),
            int(header.BitsAllocated),
            int(header.BitsStored),
            int(header.get("HighBit", header.BitsStored - 1)),
            bool(header.PixelRepresentation),
            None if padding is None else int(padding),
        )
        if "PerFrameFunctionalGroupsSequence" not in header:
            groups = [(None, header)]
            if int(header.get("NumberOfFrames") or 1) > 1:
                raise UserError(f"{path}: is a multi-frame file that does not say where each frame lies")
        else:
            shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
            groups = [
                (number, _Frame(shared, frame, header))
                for number, frame in enumerate(header.PerFrameFunctionalGroupsSequence)
            ]
        return [_slice(path, number, group, header, pixels) for number, group in groups]
    except UserError:
        raise
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its DICOM header lacks what a slice needs ({one_line(error)})") from error


def _slice(path: Path, frame: int | None, group, header, pixels: Pixels) -> Slice:
    directions = [float(value) for value in group.get("ImageOrientationPatient") or []]
    spacing = [float(value) for value in group.get("PixelSpacing") or []]
    if len(directions) != 6 or len(spacing) != 2 or not min(spacing) > 0:
        raise UserError(
            f"{path}: has no ImageOrientationPatient or PixelSpacing, so where its voxels lie is unknown"
        )
    thickness = group.get("SpacingBetweenSlices") or group.get("SliceThickness") or 0
    slope = group.get("RescaleSlope")
    return Slice(
        path,
        frame,
        str(header.SOPInstanceUID),
        tuple(float(value) for value in group.get("ImagePositionPatient")),
        (tuple(directions[:3]), tuple(directions[3:])),
        (spacing[0], spacing[1]),
        abs(float(thickness)),
        1.0 if slope is None else float(slope),
        float(group.get("RescaleIntercept") or 0),
        pixels,
    )


class _Frame:
    """The attributes of one frame of a multi-frame file, whose functional groups hold them."""

    GROUPS = {
        "ImagePositionPatient": "PlanePositionSequence",
        "ImageOrientationPatient": "PlaneOrientationSequence",
        "PixelSpacing": "PixelMeasuresSequence",
        "SliceThickness": "PixelMeasuresSequence",
        "SpacingBetweenSlices": "PixelMeasuresSequence",
        "RescaleSlope": "PixelValueTransformationSequence",
        "RescaleIntercept": "PixelValueTransformationSequence",
    }

    def __init__(self, shared, frame, header):
        self.places = [place for place in (frame, shared) if place is not None]
        self.header = header

    def get(self, name: str):
        for place in self.places:
            for group in place.get(self.GROUPS[name]) or []:
                if name in group:
                    return group.get(name)
        return self.header.get(name)
