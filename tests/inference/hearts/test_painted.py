"""Lesions of hearts that are painted: their own, on any grid, in any order of the axes."""

import nibabel
import numpy as np
import pytest
import torch
from painted_hearts import (
    AFFINE,
    NORMAL,
    SICK,
    TEXTURE,
    assert_measured,
    assert_painted,
    manifest_of,
    requested,
    save,
    shares_of_range,
    source,
    stored,
)
from refusals import assert_refused

import LeFusion.inference.inference as inference
from LeFusion.textures.histograms import lesion_histogram


def network_view(image, labels):
    """(1, H, W, D) in [-1, 1] and (2, H, W, D) bool: axes do not matter to histograms."""
    x = torch.from_numpy(shares_of_range(image) * 2 - 1).float()[None]
    return x, torch.from_numpy(np.stack([labels == 3, labels == 4]))


def test_own_lesions_are_repainted(paint, hearts, tmp_path):
    code, text, error = paint("Pathological", "condition=own", "types=2")
    assert code == 0, error
    assert "lesion mean, label 4" in text and "shares of the range" in text
    rows = manifest_of(tmp_path / "out")
    assert [(row["case"], row["type"]) for row in rows] == [(name, kind) for name in SICK for kind in "12"]
    for row in rows:
        now = assert_painted(hearts, tmp_path / "out", row["case"], row["type"])
        image, labels = source(hearts, row["case"])
        assert np.array_equal(now, labels)
        assert (row["donor"], row["texture"], row["lesions_from"]) == ("", "own", "")
        assert torch.allclose(requested(row), lesion_histogram(*network_view(image, labels)), atol=1e-4)
        assert_measured(hearts, tmp_path / "out", row)
    absent = [row for row in rows if row["lesion_mean_4"] == ""]
    assert {row["case"] for row in absent} == set(SICK[2:])
    assert all(not bool(requested(row)[16:].any()) for row in absent)


@pytest.mark.parametrize("codes, lent", [("LAS", "RAS"), ("RAS", "LAS"), ("ASR", "IPL"), ("SLP", "RAS")])
def test_the_order_of_the_axes_changes_no_voxel(
    paint, hearts, donors, tmp_path, save_as, monkeypatch, codes, lent
):
    """Heart and donor stored mirrored, upside down, or slices first: the same infarct in the world."""
    monkeypatch.setattr(inference, "save_preview", lambda path, *_: path)  # takes most of the time
    for folder in ("images", "labels"):
        for name in NORMAL[1:]:
            (hearts / "Normal" / folder / f"{name}.nii.gz").unlink()
    options = (donors, "condition=own", "types=1", f"donor={SICK[0]}")
    assert paint("Normal", *options)[0] == 0
    for name, order in ((NORMAL[0], codes), (SICK[0], lent)):
        for folder, array in zip(("images", "labels"), source(hearts, name), strict=True):
            kind = "Normal" if name in NORMAL else "Pathological"
            save_as(order, hearts / kind / folder / f"{name}.nii.gz", array, AFFINE)
    code, _, error = paint("Normal", *options, out="turned")
    assert code == 0, error
    for file in ("Image/Image_1", "Mask/Mask_1"):
        first, turned = (
            nibabel.load(tmp_path / out / file / f"{NORMAL[0]}.nii.gz") for out in ("out", "turned")
        )
        assert nibabel.aff2axcodes(turned.affine) == tuple(codes)
        first, turned = (nibabel.as_closest_canonical(image) for image in (first, turned))
        assert np.array_equal(first.dataobj, turned.dataobj) and np.allclose(first.affine, turned.affine)


def test_a_hot_voxel_does_not_change_what_is_painted(paint, hearts, tmp_path):
    """One spike at ten times the maximum, away from the heart, which stays as it is."""
    options = ("condition=own", "types=1")
    assert paint("Pathological", *options)[0] == 0
    for name in SICK:
        image, labels = source(hearts, name)
        image[1, 1, 1] = 10 * image.max()
        save(hearts / "Pathological", name, image, labels)
    code, _, error = paint("Pathological", *options, out="hot")
    assert code == 0, error
    for name in SICK:
        clean, hot = (
            stored(tmp_path / out / "Image" / "Image_1" / f"{name}.nii.gz") for out in ("out", "hot")
        )
        assert hot[1, 1, 1] == source(hearts, name)[0][1, 1, 1]
        hot[1, 1, 1] = clean[1, 1, 1]
        assert np.array_equal(clean, hot)


def test_weights_of_each_volumes_range_take_percentiles_too(paint, hearts, donors, tmp_path):
    """With the shipped textures, which were fitted on the range; but no fixed window."""
    options = (donors, "types=1")
    code, _, error = paint("Normal", *options, "window={percentiles: [0.5, 99.5]}")
    assert code == 0, error
    for name in NORMAL:
        image, painted = source(hearts, name)[0], stored(tmp_path / "out/Image/Image_1" / f"{name}.nii.gz")
        inside = painted[painted != image]
        low, high = np.percentile(image, (0.5, 99.5))
        assert inside.size and low - 0.5 <= inside.min() and inside.max() <= high + 0.5
    assert_refused(paint("Normal", *options, "window=[0,400]", out="fixed"), "needs window=minmax")


def test_a_network_with_clean_context_and_velocity(paint, hearts, donors, save_network, tmp_path):
    trained = {"data_type": "emidec", "window": "minmax", "context": "clean", "prediction": "velocity"}
    model = save_network("clean.safetensors", in_channels=5, out_channels=2, **trained)
    code, _, error = paint("Normal", donors, TEXTURE, "types=1", f"model_path={model}")
    assert code == 0, error
    for name in NORMAL:
        assert_painted(hearts, tmp_path / "out", name, "1")
    model = save_network("lost.safetensors", in_channels=2, **trained)
    assert_refused(
        paint("Normal", donors, f"model_path={model}"), "lost.safetensors", "2 input channels, not 5"
    )


@pytest.mark.parametrize("cases", ["Pathological", "Normal"])
def test_resampled_hearts_are_painted_on_the_stored_grid(paint, hearts, donors, tmp_path, cases):
    options = [TEXTURE, "types=1", "spacing_mm=[8,1,1]", "diffusion_img_size=40"]
    code, _, error = paint(cases, *options, *([donors] if cases == "Normal" else []))
    assert code == 0, error
    for name in NORMAL if cases == "Normal" else SICK:
        assert_painted(hearts, tmp_path / "out", name, "1")


@pytest.mark.parametrize("grid", [[], ["spacing_mm=[8,1,1]", "diffusion_img_size=40"]])
@pytest.mark.parametrize("cases", ["Pathological", "Normal"])
def test_two_classes_are_painted_with_a_rim(paint, hearts, donors, save_network, tmp_path, cases, grid):
    trained = {"data_type": "emidec", "window": "minmax", "context": "clean", "edit_margin_mm": 1.5}
    model = save_network("rim.safetensors", in_channels=5, out_channels=2, **trained)
    lender = [donors] if cases == "Normal" else []
    code, _, error = paint(
        cases, *lender, TEXTURE, "types=1", f"model_path={model}", "save_edit_mask=true", *grid
    )
    assert code == 0, error
    out, rims = tmp_path / "out", 0
    for row in manifest_of(out):
        image, labels = source(hearts, row["case"])
        painted, now = stored(row["image"]), stored(row["label"])
        edit = stored(out / "Image" / "Edit_1" / f"{row['case']}.nii.gz").astype(bool)
        rim = edit & (now < 3)
        assert np.array_equal(painted[~edit], image[~edit]) and edit[now >= 3].all()
        assert np.array_equal(now == 1, labels == 1) and np.array_equal(now >= 2, labels >= 2)
        assert (painted != image)[rim].mean() > 0.5
        assert (painted != image)[now >= 3].mean() > 0.8
        rims += rim.sum()
        assert float(row["max_abs_difference_rim"]) > 0 == float(row["max_abs_difference_outside"])
    assert rims > 0
