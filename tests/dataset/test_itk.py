"""MetaImage and NRRD give the voxels and the world that NIfTI gives, and come out as they came in."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK
from refusals import refused

from LeFusion.dataset.itk import ItkHeader
from LeFusion.dataset.scans import find_scans, read_volume, write_label_like, write_volume, write_volume_like
from LeFusion.dataset.volume import check_same_grid, on_grid_of

ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr")


def image(shape=(5, 6, 7), dtype="int16", turn=(0.6, -0.8, 0, 0.8, 0.6, 0, 0, 0, 1)):
    """Of SimpleITK, with an oblique direction. shape: of the array, slices first."""
    values = np.random.default_rng(0).integers(-100, 100, shape).astype(dtype)
    made = SimpleITK.GetImageFromArray(values)
    made.SetSpacing((0.7, 0.8, 2.5))
    made.SetOrigin((-31.5, 7.25, 100.125))
    made.SetDirection(turn)
    return made


def save(path, made, packed=True):
    SimpleITK.WriteImage(made, str(path), useCompression=packed)
    return path


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", ["int16", "uint8", "uint16", "float32", "float64"])
def test_a_volume_is_what_nifti_says_it_is(tmp_path, ending, packed, dtype):
    made = image(dtype=dtype)
    volume = read_volume(save(tmp_path / f"a{ending}", made, packed))
    SimpleITK.WriteImage(made, str(tmp_path / "a.nii"))
    same = nibabel.load(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.affine, same.affine, atol=1e-5)
    np.testing.assert_array_equal(volume.raw, np.asarray(same.dataobj))
    assert volume.raw.dtype == dtype and volume.header.compressed == packed


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("packed", [True, False])
def test_what_is_written_differs_under_the_mask_only(tmp_path, ending, packed):
    made = image()
    made.SetMetaData("Scanner", "made up")
    source = read_volume(save(tmp_path / f"a{ending}", made, packed))
    mask = np.zeros(source.raw.shape, bool)
    mask[2:4, 1:3, 2:5] = True
    write_volume_like(source, source.values + 7, mask, tmp_path / "out" / f"b{ending}")
    result = read_volume(tmp_path / "out" / f"b{ending}")
    assert result.raw[~mask].tobytes() == source.raw[~mask].tobytes()
    np.testing.assert_array_equal(result.raw[mask], source.raw[mask] + 7)
    np.testing.assert_allclose(result.affine, source.affine, atol=1e-9)
    assert result.header == source.header and ("Scanner", "made up") in dict(result.header.entries).items()
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_entries_of_one_format_do_not_get_into_the_other(tmp_path):
    source = read_volume(save(tmp_path / "a.nrrd", image()))
    assert any(name.startswith("NRRD_") for name, _ in source.header.entries)
    write_volume_like(source, source.values, source.raw > 0, tmp_path / "b.mha")
    assert b"NRRD_" not in (tmp_path / "b.mha").read_bytes()
    assert b"a note" in note(tmp_path / "c.nrrd", note(tmp_path / "c.mha", source)[0])[1]


def note(path, source):
    """The volume as it comes back with an entry of its own, and the file's bytes."""
    header = ItkHeader((*source.header.entries, ("Remark", "a note")), source.header.compressed)
    write_volume(replace(source, path=path, header=header))
    return read_volume(path), path.read_bytes()


def test_nothing_but_errors_is_printed(tmp_path, capfd):
    SimpleITK.ProcessObject.GlobalWarningDisplayOn()
    nifti = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4))
    nibabel.save(nifti, tmp_path / "a.nii.gz")
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "a.nii.gz")), str(tmp_path / "a.nrrd"))
    capfd.readouterr()
    source = read_volume(tmp_path / "a.nrrd")
    write_volume_like(source, source.values, source.raw > 0, tmp_path / "b.mha")
    assert capfd.readouterr() == ("", "")


def test_same_voxels_give_the_same_bytes(tmp_path):
    source = read_volume(save(tmp_path / "a.mha", image()))
    for name in ("b.nrrd", "c.nrrd"):
        write_volume_like(source, source.values, source.raw > 0, tmp_path / name)
    assert (tmp_path / "b.nrrd").read_bytes() == (tmp_path / "c.nrrd").read_bytes()


@pytest.mark.parametrize("ending", (".nii.gz", *ENDINGS))
def test_labels_are_written_in_any_format(tmp_path, ending):
    source = read_volume(save(tmp_path / "a.nrrd", image()))
    labels = np.random.default_rng(1).integers(0, 300, source.raw.shape).astype(np.uint16)
    write_label_like(source, labels, tmp_path / f"b{ending}")
    written = read_volume(tmp_path / f"b{ending}")
    np.testing.assert_array_equal(written.labels, labels)
    check_same_grid(written, source)
    np.testing.assert_array_equal(on_grid_of(written, source).labels, labels)


@pytest.mark.parametrize("slope, inter, dtype", [(1.0, -1024.0, "int16"), (0.5, 0.25, "float32")])
def test_scaled_values_of_nifti_are_written_as_they_are(tmp_path, slope, inter, dtype):
    stored = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([1, 1, 2, 1]))
    stored.header.set_slope_inter(slope, inter)
    nibabel.save(stored, tmp_path / "a.nii.gz")
    source = read_volume(tmp_path / "a.nii.gz")
    object.__setattr__(source, "path", tmp_path / "b.mha")
    write_volume(source)
    written = read_volume(tmp_path / "b.mha")
    np.testing.assert_array_equal(written.values, source.values)
    assert written.header == ItkHeader(written.header.entries, True)
    if inter == -1024:
        assert written.raw.dtype == dtype


def test_the_content_decides_not_the_ending(tmp_path):
    for ending, other in ((".mha", ".nii.gz"), (".nrrd", ".mha"), (".nii", ".nrrd")):
        save(tmp_path / f"a{ending}", image(), False).rename(tmp_path / f"b{other}")
        assert read_volume(tmp_path / f"b{other}").raw.shape == (7, 6, 5)


def test_a_header_and_its_voxels_are_one_scan(tmp_path):
    for ending in ENDINGS:
        save(tmp_path / f"{ending[1:]}{ending}", image())
    assert [scan.name for scan in find_scans(tmp_path)] == ["mha", "mhd", "nhdr", "nrrd"]


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path):
    for ending in (".mha", ".nrrd"):
        whole = save(tmp_path / f"a{ending}", image((9, 20, 20))).read_bytes()
        for length in (len(whole) // 2, 40):
            (tmp_path / f"cut{ending}").write_bytes(whole[:length])
            refused(tmp_path / f"cut{ending}")
    for ending, others in ((".mhd", ".zraw"), (".nhdr", ".raw.gz")):
        path = save(tmp_path / f"b{ending}", image())
        (tmp_path / f"b{others}").unlink()
        refused(path, "voxels' file")
    refused(save(tmp_path / "flat.mha", SimpleITK.Image(4, 5, SimpleITK.sitkInt16)), "(4, 5)", "3D")
    coloured = SimpleITK.Image([4, 5, 6], SimpleITK.sitkVectorUInt8, 3)
    refused(save(tmp_path / "rgb.nrrd", coloured), "3 values a voxel")
    broken = image(dtype="float32")
    broken[1, 2, 3] = float("nan")
    refused(save(tmp_path / "nan.mha", broken), "1 NaN")


@pytest.mark.parametrize("ending, voxels", [(".mhd", "a.raw"), (".nhdr", "a.raw")])
def test_a_header_does_not_lead_out_of_its_folder(tmp_path, ending, voxels):
    """A file that was handed over must not have another one of this machine read as voxels."""
    (tmp_path / "set").mkdir()
    path = save(tmp_path / "set" / f"a{ending}", image(), packed=False)
    header = path.read_text()
    assert header.count(voxels) == 1
    (tmp_path / "set" / voxels).rename(tmp_path / "secret.raw")
    (tmp_path / "set" / "deep").mkdir()
    for place in ("../secret.raw", tmp_path / "secret.raw", "deep/../../secret.raw", "LIST\n../secret.raw"):
        for line_end in ("\n", "\r\n"):
            changed = header.replace(voxels, str(place)).replace("\n", line_end)
            path.write_bytes(changed.encode())
            refused(path, "secret.raw, outside of its folder")
    (tmp_path / "secret.raw").rename(tmp_path / "set" / "deep" / voxels)
    path.write_text(header.replace(voxels, f"deep/{voxels}"))
    assert read_volume(path).raw.shape == (7, 6, 5)


def test_a_failed_write_leaves_no_half_of_a_pair(tmp_path, monkeypatch):
    source = read_volume(save(tmp_path / "a.mhd", image()))
    target = tmp_path / "out" / "b.mhd"
    write_volume_like(source, source.values, source.raw > 0, target)
    before = {path.name: path.read_bytes() for path in target.parent.iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match=r"cannot write .*b\.mhd: No space left"):
        write_volume_like(source, source.values + 1, source.raw > 0, target)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in target.parent.iterdir()} == before
