"""A scan gets the same lesion whichever format holds it, through the command as a user calls it."""

import nibabel
import numpy as np
import pytest
import SimpleITK
from dicom_files import write_series

import LeFusion.inference.inference as inference
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import on_grid_of

SPACING = (0.7, 0.7, 1.1)  # which no binary fraction is equal to
ORIGIN = (-31.3, 12.1, -204.7)  # LPS
SHAPE = (12, 26, 28)  # slices, rows, columns
LESION = (slice(4, 7), slice(8, 14), slice(9, 15))
FORMATS = ("scan.nii.gz", "scan.nii", "scan.mha", "scan.mhd", "scan.nrrd", "scan")


def itk_image(array):
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    return image


def save(path, hu):
    """A scan at a path, whose ending says the format; DICOM without one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        SimpleITK.WriteImage(itk_image(hu), str(path))
    else:
        stored = (hu + 1000).astype(np.uint16)
        write_series(path, stored, inter=-1000, spacing=(*SPACING[:2], SPACING[2]), origin=ORIGIN)
    return path


@pytest.fixture
def paint(command, save_network, tmp_path):
    network = save_network(spacing_mm=None, edit_margin_mm=2.1)
    labels = np.zeros(SHAPE, np.uint8)
    labels[LESION] = 1
    (tmp_path / "masks").mkdir()
    SimpleITK.WriteImage(itk_image(labels), str(tmp_path / "masks" / "scan.nrrd"))

    def call(root, *overrides):
        out = tmp_path / "out"
        code, _, error = command(
            inference.main,
            "inference",
            "data_type=chest_ct",
            f"model_path={network}",
            f"dataset_root_dir={root}",
            f"mask_dir={tmp_path / 'masks'}",
            f"target_img_path={out}",
            f"target_label_path={out}",
            "diffusion_depth_size=8",
            "diffusion_img_size=32",
            "device=cpu",
            "num_steps=2",
            "types=1",
            *overrides,
        )
        return code, error.splitlines()[-1:], out

    return call


@pytest.mark.parametrize("spacing", ["null", "[1,1,1]"])
def test_the_format_changes_no_voxel(paint, tmp_path, monkeypatch, spacing):
    monkeypatch.setattr(inference, "save_preview", lambda path, *_: path)  # takes most of the time
    hu = np.random.default_rng(0).integers(-900, -700, SHAPE).astype(np.int16)
    reference = read_volume(save(tmp_path / "reference.nii.gz", hu))
    found = []
    for name in FORMATS:
        code, error, out = paint(save(tmp_path / name, hu), "overwrite=true", f"spacing_mm={spacing}")
        assert code == 0, error
        written = read_volume(out / "Image_1" / (name if "." in name else f"{name}.nii.gz"))
        found.append(on_grid_of(written, reference).values)
        label = read_volume(out / "Mask_1" / (name if "." in name else f"{name}.nii.gz"))
        np.testing.assert_array_equal(on_grid_of(label, reference).values.sum(), 3 * 6 * 6)
        for path in tmp_path.glob("scan*"):
            if path.is_file():
                path.unlink()
    assert 100 < np.count_nonzero(found[0] != reference.values) < 2000
    for name, other in zip(FORMATS[1:], found[1:], strict=True):
        np.testing.assert_array_equal(other, found[0], name)


def test_dicom_of_another_modality_is_one_line(paint, tmp_path):
    def mr(made, number):
        made.Modality = "MR"

    folder = write_series(
        tmp_path / "scan", np.zeros(SHAPE, np.uint16), spacing=SPACING, origin=ORIGIN, change=mr
    )
    code, error, out = paint(folder)
    assert code == 1 and f"{folder}: its modality is MR, but a CT is needed" in error[0]
    assert not list(out.rglob("*.nii.gz"))


def test_one_series_of_a_folder_is_painted_by_its_uid(paint, tmp_path):
    hu = np.random.default_rng(0).integers(-900, -700, SHAPE).astype(np.int16)
    stored = (hu + 1000).astype(np.uint16)
    for name in ("one", "two"):
        write_series(tmp_path / name, stored, inter=-1000, spacing=SPACING, origin=ORIGIN, series=name)
        for path in (tmp_path / name).iterdir():
            path.rename(save_folder(tmp_path) / f"{name} {path.name}")
    import pydicom

    uid = pydicom.dcmread(next((tmp_path / "exam").glob("two*"))).SeriesInstanceUID
    (tmp_path / "masks" / "scan.nrrd").rename(tmp_path / "masks" / "exam_series2.nrrd")
    code, error, out = paint(tmp_path / "exam" / uid)
    assert code == 0, error
    for _ in range(2):  # a second time what is there is kept
        assert paint(tmp_path / "exam" / uid)[0] == 0
    assert nibabel.load(out / "Image_1" / "exam_series2.nii.gz").shape == SHAPE[::-1]


def save_folder(root):
    (root / "exam").mkdir(exist_ok=True)
    return root / "exam"
