"""Where in a scan lesions may be: the lung, found on a coarse grid."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from scipy import ndimage

from DiffMask.placement.lungs import block_mean
from DiffMask.placement.spheres import Diameter, LungScene, Placement, place_in_lung
from LeFusion.dataset.boxes import Box
from LeFusion.errors import UserError
from LeFusion.insertion.canvas import Canvas, Patch

COARSE_MM = 2.0  # largest voxel of the grid on which the lung is found
NEAR_MM = 2.0  # from the lung, at which a site still counts as in it


class Lung:
    """The lung of a scan and its large vessels, on voxels of at most COARSE_MM (or the scan's, where larger).

    Raises UserError where none is found.
    """

    def __init__(self, canvas: Canvas):
        self.factors = tuple(max(1, int(COARSE_MM / mm)) for mm in canvas.spacing_mm)
        depth, thick = canvas.shape[0], self.factors[0]
        slabs = [
            block_mean(
                canvas.values(Box((first, 0, 0), (min(thick, depth - first), *canvas.shape[1:]))),
                self.factors,
            )
            for first in range(0, depth, thick)
        ]
        self.spacing_mm = tuple(mm * n for mm, n in zip(canvas.spacing_mm, self.factors, strict=True))
        self.scene = LungScene(np.concatenate(slabs), self.spacing_mm)

    def place(
        self, generator: torch.Generator, diameter_mm: Diameter, taken: Sequence[Placement]
    ) -> Placement:
        """A sphere drawn in the lung, clear of those taken; see `place_in_lung`. Its centre is a voxel of the
        coarse grid: see `centre`."""
        return place_in_lung(self.scene, generator, diameter_mm, taken=taken)

    def centre(self, placement: Placement) -> tuple[float, float, float]:
        """The voxel of the scan (halves too) on which a sphere's centre lies."""
        return tuple((c + 0.5) * n - 0.5 for c, n in zip(placement.centre_dhw, self.factors, strict=True))

    def holds(self, centre_dhw: Sequence[float]) -> bool:
        """Whether a voxel of the scan lies in the lung, or within NEAR_MM of it."""
        index = tuple(int((c + 0.5) // n) for c, n in zip(centre_dhw, self.factors, strict=True))
        if any(not 0 <= i < n for i, n in zip(index, self._far.shape, strict=True)):
            return False
        return bool(self._far[index] <= NEAR_MM)

    @cached_property
    def _far(self) -> np.ndarray:
        """(D, H, W) float32: mm to the lung, on the coarse grid."""
        return ndimage.distance_transform_edt(~self.scene.lung, self.spacing_mm).astype(np.float32)

    def mask(self, patch: Patch) -> np.ndarray:
        """(*patch.shape) bool: the lung on the network's grid."""
        axes = []
        for start, n, m, factor in zip(
            patch.box.start, patch.box.size, patch.shape, self.factors, strict=True
        ):
            stored = (np.arange(m) + 0.5) * n / m - 0.5 + start
            axes.append((stored + 0.5) / factor - 0.5)
        places = np.stack(np.meshgrid(*axes, indexing="ij"))
        lung = self.scene.lung.astype(np.float32)
        return ndimage.map_coordinates(lung, places, order=1, mode="nearest") >= 0.5


def in_lung(lung: Lung, centre_dhw: Sequence[float], what: str) -> None:
    """Raises UserError, naming the site, where it lies outside the lung."""
    if not lung.holds(centre_dhw):
        raise UserError(f"{what} lies outside the lung; move it, or leave it out")
