"""The same scan, stored with its axes in any order, gets the same lesion at the same place."""

import nibabel
import numpy as np
import pytest

import LeFusion.inference.inference as inference

AFFINE = np.diag([0.8, 0.9, 2.0, 1.0])
AFFINE[:3, 3] = (-31.0, 12.0, -204.0)
SHAPE = (30, 28, 14)
LESION = (slice(9, 15), slice(8, 14), slice(4, 7))


@pytest.fixture
def paint(command, save_network, save_as, tmp_path):
    """-> paint(codes, mask_codes, *overrides): (exit code, stdout, stderr) of the command on one scan."""
    network = save_network(spacing_mm=None)
    scan = np.random.default_rng(0).integers(-900, -700, SHAPE).astype(np.int16)
    labels = np.zeros(SHAPE, np.uint8)
    labels[LESION] = 1

    def call(codes, mask_codes, *overrides, affine=AFFINE):
        root = tmp_path / codes
        save_as(codes, root / "Image" / "scan.nii.gz", scan, AFFINE)
        save_as(mask_codes, root / "Mask" / "scan.nii.gz", labels, affine)
        return command(
            inference.main,
            "inference",
            "data_type=chest_ct",
            f"model_path={network}",
            f"dataset_root_dir={root}",
            f"target_img_path={root / 'gen' / 'Image'}",
            f"target_label_path={root / 'gen' / 'Mask'}",
            "diffusion_depth_size=8",
            "diffusion_img_size=16",
            "device=cpu",
            "num_steps=2",
            "types=1",
            *overrides,
        )

    return call


def in_world(path):
    """The voxels of a file in the order R, A, S."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    assert np.allclose(image.affine, AFFINE)
    return np.asanyarray(image.dataobj)


def test_the_order_of_the_axes_changes_no_voxel(paint, tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "save_preview", lambda path, *_: path)  # takes most of the time
    found = []
    for codes, mask_codes in (("RAS", "RAS"), ("LPS", "LPS"), ("ASL", "ASL"), ("PIR", "PIR"), ("SAR", "LPI")):
        code, _, error = paint(codes, mask_codes)
        assert code == 0, error
        image = tmp_path / codes / "gen" / "Image" / "Image_1" / "scan.nii.gz"
        label = tmp_path / codes / "gen" / "Mask" / "Mask_1" / "scan.nii.gz"
        for path in (image, label):  # on the grid of the image, as it was stored
            assert "".join(nibabel.aff2axcodes(nibabel.load(path).affine)) == codes
        lesion = np.zeros(SHAPE, bool)
        lesion[LESION] = True
        source = in_world(tmp_path / codes / "Image" / "scan.nii.gz")
        found.append(in_world(image))
        assert np.array_equal(in_world(label) == 1, lesion)
        assert np.array_equal(found[-1][~lesion], source[~lesion])
        assert (found[-1] != source)[lesion].mean() > 0.9
    for other in found[1:]:
        assert np.array_equal(other, found[0])


def test_a_mask_that_lies_elsewhere_is_refused(paint):
    moved = AFFINE.copy()
    moved[0, 3] += 0.4
    code, _, error = paint("RAS", "LPS", affine=moved)
    assert code == 1 and "Mask/scan.nii.gz: its affine differs from that of" in error.splitlines()[-1]


def test_a_whole_ct_as_a_region_is_refused(command, save_network, tmp_path):
    scan, labels = np.full((40, 20, 30), -800, np.int16), np.zeros((40, 20, 30), np.uint8)
    labels[20:22, 5:8, 5:8] = 1
    for folder, array in (("Image", scan), ("Mask", labels)):
        (tmp_path / folder).mkdir()
        name = {"Image": "a_Vol_1.nii.gz", "Mask": "a_Mask_1.nii.gz"}[folder]
        nibabel.save(nibabel.Nifti1Image(array, np.diag([0.8, 0.8, 2, 1])), tmp_path / folder / name)
    code, _, error = command(
        inference.main,
        "inference",
        f"model_path={save_network()}",
        f"dataset_root_dir={tmp_path}",
        f"target_img_path={tmp_path / 'out'}",
        f"target_label_path={tmp_path / 'out'}",
        "diffusion_depth_size=8",
        "diffusion_img_size=16",
        "device=cpu",
        "num_steps=2",
    )
    assert code == 1 and "lie along axis 2, not 0 as with data_type=lidc; use data_type=chest_ct" in error
