"""Small hearts, and what was painted in them."""

import csv

import nibabel
import numpy as np
import pytest
import scipy.ndimage
import torch

# Turned and sheared, so that an exchange of axes shows.
AFFINE = np.array([[1.4, 0.2, 0.1, -12], [-0.2, 1.4, 0.3, 31], [0.0, -0.1, 8.0, 7], [0, 0, 0, 1]])


NORMAL, SICK = ("Case_N001", "Case_N002", "Case_N003"), ("Case_P001", "Case_P002", "Case_P003", "Case_P004")


TEST_CASE = "Case_P004"


# A bin for each class: infarct in bin 10, no-reflow in bin 3
TEXTURE = "textures=[[0,0,0,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0,0,0,0,0]]"


def save(folder, name, image, labels):
    for kind, array in (("images", image), ("labels", labels)):
        path = folder / kind / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)


def manifest_of(folder):
    with open(folder / "Image" / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def stored(path):
    return np.asanyarray(nibabel.load(path).dataobj.get_unscaled())


def source(hearts, name):
    """Image and labels (H, W, D) as stored."""
    folder = hearts / ("Normal" if "_N" in name else "Pathological")
    return [stored(folder / kind / f"{name}.nii.gz") for kind in ("images", "labels")]


def shares_of_range(image):
    return (image.astype(float) - image.min()) / (float(image.max()) - float(image.min()))


def requested(row):
    return torch.tensor([float(share) for share in row["requested_histogram"].split()])


def assert_painted(hearts, out, name, kind):
    """What holds for every output; -> its labels as stored."""
    image, labels = source(hearts, name)
    written = nibabel.load(out / "Image" / f"Image_{kind}" / f"{name}.nii.gz")
    mask = nibabel.load(out / "Mask" / f"Mask_{kind}" / f"{name}.nii.gz")
    painted, now = stored(written.get_filename()), stored(mask.get_filename())
    first = out / "Mask" / "Mask_1" / f"{name}.nii.gz"
    assert first.read_bytes() == (out / "Mask" / f"Mask_{kind}" / f"{name}.nii.gz").read_bytes()
    assert np.array_equal(written.affine, mask.affine) and np.allclose(mask.affine, AFFINE)
    assert painted.dtype == image.dtype and painted.shape == now.shape == image.shape
    lesion = now >= 3
    assert lesion.any() and np.array_equal(painted[~lesion], image[~lesion])
    assert (painted[lesion] != image[lesion]).mean() > 0.8
    assert painted[lesion].min() >= image.min() and painted[lesion].max() <= image.max()
    assert np.array_equal(now == 1, labels == 1) and np.array_equal(now >= 2, labels >= 2)
    return now


def assert_measured(hearts, out, row):
    """Means and deviations of a row against the files, in shares of the source's range."""
    image = source(hearts, row["case"])[0]
    low, span = float(image.min()), float(image.max()) - float(image.min())
    painted, labels = stored(row["image"]), stored(row["label"])
    assert row["unit"] == "" and float(row["max_abs_difference_outside"]) == 0
    for suffix, where in (("", labels >= 3), ("_3", labels == 3), ("_4", labels == 4)):
        for of, values in (("lesion", painted), ("source", image)):
            inside = (values[where].astype(float) - low) / span
            cells = row[f"{of}_mean{suffix}"], row[f"{of}_sd{suffix}"]
            if inside.size:
                assert [float(cell) for cell in cells] == pytest.approx(
                    [inside.mean(), inside.std()], abs=1e-4
                )
            else:
                assert cells == ("", "")


def tissue(image, labels):
    """(level, unit) of LeFusion.hearts.tissue, in shares of the range."""
    values = shares_of_range(image)
    far = [scipy.ndimage.distance_transform_edt(labels[..., z] < 3) for z in range(labels.shape[2])]
    lesion = np.array([(labels[..., z] >= 3).any() for z in range(labels.shape[2])])
    remote = (labels == 2) & ((np.stack(far, axis=-1) > 3.5) | ~lesion)
    wall = [scipy.ndimage.distance_transform_edt(labels[..., z] < 2) for z in range(labels.shape[2])]
    blood = (labels == 1) & (np.stack(wall, axis=-1) > 1.5)
    level = np.median(values[remote])
    return level, np.sqrt((np.median(values[blood]) - level) * values[remote].std())
