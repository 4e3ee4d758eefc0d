"""Infarcts by the inference command."""

import nibabel
import numpy as np
import pytest
from made_masks import HEART, assert_picture, masks, stored, table
from refusals import assert_refused
from scipy import ndimage


def test_hearts_get_infarcts(infarcts, hearts, tmp_path, files):
    code, out, error = infarcts("masks_per_scan=2", "no_reflow_share=0.2", "transmurality=0.8")
    assert code == 0 and "1 scans: 2 masks to make" in out, error
    folder = tmp_path / "out"
    names = [f"{HEART}_GenMask_{number}" for number in (1, 2)]
    assert sorted(files(folder)) == sorted(
        [f"Mask/{name}.nii.gz" for name in names]
        + ["masks.csv", "preview.png", "surfaces.png", "viewer.html"]
    )
    source = nibabel.load(hearts / "images" / f"{HEART}.nii.gz")
    labels = stored(hearts / "labels" / f"{HEART}.nii.gz")
    voxel_ml = abs(np.linalg.det(source.affine[:3, :3])) / 1000
    for name, row in zip(names, table(folder), strict=True):
        mask = nibabel.load(folder / "Mask" / f"{name}.nii.gz")
        made = np.asanyarray(mask.dataobj)
        assert mask.get_data_dtype() == np.uint8 and np.array_equal(mask.affine, source.affine)
        lesion = made >= 3
        assert set(np.unique(made)) == {0, 1, 2, 3, 4} and np.array_equal(made[~lesion], labels[~lesion])
        assert (labels[lesion] == 2).all() and ndimage.label(lesion, np.ones((3, 3, 3)))[1] == 1
        assert row["mask"] == name and row["seed"] == "0" and row["transmurality"] == "0.8"
        assert float(row["infarct_ml"]) == pytest.approx(lesion.sum() * voxel_ml, rel=1e-3)
        assert float(row["no_reflow_ml"]) == pytest.approx((made == 4).sum() * voxel_ml, rel=1e-3)
        share = (made == 4).sum() / lesion.sum()
        assert float(row["no_reflow_share"]) == pytest.approx(share, rel=1e-3) and share <= 0.21
        assert float(row["infarct_share_of_wall"]) == pytest.approx(
            lesion.sum() / (labels == 2).sum(), rel=1e-3
        )
        assert row["septal_angle_deg"] and -180 <= float(row["angle_deg"]) <= 180
    assert_picture(folder / "preview.png", 500, 300)
    assert_picture(folder / "surfaces.png", 300, 150)


@pytest.mark.usefixtures("quick")
def test_infarcts_are_kept_and_made_again(infarcts, tmp_path, files, make):
    infarcts()
    before = files(tmp_path / "out")
    code, out, _ = infarcts("masks_per_scan=2")
    assert code == 0 and "1 masks to make, 1 kept" in out
    assert masks(before).items() < masks(files(tmp_path / "out")).items()
    assert_refused(make(), tmp_path / "out" / "masks.csv", "move it away")  # lungs into the same folder
    (name,) = masks(before)
    code, out, _ = infarcts("seed=1")
    assert "note: 1 of the kept masks" in out and files(tmp_path / "out")[name] == before[name]
    infarcts("seed=1", "overwrite=true")
    assert files(tmp_path / "out")[name] != before[name]


@pytest.mark.usefixtures("quick")
def test_infarcts_of_an_edited_heart_are_stale(infarcts, hearts):
    infarcts()
    path = hearts / "labels" / f"{HEART}.nii.gz"
    image = nibabel.load(path)
    labels = np.asanyarray(image.dataobj).copy()
    labels[tuple(np.argwhere(labels == 1)[0])] = 2
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)
    assert f"made again: {HEART}_GenMask_1\n" in infarcts()[1]
    assert "0 masks to make, 1 kept" in infarcts()[1]


@pytest.mark.usefixtures("quick")
def test_another_kind_of_infarct_is_noted(infarcts):
    infarcts("transmurality=0.5")
    code, out, error = infarcts("transmurality=0.9")
    assert code == 0 and "note: 1 of the kept masks" in out, error


@pytest.mark.parametrize(
    "override, texts",
    [
        ("angle_deg=left", ["angle_deg", "left"]),
        ("heights=0.5", ["heights", "0.5"]),
        ("transmurality=[0.1,0.2,0.3]", ["transmurality"]),
        ("no_reflow_share=1", ["no_reflow_share"]),
    ],
)
def test_a_bad_setting_of_hearts_is_refused_in_one_line(infarcts, tmp_path, override, texts):
    assert_refused(infarcts(override), *texts)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick")
def test_a_heart_with_lesions_is_refused(infarcts, hearts, tmp_path):
    path = hearts / "labels" / f"{HEART}.nii.gz"
    image = nibabel.load(path)
    labels = np.asanyarray(image.dataobj).copy()
    labels[labels == 2] = 3
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)
    assert_refused(infarcts(), path, "lesions already", "skip_bad_cases=true")
    assert_refused(infarcts("skip_bad_cases=true"), "no usable scan", path)
