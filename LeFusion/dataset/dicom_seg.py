"""Write numbered lesions as a DICOM segmentation (SEG) of a series, by highdicom."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from LeFusion.dataset.dicom_output import derived_uid
from LeFusion.dataset.dicom_series import Series, arranged, series_at
from LeFusion.dataset.storage import atomic_file
from LeFusion.errors import UserError

MAKER, MODEL = "LeFusion", "lesion synthesis"
NEVER = {"Date": "19000101", "Time": "000000"}
NEEDED = (  # of the source, if only empty
    "PatientID PatientName PatientBirthDate PatientSex StudyID StudyDate StudyTime AccessionNumber "
    "ReferringPhysicianName"
).split()
NUMBERS_FROM = 1  # what the number of the segmentation's series is above that of the images


def write_segmentation(
    series_path: str | os.PathLike,
    labels: np.ndarray,
    names: Sequence[str],
    path: str | os.PathLike,
    version: str,
) -> None:
    """Write a SEG with a segment for each lesion.

    series_path: the series that the lesions lie in, as `read_volume` takes it. labels: (columns, rows,
    slices) in its order, 0 and 1 to len(names). names: of the lesions, as a viewer shows them. version: of
    the software, as the file says it.

    Its UIDs follow from the series and the labels. Raises UserError for labels that do not fit the series or
    the names, and where highdicom is missing; OSError when the file cannot be written.
    """
    try:
        import highdicom
        from highdicom.seg import Segmentation, SegmentDescription
        from pydicom.sr.codedict import codes
    except ImportError as error:
        raise UserError(
            f"{path}: a DICOM segmentation needs highdicom; pip install 'lefusion[dicom-seg]'"
        ) from error
    series, _ = arranged(series_at(Path(series_path)), Path(series_path))
    rows, columns = series.slices[0].pixels.size
    shape = (columns, rows, len(series.slices))
    found = set(np.unique(labels).tolist()) - {0}
    if labels.shape != shape or not names or found != set(range(1, len(names) + 1)):
        raise UserError(
            f"{path}: labels of shape {labels.shape} must have the shape {shape} of {series_path} and hold "
            f"each number from 1 to {max(len(names), 1)}"
        )
    maker = highdicom.AlgorithmIdentificationSequence(
        name=MAKER, version=version, family=codes.DCM.ArtificialIntelligence
    )
    segments = [
        SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=maker,
        )
        for number, name in enumerate(names, start=1)
    ]
    digest = hashlib.sha256(np.ascontiguousarray(labels.T).astype("<u2")).hexdigest()
    sources, frames = _sources(series, labels.T)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names of patients in one part
        made = Segmentation(
            source_images=sources,
            pixel_array=frames,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=derived_uid(series.uid, digest, "series"),
            series_number=(series.number or 0) + NUMBERS_FROM,
            sop_instance_uid=derived_uid(series.uid, digest, "image"),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MODEL,
            software_versions=version,
            device_serial_number="0",
            content_label="LESIONS",
            series_description="Synthetic lesions",
        )
    _settle(made, sources[0], derived_uid(series.uid, digest, "dimensions"))
    with atomic_file(path) as temporary:
        made.save_as(temporary, enforce_file_format=True)


def _sources(series: Series, labels: np.ndarray) -> tuple[list, np.ndarray]:
    """The data sets of the images that show lesions, without pixels; their labels (images, rows, columns).

    labels: (slices, rows, columns) in the order of the series. Of a multi-frame file all frames.
    """
    import pydicom

    numbers = [n for n in range(len(labels)) if series.slices[n].frame is not None or labels[n].any()]
    numbers.sort(key=lambda n: series.slices[n].frame or 0)
    paths = dict.fromkeys(series.slices[n].path for n in numbers)
    sources = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in paths]
    for source in sources:
        for name in NEEDED:
            if name not in source:
                setattr(source, name, "")
    return sources, np.ascontiguousarray(labels[numbers]).astype(np.uint16)


def _settle(made, source, dimensions: str) -> None:
    """Takes dates from the source and a UID from the contents, so that what is written twice is the same."""
    for name in ("Date", "Time"):
        for kind in ("Content", "InstanceCreation", "Series"):
            if f"{kind}{name}" in made:
                known = (source.get(f"{of}{name}") for of in (kind, "Content", "Series", "Study"))
                setattr(made, f"{kind}{name}", next(filter(None, known), NEVER[name]))
    for item in made.get("ContributingEquipmentSequence", ()):
        if "ContributionDateTime" in item:
            del item.ContributionDateTime
    for sequence in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in made.get(sequence, ()):
            if "DimensionOrganizationUID" in item:
                item.DimensionOrganizationUID = dimensions
