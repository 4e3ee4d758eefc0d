"""Masks that were made for images, several of one, or in a folder of their own."""

import nibabel
import numpy as np
import pytest
from painted_regions import CASES, manifest_of, raw, volumes
from refusals import assert_refused


@pytest.fixture
def made_masks(lidc, tmp_path):
    """Masks as DiffMask writes them: two for the first image, one for the second, none for the third."""
    for case, start, number in (
        (CASES[0], (1, 2, 3), 1),
        (CASES[0], (4, 9, 11), 2),
        (CASES[1], (3, 8, 9), 1),
    ):
        source = nibabel.load(lidc / "Normal" / "Image" / case / f"{case}_CVol_2.nii.gz")
        mask = np.zeros(source.shape, np.uint8)
        mask[tuple(slice(s, s + 3) for s in start)] = 1
        path = tmp_path / "made" / f"{case}_CVol_2_GenMask_{number}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(mask, source.affine), path)
    return tmp_path / "made"


def test_an_image_is_painted_under_each_mask_made_for_it(paint, lidc, made_masks, tmp_path, files):
    code, out, error = paint(f"mask_dir={made_masks}", "types=2", "skip_bad_cases=true")
    assert code == 0 and "3 cases x 2 types: 6 to paint" in out, error
    assert "1 cases skipped" in out and CASES[2] in out
    stems = [(CASES[0], 1), (CASES[0], 2), (CASES[1], 1)]
    assert sorted(volumes(files(tmp_path / "out"))) == sorted(
        [f"Image/Image_{k}/{c}_CVol_2_GenMask_{n}.nii.gz" for k in (1, 2) for c, n in stems]
        + [f"Mask/Mask_{k}/{c}_Mask_2_GenMask_{n}.nii.gz" for k in (1, 2) for c, n in stems]
    )
    for case, number in stems:
        source = raw(lidc / "Normal" / "Image" / case / f"{case}_CVol_2.nii.gz")
        lesion = raw(made_masks / f"{case}_CVol_2_GenMask_{number}.nii.gz") == 1
        for kind in (1, 2):
            folder = tmp_path / "out" / "Image" / f"Image_{kind}"
            painted = raw(folder / f"{case}_CVol_2_GenMask_{number}.nii.gz")
            assert np.array_equal(painted[~lesion], source[~lesion])
            assert (painted[lesion] != source[lesion]).mean() > 0.8
            folder = tmp_path / "out" / "Mask" / f"Mask_{kind}"
            label = raw(folder / f"{case}_Mask_2_GenMask_{number}.nii.gz")
            assert np.array_equal(label == 1, lesion)
    requested = {row["case"]: row["requested_histogram"] for row in manifest_of(tmp_path / "out")}
    assert len(requested) == 3 and len(set(requested.values())) == 3  # each its own draw
    code, out, _ = paint(f"mask_dir={made_masks}", "types=2", "skip_bad_cases=true")
    assert code == 0 and "0 to paint, 6 kept" in out and "note:" not in out


def test_one_image_is_painted_with_a_folder_of_masks(paint, lidc, made_masks, tmp_path, files):
    image = lidc / "Normal" / "Image" / CASES[1] / f"{CASES[1]}_CVol_2.nii.gz"
    code, _, error = paint(f"mask_dir={made_masks}", f"dataset_root_dir={image}", "types=1")
    assert code == 0, error
    alone = volumes(files(tmp_path / "out"))
    assert sorted(alone) == [
        f"Image/Image_1/{CASES[1]}_CVol_2_GenMask_1.nii.gz",
        f"Mask/Mask_1/{CASES[1]}_Mask_2_GenMask_1.nii.gz",
    ]
    paint(f"mask_dir={made_masks}", "types=1", "skip_bad_cases=true", out="all")
    assert alone.items() < volumes(files(tmp_path / "all")).items()  # the same voxels among others


def test_masks_elsewhere_give_what_they_give_beside_the_images(paint, lidc, tmp_path, files):
    paint("types=1")
    (lidc / "Normal" / "Mask").rename(tmp_path / "elsewhere")
    assert_refused(paint("types=1", out="none"), lidc / "Normal" / "Mask")
    code, _, error = paint("types=1", f"mask_dir={tmp_path / 'elsewhere'}", out="other")
    assert code == 0, error
    assert volumes(files(tmp_path / "other")) == volumes(files(tmp_path / "out"))


def test_a_missing_folder_of_masks_is_refused(paint, made_masks, tmp_path):
    assert_refused(paint(f"mask_dir={tmp_path / 'nowhere'}"), tmp_path / "nowhere", "no such folder")
    assert_refused(paint(f"mask_dir={made_masks}"), CASES[2], "missing")
    assert not (tmp_path / "out").exists()
