"""Lesion masks made without learning, which DiffMask has to beat: a sphere and a deformed ellipsoid.

Every mask is made from its diameter and a seed alone (an int or a sequence of ints, e.g. (seed, index)).
"""

import numpy as np

from DiffMask.shapes.features import sphere_directions, spherical_harmonics
from LeFusion.errors import UserError

SHAPE = (32, 64, 64)
AXIS_RATIO = (0.4, 0.95)  # range of two axes of the ellipsoid over the first, about that of LIDC nodules
NOISE = (0.05, 0.2)  # range of the noise's sd, a share of the radius
NOISE_DEGREES = (3, 10)  # its band: below is the ellipsoid, above are waves finer than voxels of 1 mm
DRAWS = 100  # of a figure that does not fit


def sphere(diameter_mm: float, seed, shape: tuple = SHAPE, spacing_mm=(1.0, 1.0, 1.0)) -> np.ndarray:
    """Return a sphere as bool mask (D, H, W). Its centre is drawn within a voxel of the middle.

    ValueError when it does not fit or holds no voxel.
    """
    rng = np.random.default_rng(seed)
    mask = _fill(diameter_mm, lambda directions: np.ones(len(directions)), rng, shape, spacing_mm)
    return _checked(mask, diameter_mm, shape, spacing_mm)


def deformed_ellipsoid(
    diameter_mm: float, seed, shape: tuple = SHAPE, spacing_mm=(1.0, 1.0, 1.0)
) -> np.ndarray:
    """Return an ellipsoid of random axes and turn, its radius disturbed by band-limited noise, as bool mask.

    The noise is a sum of spherical harmonics of NOISE_DEGREES whose sd falls as 1 / degree. A figure that
    does not fit into `shape` is drawn again; ValueError when none of DRAWS fits, or it holds no voxel.
    """
    rng = np.random.default_rng(seed)
    degrees = spherical_harmonics(np.eye(3), NOISE_DEGREES[1])[1]
    mask = None
    for _ in range(DRAWS):
        axes = np.array([1, *rng.uniform(*AXIS_RATIO, 2)])
        turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        weights = np.where(degrees >= NOISE_DEGREES[0], rng.standard_normal(len(degrees)), 0)
        weights /= np.maximum(degrees, 1)
        # By the addition theorem the mean square of the noise over the sphere is |weights|^2 / (4 pi).
        weights *= rng.uniform(*NOISE) * np.sqrt(4 * np.pi) / np.linalg.norm(weights)

        def radius(directions, axes=axes, turn=turn, weights=weights):
            ellipsoid = 1 / np.linalg.norm(directions @ turn / axes, axis=1)
            noise = spherical_harmonics(directions, NOISE_DEGREES[1])[0] @ weights
            return ellipsoid * np.maximum(1 + noise, 0.1)

        mask = _fill(diameter_mm, radius, rng, shape, spacing_mm)
        if mask is not None:
            break
    return _checked(mask, diameter_mm, shape, spacing_mm)


def _fill(
    diameter_mm: float, radius, rng: np.random.Generator, shape: tuple, spacing_mm
) -> np.ndarray | None:
    """Return the voxels within `radius` (a function of unit vectors), scaled to the volume of the diameter.

    None when the figure does not fit into `shape`.
    """
    # A figure with radius r has the volume 4/3 pi mean(r^3).
    directions = sphere_directions(1000)
    surface = radius(directions)
    scale = diameter_mm / 2 / np.cbrt((surface**3).mean())
    spacing_mm = np.array(spacing_mm)
    room = np.array(shape) + 2  # with a border, in which what does not fit shows
    middle = (room - 1) / 2 + rng.uniform(-0.5, 0.5, 3)
    if (np.abs(directions * (scale * surface)[:, None]) > (np.array(shape) + 1) / 2 * spacing_mm).any():
        return None
    reach = 1.2 * scale * surface.max()  # 1,000 directions may miss the very tip of a wave
    low = np.maximum(np.floor(middle - reach / spacing_mm), 0).astype(int)
    high = np.minimum(np.ceil(middle + reach / spacing_mm).astype(int) + 1, room)
    box = np.indices(high - low).reshape(3, -1).T + low
    way = (box - middle) * spacing_mm
    length = np.linalg.norm(way, axis=1)
    inside = length <= scale * radius(way / np.maximum(length, 1e-9)[:, None])
    mask = np.zeros(room, bool)
    mask[tuple(box[inside].T)] = True
    inner = mask[1:-1, 1:-1, 1:-1]
    return inner.copy() if inner.sum() == mask.sum() else None


def _checked(mask: np.ndarray | None, diameter_mm: float, shape: tuple, spacing_mm) -> np.ndarray:
    if mask is None:
        raise UserError(
            f"a mask of {diameter_mm} mm does not fit into {shape} voxels of {tuple(spacing_mm)} mm"
        )
    if not mask.any():
        raise UserError(f"a diameter of {diameter_mm} mm holds no voxel of {tuple(spacing_mm)} mm")
    return mask
