"""Which scans a run of DiffMask has, and what it refuses of them."""

import numpy as np
import pytest
from planned import CT, lung_hu, refused, save

from DiffMask.inference.plan import find_scans

# Stored (x, y, z): x and y flipped, z first slice at the feet, all shifted
OBLIQUE_LAST = np.array([[0.7, 0.2, 0.1, -9], [-0.2, 0.7, 0.1, 3], [0, -0.1, 2.5, 7], [0, 0, 0, 1]])


def test_scans_are_a_folder_one_that_holds_images_or_one_file(scans, settings):
    found = find_scans(settings(scans))
    assert [(scan.name, scan.path, scan.mask_path) for scan in found] == [
        ("A", scans / "A.nii.gz", None),
        ("B", scans / "sub" / "B.nii.gz", None),
    ]
    assert find_scans(settings(scans / "sub" / "B.nii.gz")) == found[1:]
    images = scans.parent / "Image"
    scans.rename(images)
    save(images.parent / "Mask" / "A.nii.gz", lung_hu())  # no scan
    assert [scan.path for scan in find_scans(settings(images.parent))] == [
        images / "A.nii.gz",
        images / "sub" / "B.nii.gz",
    ]


def test_no_scans_are_refused(tmp_path, settings, scans):
    with refused(FileNotFoundError, tmp_path / "nowhere", "dataset_root_dir"):
        find_scans(settings(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with refused(FileNotFoundError, tmp_path / "empty"):
        find_scans(settings(tmp_path / "empty"))
    save(scans / "other" / "A.nii.gz", lung_hu())
    with refused(ValueError, "'A'"):
        find_scans(settings(scans))


def test_masks_of_a_data_set_are_no_scans(tmp_path, settings):
    for folder in ("Image", "Mask"):
        save(tmp_path / "LIDC" / "Normal" / folder / f"A_{folder}_1.nii.gz", lung_hu())
    data_set = tmp_path / "LIDC" / "Normal"
    for given in (tmp_path, tmp_path / "LIDC", data_set / "Mask", data_set / "Mask" / "A_Mask_1.nii.gz"):
        with refused(ValueError, f"dataset_root_dir={given}", "is a mask", f"{data_set / 'Image'}"):
            find_scans(settings(given))
    assert len(find_scans(settings(data_set))) == len(find_scans(settings(data_set / "Image"))) == 1


@pytest.mark.parametrize(
    "shape, affine, fits",
    [
        ((100, 90, 60), np.diag([-1.0, -1, 1, 1]), False),  # a whole CT, slices last
        ((100, 90, 60), OBLIQUE_LAST, False),
        ((100, 90, 60), np.array([[0, 0, 1.0, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]]), True),
        ((32, 64, 64), np.diag([-1.0, -1, 1, 1]), True),  # a region of LIDC, whose affine is no help
        ((48, 80, 70), np.diag([-1.0, -1, 1, 1]), True),
        ((100, 80, 80), np.diag([-1.0, -1, 1, 1]), True),  # depth first with such an affine
    ],
)
def test_a_whole_ct_with_the_data_type_of_regions_is_refused(tmp_path, plan, shape, affine, fits):
    hu = np.full(shape, 40, np.int16)
    hu[3:-3, 8:-8, 8:-8] = -850
    path = save(tmp_path / "ct.nii.gz", hu, affine)
    if fits:
        assert plan(path, diameter_mm=6, border_mm=[0, 30])
    else:
        with refused(ValueError, path, "lie along axis 2", "data_type=lidc", "data_type=chest_ct"):
            plan(path)
        assert plan(path, CT, diameter_mm=6, border_mm=[0, 30])
