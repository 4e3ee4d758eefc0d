"""The same scan in every format: the same lesions, and an image that comes out as it came in."""

import numpy as np
import pytest

from LeFusion.dataset.scans import find_scans, read_volume
from LeFusion.insertion.run import run

sitk = pytest.importorskip("SimpleITK")
pydicom = pytest.importorskip("pydicom")


@pytest.fixture
def scans(chest, tmp_path):
    """A folder with one chest as NIfTI, MetaImage, NRRD and DICOM."""
    from dicom_files import write_series

    path = chest("LPS", "nifti.nii.gz")
    image = sitk.ReadImage(str(path))
    for name in ("meta.mhd", "nrrd.nrrd"):
        sitk.WriteImage(image, str(path.with_name(name)))
    stored = (sitk.GetArrayFromImage(image) + 1024).astype(np.uint16)
    spacing = (image.GetSpacing()[1], image.GetSpacing()[0], image.GetSpacing()[2])
    write_series(path.parent / "dicom", stored, spacing=spacing, origin=image.GetOrigin())
    return path.parent


def test_every_format_gets_the_same_lesions(scans, settings, tmp_path):
    folders = run(settings(input=scans, lesions=2, diameter_mm=5))
    assert [folder.name for folder in folders] == ["dicom", "meta", "nifti", "nrrd"]
    tables = [(folder / "lesions.csv").read_text() for folder in folders]
    assert len(set(tables)) == 1
    images = [
        read_volume(find_scans(folder / name)[0].path)
        for folder, name in zip(folders, ("image", "image.mhd", "image.nii.gz", "image.nrrd"), strict=True)
    ]
    labels = [read_volume(folder / "labels.nii.gz") for folder in folders]
    for image, label in zip(images, labels, strict=True):
        assert np.array_equal(image.values, images[0].values)
        assert np.array_equal(label.raw, labels[0].raw) and np.allclose(label.affine, image.affine, atol=1e-4)
    source = read_volume(scans / "dicom")
    changed = source.values != images[0].values
    assert changed.any() and changed.mean() < 0.1


def test_a_dicom_series_has_a_segmentation(scans, settings):
    pytest.importorskip("highdicom")
    (folder,) = run(settings(input=scans / "dicom", lesions=2, diameter_mm=5))
    made = pydicom.dcmread(folder / "labels.dcm")
    assert made.Modality == "SEG" and len(made.SegmentSequence) == 2
    image = pydicom.dcmread(next((folder / "image").iterdir()))
    assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == image.SeriesInstanceUID
    assert list(image.ImageType[:2]) == ["DERIVED", "SECONDARY"]


def test_finished_scans_of_every_format_are_kept(scans, settings, capsys):
    asked = settings(input=scans, lesions=1, diameter_mm=5)
    run(asked)
    capsys.readouterr()
    run(asked)
    assert "0 due, 4 finished" in capsys.readouterr().out


def test_dicom_files_that_are_no_scan_are_said(scans, settings, capsys):
    from dicom_files import write_series

    def scout(made, number):
        made.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    write_series(scans / "dicom" / "scouts", np.zeros((2, 8, 8), np.uint16), series="scouts", change=scout)
    run(settings(input=scans / "dicom", lesions=1, diameter_mm=5))
    assert "dcm and 1 more: is a localizer (scout view); left out" in capsys.readouterr().out


def test_a_scan_whose_name_has_no_known_ending_becomes_nifti(chest, settings):
    path = chest().rename(chest().with_name("A.volume"))
    (folder,) = run(settings(input=path, lesions=1, diameter_mm=5))
    assert read_volume(folder / "image.nii.gz").raw.shape == read_volume(path).raw.shape
