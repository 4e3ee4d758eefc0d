"""The scan around a lesion: its noise, lung, walls and vessels. What is painted has to go with them.

A wall is thick bright tissue at which a lesion has no border of its own, such as the chest wall.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import (
    binary_dilation,
    binary_erosion,
    binary_opening,
    distance_transform_edt,
    gaussian_filter,
    label,
)
from torch import Tensor

from LeFusion.dataset.boxes import Box
from LeFusion.dataset.loading import LoadedCase
from LeFusion.dataset.parts import Part
from LeFusion.textures.noise import third_difference

REACH_MM = 20.0  # from the lesion's bounding box: how far its scan is looked at
GAP_MM = 5.0  # around the lesion, where the scan is not
QUIETEST = 0.4  # share of the tissue that noise is taken from: less of it is vessels and walls
LEAST_VOXELS = 500
LEAST_ROWS = 100  # of voxels, that a difference is taken from
RIM_MM, NEAR_MM = 2.0, 8.0  # from the lesion: where the tissue beside it begins and ends
DARKEST_RANK = 0.05  # in that tissue; 0.7 % of the border voxels of 77 training nodules are darker
# Network intensities above the darkest: what lung has at the most (vessels and walls have more), and what
# walls have at the least (560 HU, in a window of 1,400)
LUNG, WALL = 0.5, 0.8
WALL_VOXELS = 3  # thickness of a wall, at the least
VESSEL_VOXELS = 4  # thickness of a vessel, at the most
MOST_VESSELS = 0.2  # share of a lesion's place
BESIDE_MM = 3.0  # from a wall


@dataclass(frozen=True)
class Around:
    """The tissue around a lesion, in network intensities ([-1, 1]).

    Attributes:
        noise: sd of the scan's noise.
        darkest: quantile of rank DARKEST_RANK of the tissue beside the lesion, within NEAR_MM.
        rough: of depth, height and width, how large third differences of neighbouring voxels are, over the
            noise: small across slices that were thicker once. 0 along an axis where it is not known.
        lung: median of that tissue, as far as it is not brighter than the darkest by more than LUNG.
    """

    noise: float
    darkest: float
    rough: tuple[float, float, float]
    lung: float

    @property
    def wall_level(self) -> float:
        """Thick tissue that is brighter is a wall."""
        return self.darkest + WALL

    @property
    def grain(self) -> tuple[float, ...]:
        """(noise, rough along depth, height, width)."""
        return (self.noise, *self.rough)


def look_around(loaded: LoadedCase, part: Part) -> Around | None:
    """The tissue within REACH_MM of a part of a case; None where less than LEAST_VOXELS of it is seen.

    The image is the scan's own: what is painted does not change what is found. Voxels clamped to the window,
    such as air around the patient, are no tissue. The noise is the robust sd of the fine structure (what a
    Gaussian of one voxel takes off) in the quietest tissue. (The sd within the deep layers, 4 to 6 mm, of 27
    training nodules grows with it by a factor of 1.06, Theil-Sen, of squares.)
    """
    box = _box_around(loaded, part, REACH_MM)
    image = loaded.image(box)[0].double().numpy()
    lesions = part.lesions(box).any(dim=0).numpy()
    fine = image - gaussian_filter(image, 1.0)
    local = gaussian_filter(fine**2, 2.0)
    clamped = gaussian_filter((np.abs(image) >= 1 - 1e-6).astype(float), 2.0)
    away = distance_transform_edt(~lesions, sampling=loaded.spacing_mm)
    tissue = (away > GAP_MM) & (clamped < 0.5)
    if tissue.sum() < LEAST_VOXELS:
        return None
    quiet = tissue & (local <= np.quantile(local[tissue], QUIETEST))
    noise = 1.4826 * np.median(np.abs(fine[quiet]))  # of normal noise: its sd
    near = (away > RIM_MM) & (away <= NEAR_MM) & (clamped < 0.5)
    beside = image[near if near.any() else tissue]
    darkest = np.quantile(beside, DARKEST_RANK)
    lung = np.median(beside[beside <= darkest + LUNG])
    rough = [
        third_difference(image.swapaxes(0, axis), quiet.swapaxes(0, axis), LEAST_ROWS) for axis in range(3)
    ]
    return Around(
        float(noise), float(darkest), tuple(float(r / max(noise, 1e-6)) for r in rough), float(lung)
    )


def lesion_and_walls(
    loaded: LoadedCase, part: Part, around: Around | None, depth_mm: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A part, what is so many mm around it, and the walls there.

    around: of the part, see `look_around`; None: no walls are looked for. Returns the image (1, D, H, W), the
    lesions (K, D, H, W) bool and the walls (D, H, W) bool, see `walls_in`.
    """
    box = _box_around(loaded, part, depth_mm + max(loaded.spacing_mm))
    image, lesions = loaded.image(box), part.lesions(box)
    walls = torch.zeros_like(lesions[0]) if around is None else walls_in(image, lesions, around.wall_level)
    return image, lesions, walls


def walls_in(image: Tensor, lesions: Tensor, wall_level: float) -> Tensor:
    """Where walls are: tissue outside the lesions that is brighter than wall_level, as far as it is
    WALL_VOXELS thick. What a lesion itself brightens beside a tight mask is thinner.

    image: (1, D, H, W) in [-1, 1]. lesions: (K, D, H, W) bool. Returns (D, H, W) bool.
    """
    bright = ((image[0] > wall_level) & ~lesions.any(dim=0)).numpy()
    cube = np.ones((WALL_VOXELS,) * 3, bool)
    thick = binary_dilation(binary_erosion(bright, cube, border_value=1), cube)
    return torch.from_numpy(thick & bright)


def near_walls(walls: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Walls (D, H, W) bool -> the same and what is within BESIDE_MM of them, where a lesion joins the wall or
    does not, whatever the distance from its border."""
    if not bool(walls.any()):
        return walls
    return torch.from_numpy(distance_transform_edt(~walls.numpy(), sampling=spacing_mm) <= BESIDE_MM)


def vessels_in(image: Tensor, lesions: Tensor, painted: Tensor, wall_level: float) -> Tensor:
    """Where vessels are that run on outside of what is painted: brighter than lung (LUNG above the darkest),
    at most VESSEL_VOXELS thick.

    None where more than MOST_VESSELS of the lesions' place is as bright: there is a lesion already, to be
    painted over. (Under 77 training nodules it is 0.70 in the median, in healthy lung 0.16 at the most, in 56
    places.)

    image: (1, D, H, W) in [-1, 1]. lesions, painted: (K, D, H, W) bool. wall_level: see Around. Returns
    (D, H, W) bool.
    """
    bright = image[0].numpy() > wall_level - WALL + LUNG
    place, painted = lesions.any(dim=0).numpy(), painted.any(dim=0)
    if place.any() and bright[place].mean() > MOST_VESSELS:
        return torch.zeros_like(painted)
    wide = np.pad(bright, VESSEL_VOXELS, mode="edge")
    inner = (slice(VESSEL_VOXELS, -VESSEL_VOXELS),) * 3
    thin = bright & ~binary_opening(wide, _ball(VESSEL_VOXELS))[inner]
    parts, _ = label(thin, np.ones((3, 3, 3)))
    outside = np.unique(parts[~painted.numpy()])
    return torch.from_numpy(np.isin(parts, outside[outside > 0]))


def grown(mask: Tensor) -> Tensor:
    """A mask (D, H, W) bool and the voxels that touch it, also at an edge or a corner."""
    return torch.from_numpy(binary_dilation(mask.numpy(), np.ones((3, 3, 3), bool)))


def _ball(across: int) -> np.ndarray:
    """Bool: the voxels of a ball of so many and one more across."""
    axis = np.arange(across + 1) - across / 2
    return sum(one**2 for one in np.meshgrid(axis, axis, axis)) <= (across + 1) ** 2 / 4


def _box_around(loaded: LoadedCase, part: Part, reach_mm: float) -> Box:
    """The bounding box of a part and so many mm on each side, within the image."""
    reach = [round(reach_mm / mm) for mm in loaded.spacing_mm]
    return part.place.grown(reach).within(loaded.shape)
