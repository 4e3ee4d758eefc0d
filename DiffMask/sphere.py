"""What a lesion mask is made from: a sphere says where it is and how large, an ellipsoid in it how long."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from LeFusion.errors import UserError

# The values (outside, inside) by which a network is shown a sphere. The released weights were trained on
# uint8 * 2 - 1, which wraps at 0.
RELEASED_SPHERE = (255.0, 1.0)
SIGNED_SPHERE = (-1.0, 1.0)
ENCODINGS = {"released": RELEASED_SPHERE, "signed": SIGNED_SPHERE}
GUIDES = ("sphere", "ellipsoid")
BETWEEN = 0.0  # shown in the sphere but outside the ellipsoid


@dataclass(frozen=True)
class Sphere:
    """centre: (depth, height, width) and radius, both in voxels; fractions are allowed."""

    centre: tuple[float, float, float]
    radius: float


@dataclass(frozen=True)
class Ellipsoid:
    """centre: (depth, height, width) in voxels. matrix: (3, 3), the second moments of a lesion in voxels^2.

    The ellipsoid of these moments reaches sqrt(5 v) along an axis of variance v.
    """

    centre: tuple[float, float, float]
    matrix: np.ndarray


def bounding_sphere(mask: np.ndarray | Tensor) -> Sphere:
    """The sphere of a mask (D, H, W), as the released networks were trained with it.

    Centre: the centroid; radius: the distance of the farthest voxel from it; then both are cut to whole
    numbers, so that the sphere can be up to a voxel too small. Raises ValueError for an empty mask.
    """
    voxels = np.argwhere(np.asarray(mask))
    if not len(voxels):
        raise UserError("the mask is empty, so there is no sphere around it")
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
        raise UserError(
            f"a sphere around {tuple(sphere.centre)} of radius {sphere.radius:g} holds no voxel of a volume "
            f"of {tuple(shape)}"
        )
    return inside


def fitting_ellipsoid(mask: np.ndarray | Tensor) -> Ellipsoid:
    """The ellipsoid with the centroid and the second moments of a mask (D, H, W). ValueError when empty."""
    voxels = np.argwhere(np.asarray(mask)).astype(float)
    if not len(voxels):
        raise UserError("the mask is empty, so there is no ellipsoid like it")
    centre = voxels.mean(axis=0)
    moments = (voxels - centre).T @ (voxels - centre) / len(voxels) + np.eye(
        3
    ) / 12  # of cubes, not of points
    return Ellipsoid(tuple(centre.tolist()), moments)


def half_axes(ellipsoid: Ellipsoid) -> np.ndarray:
    """(3,) in voxels, the longest first."""
    return np.sqrt(5 * np.linalg.eigvalsh(ellipsoid.matrix)[::-1])


def drawn_axes(
    rows: Sequence[Sequence[float]], radius_mm: float, generator: torch.Generator, like: int = 40
) -> np.ndarray:
    """(3,) half axes in radii of the sphere: those of one of the `like` lesions of nearest radius.

    rows: radius in mm and half axes in radii, of training lesions (see MaskDataset.ellipsoids).
    """
    table = np.array(rows)
    nearest = np.argsort(np.abs(np.log(table[:, 0] / radius_mm)), kind="stable")[:like]
    return table[nearest[int(torch.randint(len(nearest), (), generator=generator))], 1:]


def drawn_ellipsoid(axes: Sequence[float], centre: Sequence[float], generator: torch.Generator) -> Ellipsoid:
    """An ellipsoid of these half axes in voxels, turned at random, its centre up to a voxel behind `centre`.

    So it lies to its sphere as in training, where the centre of a sphere is cut to whole numbers.
    """
    normal = torch.randn(3, 3, generator=generator, dtype=torch.float64).numpy()
    shift = torch.rand(3, generator=generator, dtype=torch.float64).numpy()
    turn, triangle = np.linalg.qr(normal)
    turn = turn * np.sign(np.diag(triangle))  # makes the turns uniform
    variances = np.square(np.asarray(axes, float)) / 5
    return Ellipsoid(tuple((np.asarray(centre) + shift).tolist()), (turn * variances) @ turn.T)


def draw_ellipsoid(ellipsoid: Ellipsoid, shape: Sequence[int]) -> Tensor:
    """The voxels (D, H, W) bool whose centres lie in the ellipsoid."""
    offsets = [torch.arange(n, dtype=torch.float64) - c for n, c in zip(shape, ellipsoid.centre, strict=True)]
    points = torch.stack(torch.meshgrid(*offsets, indexing="ij"), dim=-1)
    inverse = torch.from_numpy(np.linalg.inv(ellipsoid.matrix))
    return torch.einsum("...i,ij,...j->...", points, inverse, points) <= 5


def encode_guide(inside: Tensor, ellipsoid: Ellipsoid | None, encoding: str) -> Tensor:
    """What a network is shown, (D, H, W) float32: the sphere, and in it the ellipsoid where there is one."""
    shown = encode_sphere(inside, encoding)
    if ellipsoid is None:
        return shown
    return torch.where(inside & ~draw_ellipsoid(ellipsoid, inside.shape), BETWEEN, shown)


def encode_sphere(inside: Tensor, encoding: str) -> Tensor:
    """A drawn sphere, bool of any shape, as float32 in the values of an encoding of ENCODINGS."""
    if encoding not in ENCODINGS:
        raise UserError(f"sphere={encoding!r} must be one of {', '.join(ENCODINGS)}")
    outside, within = ENCODINGS[encoding]
    return torch.where(inside, within, outside).float()


def sphere_encoding(metadata: dict[str, Any]) -> str:
    """The encoding that a checkpoint was trained with; the released ones do not say."""
    return metadata.get("sphere", "released")
