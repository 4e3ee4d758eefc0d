"""What is written equals its source outside the mask, bit for bit, and nothing half-written is ever left."""

import gzip
import os

import nibabel
import numpy as np
import pytest

from LeFusion.dataset.scans import read_volume, write_label_like, write_volume_like
from LeFusion.dataset.storage import atomic_file
from tests.helpers.refusals import one_line_error

OBLIQUE = np.array(
    [[-1.2, 0.3, 0.1, 40.5], [0.2, 1.1, -0.4, -7.25], [0.05, 0.35, 2.4, 3.0], [0, 0, 0, 1]], dtype=np.float64
)


def save(path, raw, slope=None, inter=None, image_class=nibabel.Nifti1Image, endianness="<", affine=OBLIQUE):
    """Write `raw` as it is, with the given scaling in the header."""
    header = image_class.header_class(endianness=endianness)
    header.set_data_dtype(raw.dtype)
    header.set_data_shape(raw.shape)
    header.set_sform(affine, 2)
    header.set_qform(affine, 1, strip_shears=True)
    header.set_xyzt_units("mm", "sec")
    header["descrip"] = b"a source"
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"] = np.nan if slope is None else slope
    header["scl_inter"] = np.nan if inter is None else inter
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "wb") as file:
        header.write_to(file)
        file.write(raw.astype(raw.dtype.newbyteorder(endianness)).tobytes(order="F"))
    return path


def random_raw(dtype, shape=(5, 7, 9), seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape, scale=300).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, size=shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("image_class", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("scaling", [(None, None), (1, -1024), (0.37, 12.5), (-2, 0)])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_outside_the_mask_bits_and_header_are_the_sources(
    tmp_path, image_class, endianness, ending, scaling, dtype
):
    raw = random_raw(dtype)
    source = read_volume(save(tmp_path / f"a{ending}", raw, *scaling, image_class, endianness))
    np.testing.assert_array_equal(source.raw, raw)
    mask = np.zeros(raw.shape, bool)
    mask[1:3, 2:5, 3:8] = True
    wanted = np.where(mask, source.values[::-1, ::-1, ::-1], np.nan)  # only what the mask covers is looked at

    target = tmp_path / "out" / f"a{ending}"
    write_volume_like(source, wanted, mask, target)

    result = read_volume(target)
    assert result.raw.dtype == source.raw.dtype and result.raw.dtype.byteorder == source.raw.dtype.byteorder
    assert result.raw[~mask].tobytes() == source.raw[~mask].tobytes()
    step = abs(source.slope) if np.dtype(dtype).kind != "f" else 1e-3
    np.testing.assert_allclose(result.values[mask], wanted[mask], rtol=1e-6, atol=step * 0.51)
    assert result.header.binaryblock == source.header.binaryblock
    loaded = nibabel.load(target)
    assert isinstance(loaded, image_class)
    np.testing.assert_allclose(loaded.get_fdata(), source.values.astype(float) * ~mask + result.values * mask)


def test_writing_back_the_values_gives_every_stored_number_again(tmp_path):
    for dtype in ("uint8", "int16", "uint16", "int32", "float32", "float64"):
        source = read_volume(save(tmp_path / "a.nii", random_raw(dtype), 0.1, -3))
        write_volume_like(source, source.values, np.ones(source.raw.shape, bool), tmp_path / "b.nii")
        np.testing.assert_allclose(read_volume(tmp_path / "b.nii").raw, source.raw, rtol=1e-7)
        if source.raw.dtype.kind != "f":
            np.testing.assert_array_equal(read_volume(tmp_path / "b.nii").raw, source.raw)


def test_values_are_the_scaled_numbers_and_as_wide_as_needed(tmp_path):
    raw = np.array([[[-1000, 0, 7]]], np.int16)
    plain = read_volume(save(tmp_path / "a.nii", raw)).values
    assert plain.dtype == np.float32 and plain.tolist() == [[[-1000, 0, 7]]]
    shifted = read_volume(save(tmp_path / "a.nii", raw, 2, -5)).values
    assert shifted.dtype == np.float32 and shifted.tolist() == [[[-2005, -5, 9]]]
    fine = read_volume(save(tmp_path / "a.nii", np.array([[[2**24 + 1]]], np.int32))).values
    assert fine.dtype == np.float64 and fine.item() == 2**24 + 1


def test_new_values_are_rounded_to_integer_types(tmp_path):
    source = read_volume(save(tmp_path / "a.nii", np.zeros((1, 1, 5), np.uint8), 2, 10))
    values = np.array([[[9.1, 10.9, 11.1, 14, 520.9]]])
    write_volume_like(source, values, np.ones((1, 1, 5), bool), tmp_path / "b.nii")
    assert read_volume(tmp_path / "b.nii").raw.tolist() == [[[0, 0, 1, 2, 255]]]


@pytest.mark.parametrize(
    "dtype, value", [("uint8", -1), ("uint8", 256), ("uint16", -1000), ("int16", 40000), ("int64", 1e30)]
)
def test_values_that_the_stored_type_cannot_hold_are_refused(tmp_path, dtype, value):
    source = read_volume(save(tmp_path / "a.nii", np.zeros((1, 1, 2), dtype)))
    with pytest.raises(ValueError, match=f"1 of 2 new voxels, such as .* do not fit into {dtype}"):
        write_volume_like(source, np.array([[[0.0, value]]]), np.ones((1, 1, 2), bool), tmp_path / "b.nii")
    assert not (tmp_path / "b.nii").exists()


def test_header_extensions_survive(tmp_path):
    image = nibabel.Nifti1Image(random_raw("int16"), OBLIQUE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"scanner notes"))
    nibabel.save(image, tmp_path / "a.nii.gz")
    source = read_volume(tmp_path / "a.nii.gz")
    write_volume_like(source, source.values, source.raw > 0, tmp_path / "b.nii.gz")
    copy = nibabel.load(tmp_path / "b.nii.gz")
    assert copy.header.extensions[0].get_content() == b"scanner notes"
    np.testing.assert_array_equal(np.asarray(copy.dataobj), source.raw)


def test_label_map_has_the_sources_geometry_but_no_scaling(tmp_path):
    source = read_volume(save(tmp_path / "a.nii.gz", random_raw("int16"), 0.5, -1024))
    labels = random_raw("uint8") % 5
    write_label_like(source, labels, tmp_path / "b.nii.gz")
    image = nibabel.load(tmp_path / "b.nii.gz")
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels)
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-6)
    assert (image.header["sform_code"], image.header["qform_code"]) == (2, 1)
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert (read_volume(tmp_path / "b.nii.gz").slope, read_volume(tmp_path / "b.nii.gz").inter) == (1, 0)


def test_labels_above_255_are_kept(tmp_path):
    source = read_volume(save(tmp_path / "a.nii", np.zeros((2, 2, 2), np.int16)))
    labels = np.array([0, 1, 255, 256, 257, 300, 65534, 65535], np.uint16).reshape(2, 2, 2)
    write_label_like(source, labels, tmp_path / "b.nii")
    assert np.array_equal(read_volume(tmp_path / "b.nii").raw, labels)


@pytest.mark.parametrize(
    "slope, stored, labels", [(1 / 255, 255, 1), (0.5, 4, 2), (2.0, 1, 2), (1 / 7, 21, 3)]
)
def test_a_scale_factor_leaves_labels_whole(tmp_path, slope, stored, labels):
    volume = read_volume(save(tmp_path / "a.nii", np.array([[[0, stored]]], np.uint8), slope, 0))
    assert volume.labels.tolist() == [[[0, labels]]] and volume.found_labels.tolist() == [0, labels]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_in_floating_point_are_whole(tmp_path, dtype):
    """2.99999 is 3, which a conversion to integers would make 2."""
    volume = read_volume(save(tmp_path / "a.nii", np.array([[[0, 2.99999, 1.00001, 4]]], dtype)))
    assert volume.labels.astype(np.uint8).tolist() == [[[0, 3, 1, 4]]]
    assert volume.found_labels.tolist() == [0, 1, 3, 4]


def test_what_is_no_whole_number_stays_for_the_message(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii", np.array([[[0, 1]]], np.uint8), 0.4, 0))
    assert volume.found_labels.tolist() == pytest.approx([0, 0.4])


def test_an_infinite_scale_factor_is_refused(tmp_path):
    raw = np.zeros((2, 2, 2), np.uint8)
    refused(save(tmp_path / "a.nii", raw, np.inf, 0), "scale factor is infinite")
    refused(save(tmp_path / "b.nii", raw, 1, np.inf), "damaged NIfTI header")


def test_same_voxels_give_the_same_bytes(tmp_path, monkeypatch):
    source = read_volume(save(tmp_path / "a.nii.gz", random_raw("int16")))
    write_volume_like(source, source.values, source.raw > 0, tmp_path / "b.nii.gz")
    monkeypatch.setattr("time.time", lambda: 4e8)
    write_volume_like(source, source.values, source.raw > 0, tmp_path / "c.nii.gz")
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "c.nii.gz").read_bytes()


def test_a_file_can_be_read_after_it_was_replaced(tmp_path):
    path = save(tmp_path / "a.nii", random_raw("int16", seed=1))
    source = read_volume(path)
    path.write_bytes(b"")
    np.testing.assert_array_equal(source.values, random_raw("int16", seed=1))


def refused(path, *parts):
    with one_line_error((ValueError, FileNotFoundError), path, *parts):
        read_volume(path)


def test_unreadable_files_are_refused_by_name(tmp_path):
    refused(tmp_path / "none.nii.gz", "no such file")
    refused(tmp_path, "holds no DICOM series")
    whole = save(tmp_path / "a.nii.gz", random_raw("int16", (20, 20, 20))).read_bytes()
    cut = tmp_path / "cut.nii.gz"
    for length in (1, 3, 15, 200, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:length])
        refused(cut)
    cut.write_bytes(whole[: len(whole) // 2] + b"garbage" + whole[len(whole) // 2 :])
    refused(cut, "damaged gzip")
    text = tmp_path / "text.nii.gz"
    text.write_bytes(gzip.compress(b"no header of any kind, " * 40))
    refused(text, "is not a NIfTI file")
    plain = tmp_path / "plain.nii"
    plain.write_bytes(gzip.decompress(whole)[:-1])
    refused(plain, "cut short at 16351 of 16352 bytes")
    plain.write_text("<html>not found</html>")
    refused(plain, "no NIfTI, MetaImage, NRRD or DICOM file")
    plain.write_bytes(b"")
    refused(plain, "no NIfTI, MetaImage, NRRD or DICOM file")


def test_a_damaged_header_is_refused_in_one_line(tmp_path):
    content = bytearray(save(tmp_path / "a.nii", random_raw("int16")).read_bytes())
    path = tmp_path / "b.nii"
    for place, replacement in ((70, b"\x63\x63"), (116, np.float32(np.inf).tobytes()), (42, b"\xff\xff")):
        damaged = content.copy()
        damaged[place : place + len(replacement)] = replacement
        if place == 116:
            damaged[112:116] = np.float32(1).tobytes()
        path.write_bytes(damaged)
        refused(path)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 1, 2), (4, 5, 6, 2)])
def test_only_3d_is_taken(tmp_path, shape):
    refused(save(tmp_path / "a.nii", random_raw("int16", shape)), str(shape), "3D")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_voxels_are_refused(tmp_path, bad):
    raw = random_raw("float32")
    raw[2, 3, 4] = bad
    refused(save(tmp_path / "a.nii.gz", raw), "holds 1 NaN or infinite")


def test_colour_and_complex_volumes_are_refused(tmp_path):
    refused(save(tmp_path / "a.nii", np.zeros((2, 2, 2), np.complex64)), "complex64")


def test_wrong_arrays_are_refused_and_nothing_is_written(tmp_path):
    source = read_volume(save(tmp_path / "a.nii", random_raw("int16")))
    mask = np.ones(source.raw.shape, bool)
    nan = source.values.copy()
    nan[0, 0, 0] = np.nan
    target = tmp_path / "out" / "b.nii"
    for values, chosen in [
        (source.values[1:], mask),
        (source.values, mask[1:]),
        (source.values.transpose(2, 1, 0), mask),
        (source.values, mask.astype(np.uint8)),
        (nan, mask),
    ]:
        with pytest.raises(ValueError, match=r"b\.nii"):
            write_volume_like(source, values, chosen, target)
    for labels in (np.zeros((1, 2, 3), np.uint8), np.zeros(source.raw.shape, np.int16)):
        with pytest.raises(ValueError, match=r"b\.nii"):
            write_label_like(source, labels, target)
    assert not target.parent.exists()


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize("stage", ["replace", "fsync", "write"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failure, stage):
    source = read_volume(save(tmp_path / "a.nii", random_raw("int16")))
    folder = tmp_path / "out"
    write_label_like(source, np.zeros(source.raw.shape, np.uint8), folder / "b.nii.gz")
    before = (folder / "b.nii.gz").read_bytes()

    def fail(*_, **__):
        assert len(list(folder.iterdir())) == 2, "the temporary file lies beside its target"
        raise failure

    target = {"replace": "os.replace", "fsync": "os.fsync", "write": "gzip.GzipFile.write"}[stage]
    monkeypatch.setattr(target, fail)
    with pytest.raises(type(failure)) as caught:
        write_label_like(source, np.ones(source.raw.shape, np.uint8), folder / "b.nii.gz")
    monkeypatch.undo()
    if isinstance(failure, OSError):
        assert str(caught.value) == f"cannot write {folder / 'b.nii.gz'}: No space left on device"
    assert [path.name for path in folder.iterdir()] == ["b.nii.gz"]
    assert (folder / "b.nii.gz").read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for target in (tmp_path / "file" / "b.nii", tmp_path / "file" / "deeper" / "b.nii"):
        with pytest.raises(OSError, match=r"cannot write .*b\.nii: ") as caught, atomic_file(target):
            pytest.fail("nothing may be written")
        assert "\n" not in str(caught.value)
    (tmp_path / "folder.nii").mkdir()
    with (
        pytest.raises(OSError, match=r"cannot write .*folder\.nii"),
        atomic_file(tmp_path / "folder.nii") as temporary,
    ):
        temporary.write_text("x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.nii"]


def test_atomic_file_appears_only_when_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "table.csv"
    with atomic_file(path) as temporary:
        temporary.write_text("a,b\n")
        assert temporary.name.startswith(".") and temporary.suffix == ".csv" and not path.exists()
    assert path.read_text() == "a,b\n" and len(list(path.parent.iterdir())) == 1
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "a,b\n" and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("more", [(1,), (1, 1)])
def test_a_series_of_one_volume_is_that_volume(tmp_path, more):
    raw = random_raw("int16")
    source = read_volume(save(tmp_path / "a.nii.gz", raw.reshape(*raw.shape, *more)))
    np.testing.assert_array_equal(source.raw, raw)
    write_volume_like(source, source.values, np.ones(raw.shape, bool), tmp_path / "b.nii.gz")
    written = nibabel.load(tmp_path / "b.nii.gz")
    assert written.shape == raw.shape and np.array_equal(written.affine, source.affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), raw)
