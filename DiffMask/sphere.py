"""The sphere that says where a lesion is and how large: what a lesion mask is made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The values (outside, inside) by which a network is shown a sphere. The released weights were trained on
# uint8 * 2 - 1, which wraps at 0.
RELEASED_SPHERE = (255.0, 1.0)
SIGNED_SPHERE = (-1.0, 1.0)
ENCODINGS = {"released": RELEASED_SPHERE, "signed": SIGNED_SPHERE}


@dataclass(frozen=True)
class Sphere:
    """centre: (depth, height, width) and radius, both in voxels; fractions are allowed."""

    centre: tuple[float, float, float]
    radius: float


def bounding_sphere(mask: np.ndarray | Tensor) -> Sphere:
    """The sphere of a mask (D, H, W), as the released networks were trained with it.

    Centre: the centroid; radius: the distance of the farthest voxel from it; then both are cut to whole
    numbers, so that the sphere can be up to a voxel too small. Raises ValueError for an empty mask.
    """
    voxels = np.argwhere(np.asarray(mask))
    if not len(voxels):
        raise ValueError("the mask is empty, so there is no sphere around it")
    centroid = voxels.mean(axis=0)
    radius = np.linalg.norm(voxels - centroid, axis=1).max()
    return Sphere(tuple(int(c) for c in centroid), int(radius))


def draw_sphere(sphere: Sphere, shape: Sequence[int]) -> Tensor:
    """The voxels (D, H, W) bool whose centres lie in the sphere; the sphere may overhang the volume.

    Raises ValueError when there are none.
    """
    offsets = [torch.arange(n, dtype=torch.float64) - c for n, c in zip(shape, sphere.centre, strict=True)]
    squared = sum(part.square() for part in torch.meshgrid(*offsets, indexing="ij"))
    inside = squared <= sphere.radius**2
    if not bool(inside.any()):
        raise ValueError(
            f"a sphere around {tuple(sphere.centre)} of radius {sphere.radius:g} holds no voxel of a volume "
            f"of {tuple(shape)}"
        )
    return inside


def encode_sphere(inside: Tensor, encoding: str) -> Tensor:
    """A drawn sphere, bool of any shape, as float32 in the values of an encoding of ENCODINGS."""
    if encoding not in ENCODINGS:
        raise ValueError(f"sphere={encoding!r} must be one of {', '.join(ENCODINGS)}")
    outside, within = ENCODINGS[encoding]
    return torch.where(inside, within, outside).float()


def sphere_encoding(metadata: dict[str, Any]) -> str:
    """The encoding that a checkpoint was trained with; the released ones do not say."""
    return metadata.get("sphere", "released")
