"""What the inference command has painted, and what it refuses."""

import csv

import nibabel
import numpy as np

from LeFusion.runtime.commandline import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / "LeFusion" / "inference" / "inference.py"


REGION = ["diffusion_depth_size=8", "diffusion_img_size=16", "device=cpu", "preview_cases=1"]


CASES = ["N-0001", "N-0002", "N-0003"]


def manifest_of(folder):
    with open(folder / "Image" / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def volumes(content):
    """Of files by name: only the NIfTI files."""
    return {name: data for name, data in content.items() if name.endswith(".nii.gz")}


def raw(path):
    return np.asanyarray(nibabel.load(path).dataobj.get_unscaled())


def volumes_below(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".nii.gz")]
