"""A painted series is its source but for the painted voxels, and says that it is derived."""

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_files import compress, write_multi_frame, write_series
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless

from LeFusion.dataset.dicom_seg import write_segmentation
from LeFusion.dataset.scans import find_scans, read_volume, write_label_like, write_volume, write_volume_like
from LeFusion.dataset.volume import check_same_grid, with_values

NEW = (
    "ImageType SOPInstanceUID SeriesInstanceUID SeriesDescription SeriesNumber DerivationDescription "
    "SourceImageSequence PixelData"
).split()


def stack(shape=(6, 16, 14), dtype="uint16"):
    return np.random.default_rng(0).integers(0, 1400, shape).astype(dtype)


def painted(source, path, value=33):
    """The volume with a box painted, and the mask of that."""
    mask = np.zeros(source.raw.shape, bool)
    mask[2:6, 3:8, 2:4] = True
    write_volume_like(source, np.full(mask.shape, float(value)), mask, path)
    return read_volume(path), mask


def headers(folder):
    found = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    return sorted(found, key=lambda made: made.ImagePositionPatient[2])


def test_only_painted_voxels_differ(tmp_path):
    folder = write_series(tmp_path / "a", stack())
    source = read_volume(folder)
    result, mask = painted(source, tmp_path / "out" / "image")
    assert result.raw.dtype == source.raw.dtype and (result.slope, result.inter) == (1, -1024)
    np.testing.assert_array_equal(result.raw[~mask], source.raw[~mask])
    assert (result.values[mask] == 33).all()
    check_same_grid(result, source)
    pixels = [(b.PixelData, a.PixelData) for a, b in zip(headers(folder), headers(result.path), strict=True)]
    assert [a == b for a, b in pixels] == [True, True, False, False, True, True]


def test_it_says_that_it_is_derived_and_keeps_the_patient(tmp_path):
    folder = write_series(tmp_path / "a", stack())
    result, _ = painted(read_volume(folder), tmp_path / "image")
    before, after = headers(folder), headers(tmp_path / "image")
    for old, new in zip(before, after, strict=True):
        assert list(new.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert new.SeriesDescription == "CHEST 1.0 synthetic lesions" and new.SeriesNumber == 1003
        assert "Synthetic lesions" in new.DerivationDescription
        assert new.SourceImageSequence[0].ReferencedSOPInstanceUID == old.SOPInstanceUID
        assert new.SOPInstanceUID != old.SOPInstanceUID
        assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID
        kept = [element for element in old if element.keyword not in NEW]
        assert len(kept) > 25 and all(new[element.tag] == element for element in kept)
    assert len({new.SeriesInstanceUID for new in after} | {before[0].SeriesInstanceUID}) == 2
    assert len({new.SOPInstanceUID for new in after}) == 6


def test_the_same_voxels_give_the_same_bytes_and_others_other_uids(tmp_path):
    source = read_volume(write_series(tmp_path / "a", stack()))
    for name, value in (("b", 33), ("c", 33), ("d", 34)):
        painted(source, tmp_path / name, value)
    files = {n: [path.read_bytes() for path in sorted((tmp_path / n).iterdir())] for n in "bcd"}
    assert files["b"] == files["c"]
    assert headers(tmp_path / "b")[0].SeriesInstanceUID != headers(tmp_path / "d")[0].SeriesInstanceUID


def test_other_software_reads_it(tmp_path):
    source = read_volume(write_series(tmp_path / "a", stack(), slope=2, inter=-1000))
    result, _ = painted(source, tmp_path / "image", 34)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "image")))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(reader.Execute()).T, result.values)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless])
def test_transfer_syntaxes(tmp_path, syntax):
    if syntax.is_compressed:
        compress(write_series(tmp_path / "a", stack()), syntax)
    else:
        write_series(tmp_path / "a", stack(), syntax=syntax)
    source = read_volume(tmp_path / "a")
    result, mask = painted(source, tmp_path / "image")
    np.testing.assert_array_equal(result.raw[~mask], source.raw[~mask])
    wanted = ExplicitVRLittleEndian if syntax.is_compressed else syntax
    assert {made.file_meta.TransferSyntaxUID for made in headers(tmp_path / "image")} == {wanted}


def test_big_endian_files_are_read_but_not_written(tmp_path):
    source = read_volume(write_series(tmp_path / "a", stack().byteswap(), syntax=ExplicitVRBigEndian))
    np.testing.assert_array_equal(source.raw, stack().transpose(2, 1, 0))
    with pytest.raises(ValueError, match="big-endian order.*gdcmconv"):
        painted(source, tmp_path / "image")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_other_bits_stay_where_nothing_is_painted(tmp_path):
    """12 bits in 16, signed, with an overlay in the others."""
    dirty = (stack() & 0x07FF) | 0x5000
    source = read_volume(write_series(tmp_path / "a", dirty.view("int16"), inter=0, bits=12))
    result, mask = painted(source, tmp_path / "image", -700)
    np.testing.assert_array_equal(result.raw[~mask], source.raw[~mask])
    assert (result.raw[mask] == -700).all()
    stored = np.stack([np.frombuffer(made.PixelData, "<u2").reshape(16, 14) for made in headers(result.path)])
    np.testing.assert_array_equal(stored[~mask.T], dirty[~mask.T])


def test_values_that_the_bits_cannot_hold_are_refused(tmp_path):
    source = read_volume(write_series(tmp_path / "a", stack(), inter=-1000, bits=12))
    for value in (3096, -1001):
        with pytest.raises(ValueError, match="do not fit into"):
            painted(source, tmp_path / "image", value)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    painted(source, tmp_path / "image", 3095)


def test_slices_of_different_rescale(tmp_path):
    def rescaled(made, number):
        made.RescaleSlope, made.RescaleIntercept = 0.5 + number / 2, -500

    source = read_volume(write_series(tmp_path / "a", stack(), change=rescaled))
    result, mask = painted(source, tmp_path / "image", 10)
    np.testing.assert_array_equal(result.values[~mask], source.values[~mask])
    np.testing.assert_allclose(result.values[mask], 10, atol=0.51 * 2)
    again, _ = painted(source, tmp_path / "again", 10)
    np.testing.assert_array_equal(again.raw, result.raw)


def test_a_multi_frame_file(tmp_path):
    source = read_volume(write_multi_frame(tmp_path / "a" / "all.dcm", stack()))
    result, mask = painted(source, tmp_path / "image")
    np.testing.assert_array_equal(result.raw[~mask], source.raw[~mask])
    assert (result.values[mask] == 33).all() and len(list((tmp_path / "image").iterdir())) == 1


def test_a_series_among_others_and_other_formats(tmp_path):
    write_series(tmp_path / "a", stack())
    other = write_series(tmp_path / "b", stack() + 1, series="other")
    for path in other.iterdir():
        path.rename(tmp_path / "a" / f"other {path.name}")
    scan = find_scans(tmp_path / "a")[1]
    source = read_volume(scan.path)
    painted(source, tmp_path / "image")
    for ending in (".nii.gz", ".mha", ".nrrd"):
        result, mask = painted(source, tmp_path / f"image{ending}")
        check_same_grid(result, source)
        np.testing.assert_array_equal(result.values[~mask], source.values[~mask])
        assert (result.values[mask] == 33).all()


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    source = read_volume(write_series(tmp_path / "a", stack()))
    painted(source, tmp_path / "image")
    before = {path.name: path.read_bytes() for path in (tmp_path / "image").iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match=r"cannot write .*image: No space left"):
        painted(source, tmp_path / "image", 50)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in (tmp_path / "image").iterdir()} == before
    painted(source, tmp_path / "image", 50)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "image"]


def test_only_dicom_becomes_dicom(tmp_path):
    source = read_volume(write_series(tmp_path / "a", stack()))
    write_label_like(source, source.raw > 700, tmp_path / "labels.nii.gz")
    labels = read_volume(tmp_path / "labels.nii.gz")
    with pytest.raises(ValueError, match="must end in one of"):
        write_volume(with_values(labels, [], tmp_path / "folder"))


def lesions(source):
    labels = np.zeros(source.raw.shape, np.uint8)
    labels[2:6, 3:8, 1:3], labels[8:11, 3:9, 2:5] = 1, 2
    return labels


@pytest.mark.parametrize("multi_frame", [False, True])
def test_a_segmentation_overlays_its_series(tmp_path, multi_frame):
    highdicom = pytest.importorskip("highdicom")
    write = write_multi_frame if multi_frame else write_series
    source = read_volume(write(tmp_path / "a" / ("all.dcm" if multi_frame else ""), stack()))
    labels = lesions(source)
    for name in ("x.dcm", "y.dcm"):
        write_segmentation(source.path, labels, ["lesion 1", "lesion 2"], tmp_path / name, "1.2")
    assert (tmp_path / "x.dcm").read_bytes() == (tmp_path / "y.dcm").read_bytes()
    made = highdicom.seg.segread(tmp_path / "x.dcm")
    assert [segment.SegmentLabel for segment in made.SegmentSequence] == ["lesion 1", "lesion 2"]
    assert made.PatientID == "P-7" and made.ReferencedSeriesSequence[0].SeriesInstanceUID == source.header.uid
    found = made.get_volume(combine_segments=True)
    affine = source.affine.copy()
    for index in np.argwhere(found.array):
        world = found.affine @ [*index, 1]
        there = np.linalg.solve(affine, [-world[0], -world[1], world[2], 1])[:3].round().astype(int)
        assert labels[tuple(there)] == found.array[tuple(index)]
    assert np.count_nonzero(found.array) == np.count_nonzero(labels)


def test_a_segmentation_is_refused_in_one_line(tmp_path, monkeypatch):
    source = read_volume(write_series(tmp_path / "a", stack()))
    labels, path = lesions(source), tmp_path / "seg.dcm"
    for wrong, names in (
        (labels[1:], ["1", "2"]),
        (labels, ["1"]),
        (labels, ["1", "2", "3"]),
        (labels * 0, []),
    ):
        with pytest.raises(ValueError, match=r"seg\.dcm: labels of shape"):
            write_segmentation(source.path, wrong, names, path, "1")
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(ValueError, match=r"pip install 'lefusion\[dicom-seg\]'"):
        write_segmentation(source.path, labels, ["1", "2"], path, "1")
    assert not path.exists()
