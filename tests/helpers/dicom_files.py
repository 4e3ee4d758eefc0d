"""Small DICOM series for tests."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

STUDY = generate_uid(entropy_srcs=["study"])
FRAME_OF_REFERENCE = generate_uid(entropy_srcs=["frame of reference"])


def dataset(uid="a slice", series="a series", sop_class=CTImageStorage, syntax=ExplicitVRLittleEndian):
    """What all images of a series have in common."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = sop_class
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid(entropy_srcs=[series, uid])
    made.StudyInstanceUID, made.FrameOfReferenceUID = STUDY, FRAME_OF_REFERENCE
    made.SeriesInstanceUID = generate_uid(entropy_srcs=[series])
    made.PatientName, made.PatientID, made.PatientSex = "Doe^Jane", "P-7", "F"
    made.PatientBirthDate, made.StudyDate, made.StudyTime = "19600102", "20200304", "101112"
    made.StudyID, made.AccessionNumber, made.ReferringPhysicianName = "1", "", ""
    made.Modality, made.SeriesNumber, made.SeriesDescription = "CT", 3, "CHEST 1.0"
    made.Manufacturer, made.ManufacturerModelName, made.SoftwareVersions = "made up", "none", "1"
    made.DeviceSerialNumber, made.PatientPosition = "1", "HFS"
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    return made


def pixels(made, stored, bits=16):
    """Puts (rows, columns) or (frames, rows, columns) integers into a dataset."""
    made.Rows, made.Columns = stored.shape[-2:]
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 * stored.dtype.itemsize, bits, bits - 1
    made.PixelRepresentation = int(stored.dtype.kind == "i")
    made.PixelData = stored.tobytes()
    made["PixelData"].VR = "OW"
    return made


def write_series(
    folder,
    stored,
    slope=1,
    inter=-1024,
    spacing=(0.8, 0.7, 2.5),
    origin=(-31.5, 7.25, 100.5),
    turn=((1, 0, 0), (0, 1, 0)),
    places=None,
    change=lambda made, number: None,
    series="a series",
    bits=16,
    syntax=ExplicitVRLittleEndian,
) -> Path:
    """A file for each slice, with names in another order than the slices.

    stored: (slices, rows, columns). spacing: mm of (rows, columns, slices). origin: LPS of the first pixel.
    turn: directions of a row and a column. places: of the slices along the normal, mm. change: called with
    each dataset and its number before it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(*turn)
    places = spacing[2] * np.arange(len(stored)) if places is None else places
    for number, (image, place) in enumerate(zip(stored, places, strict=True)):
        made = pixels(dataset(str(number), series, syntax=syntax), image, bits)
        made.InstanceNumber, made.SliceThickness = number + 1, spacing[2]
        made.ImagePositionPatient = [float(f"{x:.6f}") for x in np.array(origin) + place * normal]
        made.ImageOrientationPatient = [float(f"{x:.8f}") for x in np.ravel(turn)]
        made.PixelSpacing = list(spacing[:2])
        made.RescaleSlope, made.RescaleIntercept = slope, inter
        change(made, number)
        name = f"{(7 * number + 3) % 11}-{number}.dcm"
        made.save_as(folder / name, enforce_file_format=True)
    return folder


def write_multi_frame(
    path, stored, slope=1, inter=-1024, spacing=(0.8, 0.7, 2.5), origin=(-31.5, 7.25, 100.5)
):
    """The same in one file, its frames in reverse order."""
    made = pixels(dataset("all", sop_class=EnhancedCTImageStorage), stored[::-1].copy())
    made.NumberOfFrames, made.InstanceNumber = len(stored), 1
    shared, frames = Dataset(), []
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = list(spacing[:2])
    shared.PixelMeasuresSequence[0].SliceThickness = spacing[2]
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelValueTransformationSequence = [Dataset()]
    shared.PixelValueTransformationSequence[0].RescaleSlope = slope
    shared.PixelValueTransformationSequence[0].RescaleIntercept = inter
    shared.PixelValueTransformationSequence[0].RescaleType = "HU"
    for number in reversed(range(len(stored))):
        frame = Dataset()
        frame.PlanePositionSequence = [Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = [*origin[:2], origin[2] + number * spacing[2]]
        frames.append(frame)
    made.SharedFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence = [shared], frames
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def compress(folder, syntax):
    """Compresses all files of a folder in place."""
    for path in folder.iterdir():
        made = pydicom.dcmread(path)
        made.compress(syntax, generate_instance_uid=False)
        made.save_as(path)
