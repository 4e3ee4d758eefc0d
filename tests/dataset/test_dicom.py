"""A DICOM series is read as SimpleITK reads it; what is no even stack of slices is refused in one line."""

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_files import compress, dataset, pixels, write_multi_frame, write_series
from pydicom.uid import (
    MPEG2MPML,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from refusals import refused

from LeFusion.dataset.cases import Layout, find_cases
from LeFusion.dataset.dicom_series import find_series
from LeFusion.dataset.hounsfield import refuse_other_units
from LeFusion.dataset.scans import find_scans, read_volume, write_label_like
from LeFusion.errors import UserError

OBLIQUE = ((0.8, 0.6, 0), (-0.6 * 0.8, 0.8 * 0.8, 0.6))


def stack(shape=(6, 5, 4), dtype="uint16", low=0, high=1400):
    return np.random.default_rng(0).integers(low, high, shape).astype(dtype)


def by_simpleitk(folder):
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return SimpleITK.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize("turn", [((1, 0, 0), (0, 1, 0)), ((0, 1, 0), (0, 0, -1)), OBLIQUE])
@pytest.mark.parametrize("slope, inter, dtype", [(1, -1024, "uint16"), (1, 0, "int16"), (2, -1000, "uint16")])
def test_a_series_is_what_simpleitk_reads(tmp_path, turn, slope, inter, dtype):
    stored = stack(dtype=dtype, low=-900 if dtype == "int16" else 0)
    volume = read_volume(write_series(tmp_path / "a", stored, slope, inter, turn=turn))
    values, affine = by_simpleitk(tmp_path / "a")
    np.testing.assert_array_equal(volume.raw, stored.transpose(2, 1, 0))
    np.testing.assert_array_equal(volume.values, values)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert (volume.slope, volume.inter, volume.modality) == (slope, inter, "CT")
    assert volume.raw.dtype == dtype


def test_slices_are_ordered_by_place_not_by_name_or_number(tmp_path):
    def turned(made, number):
        made.InstanceNumber = 6 - number

    volume = read_volume(write_series(tmp_path / "a", stack(), change=turned))
    np.testing.assert_array_equal(volume.raw, stack().transpose(2, 1, 0))
    down = read_volume(write_series(tmp_path / "b", stack()[::-1], places=2.5 * np.arange(6)[::-1]))
    np.testing.assert_array_equal(down.raw, volume.raw)
    np.testing.assert_allclose(down.affine, volume.affine)


def test_a_multi_frame_file_is_a_volume(tmp_path):
    path = write_multi_frame(tmp_path / "a" / "all.dcm", stack())
    single = read_volume(write_series(tmp_path / "b", stack()))
    for at in (path, path.parent):
        volume = read_volume(at)
        np.testing.assert_array_equal(volume.raw, single.raw)
        np.testing.assert_allclose(volume.affine, single.affine, atol=1e-9)
        assert (volume.slope, volume.inter) == (1, -1024)
    assert [scan.name for scan in find_scans(path)] == ["all"]


def test_each_slice_may_have_its_own_rescale(tmp_path):
    def rescaled(made, number):
        made.RescaleSlope, made.RescaleIntercept = 1 + number / 2, -number

    stored = stack()
    volume = read_volume(write_series(tmp_path / "a", stored, change=rescaled))
    expected = [image * (1 + k / 2) - k for k, image in enumerate(stored.astype(float))]
    np.testing.assert_array_equal(volume.values, np.transpose(expected, (2, 1, 0)))
    assert volume.raw.dtype == np.float32


@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_bits_beyond_those_stored_do_not_count(tmp_path, dtype):
    """12 bits in 16: an overlay may lie in the others, and a sign need not be extended."""
    stored = stack(dtype=dtype, low=-2048 if dtype == "int16" else 0, high=2047)
    dirty = (stored.astype(np.uint16) & 0x0FFF) | 0x5000
    volume = read_volume(write_series(tmp_path / "a", dirty.astype(np.uint16).view(dtype), bits=12))
    np.testing.assert_array_equal(volume.raw, stored.transpose(2, 1, 0))


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_pixels_are_decoded(tmp_path, syntax):
    compress(write_series(tmp_path / "a", stack((4, 64, 64))), syntax)
    np.testing.assert_array_equal(read_volume(tmp_path / "a").raw, stack((4, 64, 64)).transpose(2, 1, 0))


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    compress(write_series(tmp_path / "a", stack((2, 16, 16))), JPEGLSLossless)
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
    monkeypatch.setattr(
        "pydicom.dataset.Dataset.pixel_array",
        property(lambda self: (_ for _ in ()).throw(RuntimeError("no plugin\nis there"))),
    )
    refused(tmp_path / "a", "JPEG-LS", "no plugin is there", "pip install 'lefusion[dicom-compressed]'")


def test_where_no_package_helps_none_is_named(tmp_path):
    """The decoder is there and gives up, or there is none for that compression."""
    for number, syntax in enumerate((JPEGLSLossless, MPEG2MPML)):
        compress(folder := write_series(tmp_path / str(number), stack((2, 16, 16))), RLELossless)
        for path in folder.iterdir():
            made = pydicom.dcmread(path)
            made.file_meta.TransferSyntaxUID = syntax
            made.save_as(path)
        with pytest.raises(UserError, match="gdcmconv --raw") as caught:
            read_volume(folder)
        assert "pip install" not in str(caught.value) and "\n" not in str(caught.value)


def test_files_without_preamble_and_with_implicit_types(tmp_path):
    write_series(tmp_path / "a", stack(), syntax=ImplicitVRLittleEndian)
    for path in (tmp_path / "a").iterdir():
        made = pydicom.dcmread(path)
        pydicom.dcmwrite(
            path, pydicom.Dataset(made), implicit_vr=True, little_endian=True, force_encoding=True
        )
        path.rename(path.with_suffix(""))
    assert not (next((tmp_path / "a").iterdir()).read_bytes()[128:132] == b"DICM")
    np.testing.assert_array_equal(read_volume(tmp_path / "a").raw, stack().transpose(2, 1, 0))


def test_a_tilted_gantry_is_refused(tmp_path):
    def sheared(made, number):
        made.ImagePositionPatient[1] += 0.8 * number

    write_series(tmp_path / "a", stack(), change=sheared)
    refused(tmp_path / "a", "gantry tilt of 17.7 degrees", "resample")


def test_missing_slices_are_counted(tmp_path):
    write_series(tmp_path / "a", stack(), places=2.5 * np.array([0, 1, 2, 5, 6, 7]))
    refused(tmp_path / "a", "2 of 8 slices are missing", "-2.dcm")


def test_slices_at_uneven_distances_are_refused(tmp_path):
    write_series(tmp_path / "a", stack(), places=[0, 1, 2, 3.4, 5.1, 7.1])
    refused(tmp_path / "a", "uneven distances, 1 to 2 mm")
    rounded = np.round(np.arange(6) * 0.625, 2)
    assert read_volume(write_series(tmp_path / "b", stack(), places=rounded)).raw.shape == (4, 5, 6)


def test_two_slices_at_one_place_are_refused(tmp_path):
    write_series(tmp_path / "a", stack(), places=[0, 2.5, 2.5, 5, 7.5, 10])
    refused(tmp_path / "a", "lie at the same place")
    write_series(tmp_path / "b", stack(), places=[0, 0, 2.5, 2.5, 5, 5])
    refused(tmp_path / "b", "2 slices at each of its 3 places", "time points")


def test_a_copy_of_a_file_counts_once(tmp_path):
    folder = write_series(tmp_path / "a", stack())
    first = sorted(folder.iterdir())[0]
    shutil.copy(first, folder / "copy of it.dcm")
    np.testing.assert_array_equal(read_volume(folder).raw, stack().transpose(2, 1, 0))
    made = pydicom.dcmread(first)
    made.RescaleIntercept = 5
    made.save_as(folder / "copy of it.dcm")
    refused(folder, "same SOPInstanceUID")


@pytest.mark.parametrize(
    "name, value, part",
    [
        ("PixelSpacing", [0.9, 0.9], "pixel distances"),
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, -1], "different directions"),
        ("ImageOrientationPatient", None, "no ImageOrientationPatient"),
        ("SamplesPerPixel", 3, "colour"),
        ("BitsStored", None, "lacks what a slice needs"),
        ("PixelData", b"1234", "damaged"),
    ],
)
def test_one_slice_unlike_the_others_is_refused(tmp_path, name, value, part):
    def odd(made, number):
        if number == 2:
            setattr(made, name, value)

    write_series(tmp_path / "a", stack(), change=odd)
    refused(tmp_path / "a", part)


def test_a_file_cut_short_is_refused(tmp_path):
    folder = write_series(tmp_path / "a", stack((6, 30, 30)))
    path = sorted(folder.iterdir())[1]
    whole = path.read_bytes()
    for length in (len(whole) - 100, 400):
        path.write_bytes(whole[:length])
        refused(folder)


def localizer(made, number):
    made.ImageType, made.SeriesDescription = ["ORIGINAL", "PRIMARY", "LOCALIZER"], "scout"
    made.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def test_several_series_in_a_folder_are_several_scans(tmp_path):
    folder = tmp_path / "exam"
    write_series(folder, stack())

    def second(made, number):
        made.SeriesNumber, made.InstanceNumber = 5, number

    write_series(folder / "x", stack() + 1, series="second", change=second)
    for path in (folder / "x").iterdir():
        path.rename(folder / f"second {path.name}")
    (folder / "x").rmdir()
    write_series(folder / "x", stack()[:2], series="scout", change=localizer)
    for path in (folder / "x").iterdir():
        path.rename(folder / f"scout {path.name}")
    (folder / "x").rmdir()
    skipped = []
    scans = find_scans(folder, skipped)
    assert [scan.name for scan in scans] == ["exam_series3", "exam_series5"]
    assert len(skipped) == 1 and "dcm and 1 more: is a localizer" in skipped[0]
    for extra, scan in enumerate(scans):
        np.testing.assert_array_equal(read_volume(scan.path).raw, stack().transpose(2, 1, 0) + extra)
        assert find_scans(scan.path) == [scan]
    refused(folder, "2 DICOM series", str(scans[1].path))
    assert len(find_series(list(folder.iterdir()))) == 2
    with pytest.raises(FileNotFoundError, match="no DICOM series"):
        read_volume(folder / "1.2.3")


def test_series_of_one_name_are_told_apart_by_the_folders_above(tmp_path):
    for place in ("P1/2001/1-CT", "P2/2002/1-CT", "P2/2002/2-CT"):
        write_series(tmp_path / place, stack(), series=place)
    write_series(tmp_path / "P3" / "2-CT", stack(), series="one")
    write_series(tmp_path / "x", stack(), series="two")
    for path in (tmp_path / "x").iterdir():
        path.rename(tmp_path / "P3" / "2-CT" / f"two {path.name}")
    (tmp_path / "x").rmdir()
    scans = {scan.name: scan.path for scan in find_scans(tmp_path)}
    assert list(scans) == ["P1_2001_1-CT", "P2_2002_1-CT", "2-CT", "2-CT_series1", "2-CT_series2"]
    assert scans["P2_2002_1-CT"] == tmp_path / "P2" / "2002" / "1-CT"


def test_localizer_slices_within_a_series_are_left_out(tmp_path):
    def scout_first(made, number):
        if number == 0:
            localizer(made, number)

    folder = write_series(tmp_path / "a", stack(), change=scout_first)
    np.testing.assert_array_equal(read_volume(folder).raw, stack()[1:].transpose(2, 1, 0))


def test_what_is_no_scan_is_refused_or_left_out_by_name(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    contours = dataset("contours")
    contours.Modality = "RTSTRUCT"
    contours.save_as(folder / "contours.dcm", enforce_file_format=True)
    refused(folder, "no scan (RTSTRUCT)")
    with pytest.raises(ValueError, match="RTSTRUCT"):
        find_scans(folder)
    shot = pixels(dataset("shot", "shots", SecondaryCaptureImageStorage), stack((8, 8)))
    shot.save_as(folder / "shot.dcm", enforce_file_format=True)
    write_series(folder, stack())
    (folder / "notes.txt").write_text("read me")
    skipped = []
    assert [scan.path for scan in find_scans(folder, skipped)] == [folder]
    assert len(skipped) == 2
    assert read_volume(folder).raw.shape == (4, 5, 6)
    refused(sorted(folder.glob("*-*.dcm"))[0], "one slice of a DICOM series", str(folder))


def test_what_only_begins_like_dicom_is_left_out(tmp_path):
    folder = write_series(tmp_path / "a", stack())
    for number, content in enumerate(
        (b"\x08\x00\x05\x00\x0a\x00\x00\x00" + bytes(300), b"\x02\x00\x00\x00UL" * 40)
    ):
        (folder / f"{number}.bin").write_bytes(content)
    (folder / "voxels.raw").write_bytes(b"\x08\x00\x05\x00\x0a\x00\x00\x00" + bytes(300))
    (folder / "numbers.dat").write_bytes(np.arange(2, 200, dtype=np.int16).tobytes())
    skipped = []
    assert [scan.path for scan in find_scans(folder, skipped)] == [folder]
    assert skipped == [f"{folder / '0.bin'} and 1 more: is no DICOM image; left out"]
    assert read_volume(folder).raw.shape == (4, 5, 6)


def test_another_modality_is_refused_where_a_ct_is_needed(tmp_path):
    def pet(made, number):
        made.Modality = "PT"

    volume = read_volume(write_series(tmp_path / "a", stack(), change=pet))
    with pytest.raises(ValueError, match="its modality is PT, but a CT is needed"):
        refuse_other_units(volume, (-1000, 400))
    refuse_other_units(volume, "minmax")
    refuse_other_units(read_volume(write_series(tmp_path / "b", stack())), (-1000, 400))


def test_hu_without_an_intercept_are_refused(tmp_path):
    def bare(made, number):
        del made.RescaleSlope, made.RescaleIntercept

    volume = read_volume(write_series(tmp_path / "a", stack(), change=bare))
    assert (volume.slope, volume.inter) == (1, 0)
    with pytest.raises(ValueError, match="raw scanner values"):
        refuse_other_units(volume, (-1000, 400))


@pytest.mark.parametrize("padding, value", [(-2000, -3024), (-3024, -4048)])
def test_dark_padding_is_air(tmp_path, padding, value):
    def padded(made, number):
        made.PixelPaddingValue = padding

    stored = stack(dtype="int16")
    stored[:, 0] = padding
    volume = read_volume(write_series(tmp_path / "a", stored, change=padded))
    assert volume.values.min() == value
    refuse_other_units(volume, (-1000, 400))


def test_bright_padding_is_refused(tmp_path):
    def padded(made, number):
        made.PixelPaddingValue = 4095

    write_series(tmp_path / "a", stack(), change=padded)
    refused(tmp_path / "a", "4095 (PixelPaddingValue), which is 3071 HU")


def test_monochrome1_turns_the_display_only(tmp_path):
    def white(made, number):
        made.PhotometricInterpretation = "MONOCHROME1"

    volume = read_volume(write_series(tmp_path / "a", stack(), change=white))
    np.testing.assert_array_equal(volume.values, stack().transpose(2, 1, 0) - 1024.0)


def test_series_are_cases_with_masks_by_name(tmp_path):
    layout = Layout(mask_names=())
    for name in ("P1", "P2"):
        write_series(tmp_path / "Image" / name, stack(), series=name)
    source = read_volume(tmp_path / "Image" / "P1")
    labels = (source.values > 0).astype(np.uint8)
    for name in ("P1.nii.gz", "P2.nrrd"):
        write_label_like(source, labels, tmp_path / "Mask" / name)
    cases = find_cases(tmp_path, layout)
    assert [case.name for case in cases] == ["P1", "P2"]
    assert [case.mask_path.name for case in cases] == ["P1.nii.gz", "P2.nrrd"]
    (single,) = find_cases(tmp_path / "Image" / "P1", layout, mask_dir=tmp_path / "Mask")
    assert single == cases[0]
    np.testing.assert_allclose(nibabel.load(tmp_path / "Mask/P1.nii.gz").affine, source.affine, atol=1e-5)
    assert isinstance(single.image_path, Path)


def test_slices_of_no_series_are_refused(tmp_path):
    def without(made, _):
        del made.SeriesInstanceUID

    write_series(tmp_path / "a", stack(), change=without)
    refused(tmp_path / "a", "has no SeriesInstanceUID", "export it again")


def test_two_patients_in_one_series_are_refused(tmp_path):
    def other(made, number):
        made.PatientID = f"patient {number // 4}"

    write_series(tmp_path / "a", stack(), change=other)
    refused(tmp_path / "a", "has another PatientID than", "a folder of its own")
