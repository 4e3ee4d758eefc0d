"""The networks, loaded once, and what they do for a request: a region, and a mask or a point in it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage

from DiffMask.inference.masks import ShapeMaker
from DiffMask.placement.spheres import draw_diameter
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.boxes import Box, Size
from LeFusion.dataset.grid import grid_shape
from LeFusion.dataset.volume import Volume
from LeFusion.diffusion import addressed_generator
from LeFusion.errors import UserError
from LeFusion.insertion.canvas import Patch
from LeFusion.insertion.shapes import Wanted, make_shapes
from LeFusion.painter import Painter

LEAST_MM, MOST_MM = 3.0, 28.0  # longest axial diameters of lesions that are made
TRIES = 4  # masks that are drawn until one has the diameter
SHARE_OF_MASK = 0.15  # of the time that a lesion takes


@dataclass(frozen=True, eq=False)
class Region:
    """A part of a scan in which a lesion is painted.

    image: (I, J, K), in HU. affine: (4, 4), its index to RAS mm. mask: (I, J, K), above 0 where the lesion
    is; or None, and one is made around `centre`, an index of the region. diameter_mm: its longest axial
    diameter, None: drawn, as real nodules.
    """

    image: np.ndarray
    affine: np.ndarray
    mask: np.ndarray | None = None
    centre: tuple[float, float, float] | None = None
    diameter_mm: float | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], diameter_mm: float | None, most_voxels: int) -> "Region":
        """From `image`, `affine`, and `mask` or `centre`. Raises UserError, naming the array, for others."""
        if "image" not in arrays or "affine" not in arrays or ("mask" in arrays) == ("centre" in arrays):
            raise UserError("send the arrays image, affine, and either mask or centre")
        image, affine, mask, centre = (arrays.get(name) for name in ("image", "affine", "mask", "centre"))
        check_image("image", image, most_voxels)
        if affine.shape != (4, 4) or not np.isfinite(affine.astype(float)).all():
            raise UserError(
                f"array 'affine' has shape {affine.shape}; send (4, 4) finite numbers, IJK to RAS"
            )
        if not abs(np.linalg.det(affine[:3, :3].astype(float))) > 0:
            raise UserError("array 'affine' gives a voxel no size; send IJK to RAS, in mm")
        if mask is not None:
            if mask.shape != image.shape:
                raise UserError(f"array 'mask' has shape {mask.shape}, the image {image.shape}")
            if diameter_mm is not None:
                raise UserError("diameter_mm is for a lesion around a centre; leave it out with a mask")
            if not np.isin(mask, (0, 1)).all() or not mask.any():
                raise UserError("array 'mask' must hold 0 and 1, and 1 somewhere: the lesion")
            mask = mask.astype(np.uint8)
        else:
            if centre.shape != (3,) or not np.isfinite(centre.astype(float)).all():
                raise UserError(
                    f"array 'centre' has shape {centre.shape}; send an index (i, j, k) of the image"
                )
            if not all(0 <= c <= n - 1 for c, n in zip(centre, image.shape, strict=True)):
                raise UserError(f"centre {centre.tolist()} lies outside the image of {image.shape}")
            centre = tuple(map(float, centre))
        return cls(image, affine.astype(float), mask, centre, diameter_mm)


def check_image(name: str, image: np.ndarray, most_voxels: int) -> None:
    """Raises UserError for what is no region of a scan."""
    if image.ndim != 3 or min(image.shape) < 4:
        raise UserError(f"array {name!r} has shape {image.shape}; send 3 axes of at least 4 voxels")
    if image.size > most_voxels:
        raise UserError(
            f"array {name!r} has {image.size} voxels, more than {most_voxels}; send the region around the "
            "lesion only"
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise UserError(f"array {name!r} holds NaN or infinite values")


class Engine:
    """Paints regions, one at a time. Masks are made by `maker`."""

    def __init__(self, painter: Painter, maker: ShapeMaker):
        self.painter, self.maker = painter, maker

    @property
    def textures(self) -> tuple[str, ...]:
        """What a request may ask for, first what it gets where it names none."""
        return tuple(dict.fromkeys((self.painter.default_texture, "mixture", *self.painter.textures)))

    @property
    def device(self) -> str:
        return str(self.painter.device)

    def paint(
        self,
        region: Region,
        texture: str | int | None,
        seed: int,
        advance: Callable[[float], None],
        jump: tuple[int, int] | None = None,
    ) -> dict[str, np.ndarray]:
        """-> image, of the type of the region's, with the lesion in it; mask, uint8.

        advance: is told the share that is done, before each call of a network; what it raises ends the work.
        jump: (jump_length, jump_n_sample) of RePaint's resampling.
        """
        mask = region.mask
        if mask is None:
            with _counted(self.maker.network, self.maker.given.num_steps or 1, 0.0, SHARE_OF_MASK, advance):
                mask = self.make_mask(region, seed)
        painter = self.painter
        if jump is not None:
            sampler = replace(painter.sampler, jump_length=jump[0], jump_n_sample=jump[1])
            painter = replace(painter, sampler=sampler)
        lesions = ndimage.label(mask, np.ones((3, 3, 3)))[1]
        calls = lesions * painter.sampler.network_calls(painter.schedule)
        with _counted(painter.network, calls, 0.0 if mask is region.mask else SHARE_OF_MASK, 1.0, advance):
            painted = painter.paint(region.image, mask, texture, seed, affine=region.affine)
        return {"image": painted, "mask": mask}

    def make_mask(self, region: Region, seed: int) -> np.ndarray:
        """A lesion around the region's centre, (I, J, K) uint8."""
        layout = self.painter.settings.layout
        volume = Volume(None, region.image, 1.0, 0.0, region.affine, None)
        axes = Axes.of(volume, layout)
        shape, spacing_mm = axes.to_dhw(region.image).shape, axes.spacing_mm(volume)
        asked_mm = region.diameter_mm
        sphere_mm = asked_mm or self._drawn_mm(shape, spacing_mm, seed)
        network_mm = self.painter.settings.spacing_mm or spacing_mm
        patch = Patch(Box((0, 0, 0), shape), grid_shape(shape, spacing_mm, network_mm), spacing_mm)
        centre = axes.dhw_index(region.centre, shape)
        wanted = Wanted("the lesion", f"seed {seed}", 1, centre, sphere_mm, asked_mm, None, patch)
        (made,) = make_shapes([wanted], self.maker, Everywhere(), spacing_mm, TRIES, self.painter.size)
        return np.ascontiguousarray(axes.to_stored(made.label.astype(np.uint8)))

    def _drawn_mm(self, shape: Size, spacing_mm: Sequence[float], seed: int) -> float:
        """As real nodules, but no larger than the region has room for."""
        generator = addressed_generator(seed, "diameter")
        room = 0.6 * min(n * mm for n, mm in zip(shape, spacing_mm, strict=True))
        return draw_diameter(generator, most_mm=min(MOST_MM, max(room, LEAST_MM)))


class Everywhere:
    """Instead of a lung: lesions may lie anywhere in a region."""

    def mask(self, patch: Patch) -> np.ndarray:
        return np.ones(patch.shape, bool)


@contextmanager
def _counted(
    network: torch.nn.Module, calls: int, start: float, end: float, advance: Callable[[float], None]
) -> Iterator[None]:
    """Tells `advance` how many of `calls` of a network are done, as a share from start to end."""
    done = 0

    def before(*_) -> None:
        nonlocal done
        advance(start + (end - start) * min(done / calls, 0.99))
        done += 1

    handle = network.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()
