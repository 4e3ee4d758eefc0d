"""Images of any kind as volumes, and back: arrays, tensors, images of nibabel and SimpleITK, files."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.spatialimages import SpatialImage

from LeFusion.dataset.itk import affine_of
from LeFusion.dataset.nifti import label_header, nifti_bytes
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import Volume, refuse_not_finite
from LeFusion.errors import UserError


@dataclass(frozen=True)
class Given:
    """An image that was given: its volume, whether it says where its voxels lie, and back.

    volume: 3D, in the order of axes of a NIfTI file (x, y, z). like: other stored numbers of that shape and
    type -> the kind of thing that was given, with its geometry and metadata. labels: numbers of labels of
    that shape -> likewise, unscaled.
    """

    volume: Volume
    has_affine: bool
    like: Callable[[np.ndarray], Any]
    labels: Callable[[np.ndarray], Any]

    def at(self, affine: np.ndarray) -> "Given":
        """With this affine instead. Raises UserError for one that does not say where voxels lie."""
        return replace(self, volume=replace(self.volume, affine=np.asarray(affine, float)))


def given_image(image: Any, name: str) -> Given:
    """The volume of an image.

    Args:
        image: a NumPy array or a PyTorch tensor (MONAI's MetaTensor is one, its affine counts), (X, Y, Z) or
            (1, X, Y, Z); a nibabel or SimpleITK image; the path of a file (back comes a nibabel image).
        name: of the argument, for messages.

    Raises:
        UserError: naming the argument (or the file), for other things, shapes and types, and NaN.
    """
    if isinstance(image, str | os.PathLike):
        return _of_file(Path(image))
    if isinstance(image, np.ndarray):
        given = _of_array(image, name)
    elif isinstance(image, torch.Tensor):
        given = _of_tensor(image, name)
    elif isinstance(image, SpatialImage):
        given = _of_nibabel(image, name)
    elif type(image).__module__.partition(".")[0] == "SimpleITK":
        given = _of_simpleitk(image, name)
    else:
        raise UserError(
            f"{name}: is a {type(image).__name__}; give a NumPy array, a PyTorch tensor, a nibabel or "
            "SimpleITK image, or the path of a file"
        )
    refuse_not_finite(given.volume)
    return given


def placed(image: Given, mask: Given, affine: np.ndarray | None) -> tuple[Given, Given]:
    """Both with an affine, of which one that has none takes the other's."""
    if affine is not None:
        if image.has_affine:
            raise UserError("affine: is for arrays without one; this image says where its voxels lie")
        if np.shape(affine) != (4, 4):
            raise UserError(f"affine: has shape {np.shape(affine)}, not (4, 4)")
        image = image.at(affine)
    elif mask.has_affine and not image.has_affine:
        image = image.at(mask.volume.affine)
    return image, mask if mask.has_affine else mask.at(image.volume.affine)


def _volume(raw: np.ndarray, name: str, affine=None, slope=1.0, inter=0.0, header=None) -> Volume:
    if raw.ndim != 3 or not raw.size:
        raise UserError(f"{name}: has shape {raw.shape}; give one 3D volume, (X, Y, Z)")
    if raw.dtype.kind not in "iufb":
        raise UserError(f"{name}: has data type {raw.dtype}; give integers or floats")
    affine = np.eye(4) if affine is None else np.asarray(affine, float)
    return Volume(Path(name), raw, slope, inter, affine, header)


def _of_file(path: Path) -> Given:
    volume = read_volume(path)
    return Given(volume, True, lambda raw: _nifti_image(replace(volume, raw=raw)), partial(_labels, volume))


def _nifti_image(volume: Volume) -> SpatialImage:
    """In memory, with the header of its file."""
    kind = nibabel.Nifti2Image if isinstance(volume.header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    return kind.from_bytes(nifti_bytes(volume))


def _labels(volume: Volume, labels: np.ndarray) -> SpatialImage:
    """The label map beside a volume."""
    header = label_header(volume.header, labels.dtype)
    return _nifti_image(replace(volume, raw=labels, slope=1.0, inter=0.0, header=header))


def _of_array(image: np.ndarray, name: str) -> Given:
    def like(raw: np.ndarray) -> np.ndarray:
        return raw.reshape(image.shape)

    return Given(_volume(_one_channel(image), name), False, like, like)


def _of_tensor(image: torch.Tensor, name: str) -> Given:
    if image.layout != torch.strided or image.is_meta:
        raise UserError(f"{name}: is a tensor without voxels of its own, or sparse; give a dense one")
    affine = getattr(image, "affine", None)  # of MONAI's MetaTensor
    plain = image.detach().as_subclass(torch.Tensor).cpu()
    try:
        raw = _one_channel(plain.numpy())
    except TypeError:
        raise UserError(f"{name}: has data type {image.dtype}; give one that NumPy has") from None
    if affine is not None:
        affine = torch.as_tensor(affine, dtype=torch.float64).cpu().numpy()

    def like(raw: np.ndarray) -> torch.Tensor:
        values = torch.from_numpy(np.ascontiguousarray(raw)).reshape(image.shape)
        painted = image.detach().to(values.dtype, copy=True)  # with the metadata, if it has some
        painted.copy_(values)
        return painted

    return Given(_volume(raw, name, affine), affine is not None, like, like)


def _of_nibabel(image: SpatialImage, name: str) -> Given:
    stored: Any = image.dataobj
    slope, inter = 1.0, 0.0
    if hasattr(stored, "get_unscaled"):
        raw, slope, inter = np.asanyarray(stored.get_unscaled()), float(stored.slope), float(stored.inter)
    else:
        raw = np.asanyarray(stored)
    scaled = (slope, inter) != (1.0, 0.0)

    if image.affine is None or (scaled and not isinstance(image.header, nibabel.Nifti1Header)):
        raise UserError(f"{name}: a {type(image).__name__} has no affine or is scaled; convert it to NIfTI")
    header: Any = image.header.copy()
    if scaled:
        header.set_slope_inter(slope, inter)  # which nibabel takes out when it reads a file
    volume = _volume(raw, name, image.affine, slope, inter, header)

    def like(raw: Any) -> SpatialImage:
        if scaled:
            return _nifti_image(replace(volume, raw=raw))
        return type(image)(raw, image.affine, image.header, image.extra)

    return Given(volume, True, like, partial(_labels, volume))


def _of_simpleitk(image: Any, name: str) -> Given:
    import SimpleITK

    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise UserError(
            f"{name}: has {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} "
            "values a voxel; give one 3D volume"
        )
    raw = SimpleITK.GetArrayFromImage(image).transpose()  # from (z, y, x)

    def like(raw: np.ndarray) -> Any:
        painted = SimpleITK.GetImageFromArray(np.ascontiguousarray(raw.transpose()))
        painted.CopyInformation(image)
        for key in image.GetMetaDataKeys():
            painted.SetMetaData(key, image.GetMetaData(key))
        return painted

    return Given(_volume(raw, name, affine_of(image)), True, like, like)


def _one_channel(array: np.ndarray) -> np.ndarray:
    """(1, X, Y, Z) -> (X, Y, Z)."""
    return array[0] if array.ndim == 4 and len(array) == 1 else array
