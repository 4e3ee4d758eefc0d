"""Smooth random fields, and files written at once."""

import gzip
import io
import os
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.image import imsave
from scipy import ndimage


def smooth_noise(rng: np.random.Generator, shape: tuple, scale) -> np.ndarray:
    """Return a Gaussian random field: mean 0, sd 1, correlated over `scale` voxels (one, or one an axis)."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), scale, mode="wrap")
    return (field - field.mean()) / field.std()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file at once: into a temporary one beside it, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)


def write_volume(path: Path, array: np.ndarray, affine: np.ndarray, description: str = "") -> None:
    """Write a NIfTI file; without a time stamp, so that the same voxels give the same bytes."""
    volume = nib.Nifti1Image(array, affine)
    volume.header.set_xyzt_units("mm")
    volume.header["descrip"] = description
    write_bytes(path, gzip.compress(volume.to_bytes(), 9, mtime=0))


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a PNG of an array (rows, columns, 3) in 0..1; the same array gives the same bytes."""
    buffer = io.BytesIO()
    imsave(buffer, picture, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
