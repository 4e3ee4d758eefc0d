"""Scans, and what the inference command of DiffMask made of them."""

import csv

import nibabel
import numpy as np
from PIL import Image

HEART = "Case_DEMO-N03"  # the smallest


SHAPE = (24, 40, 44)


SCANS = ("N-1_CVol_1", "N-2_CVol_1")


# Turned and sheared, voxels of about 2 x 1.1 x 0.8 mm
OBLIQUE = np.array(
    [[0.1, 1.08, -0.1, -12.5], [-0.1, 0.12, 0.79, 31.0], [-2.0, 0.05, 0.1, 7.25], [0, 0, 0, 1]]
)


def lung_hu():
    """(D, H, W): a chest wall, and lung from column 10 on."""
    hu = np.random.default_rng(0).normal(40, 20, SHAPE)
    hu[:, :, 10:] -= 890
    return hu.astype(np.int16)


def write(path, array, affine=OBLIQUE):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, affine)
    image.header["descrip"] = b"a scan"
    nibabel.save(image, path)
    return path


def table(folder):
    with open(folder / "masks.csv", newline="") as file:
        return list(csv.DictReader(file))


def masks(content):
    """Of files by name: only the masks."""
    return {name: data for name, data in content.items() if name.endswith(".nii.gz")}


def stored(path):
    return np.asanyarray(nibabel.load(path).dataobj.get_unscaled())


def assert_picture(path, least_width, least_height):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and least_width <= image.width < 3000
        assert least_height <= image.height < 3000
        assert np.asarray(image.convert("L")).std() > 5
