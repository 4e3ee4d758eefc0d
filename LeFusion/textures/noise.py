"""The scan around a lesion, and histograms of a lesion as they would be in a scan with other noise.

A lesion's histogram holds the noise of its own scan. Painted as it is into a scan with a sharper kernel, the
lesion is too smooth for it; into one with a smoother kernel, too grainy.
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
    gaussian_filter1d,
    label,
)
from torch import Tensor

from LeFusion.dataset.boxes import Box
from LeFusion.dataset.loading import LoadedCase
from LeFusion.dataset.parts import Part
from LeFusion.textures.histograms import folded, refined

REACH_MM = 20.0  # from the lesion's bounding box: how far its scan is looked at
GAP_MM = 5.0  # around the lesion, where the scan is not
QUIETEST = 0.4  # share of the tissue that noise is taken from: less of it is vessels and walls
LEAST_VOXELS = 500
LEAST_ROWS = 100  # of voxels, that a difference is taken from
RIM_MM, NEAR_MM = 2.0, 8.0  # from the lesion: where the tissue beside it begins and ends
DARKEST = 0.05  # share of it; 0.7 % of the border voxels of 77 training nodules are darker
LUNG = 0.5  # network intensities: how much brighter than that lung may be; vessels and walls are more
BESIDE_MM = 3.0
THIN, MOST_VESSELS = 4, 0.2  # voxels: vessels are as thick at most; the share of a lesion's place
SOLID, WALL = 0.8, 3  # how much brighter than the darkest walls are, at the least; how many voxels thick
LEAST_SHARE = 0.25  # of a layer's spread, below which less noise does not narrow it


@dataclass(frozen=True)
class Around:
    """Of the tissue around a lesion, in network intensities: sd of the noise; within NEAR_MM the quantile of
    rank DARKEST, and lung: the median of what is not brighter than that by more than LUNG. rough: how large
    third differences of voxels are along each axis, over the noise: small across slices that were thicker."""

    noise: float
    darkest: float
    rough: tuple[float, float, float]
    lung: float

    @property
    def solid(self) -> float:
        """Brighter tissue is a wall: of 560 HU above the darkest, in a window of 1,400."""
        return self.darkest + SOLID

    @property
    def grain(self) -> tuple[float, ...]:
        """noise and rough, as a Wanted has them."""
        return (self.noise, *self.rough)


def look_around(loaded: LoadedCase, part: Part) -> Around | None:
    """The image of a case around a part; None where too little of it is seen.

    The noise is that of the fine structure (what a Gaussian of one voxel takes off) in the quietest tissue;
    robust. The sd within the deep layers (4 to 6 mm) of 27 training nodules grows with it by a factor of 1.06
    (Theil-Sen, of squares). Voxels clamped to the window, such as air around the patient, are no tissue. The
    image is the scan's own: what is painted does not change what is found.
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
    darkest = np.quantile(beside, DARKEST)
    lung = np.median(beside[beside <= darkest + LUNG])
    rough = [
        third_difference(image.swapaxes(0, axis), quiet.swapaxes(0, axis), LEAST_ROWS) for axis in range(3)
    ]
    return Around(
        float(noise), float(darkest), tuple(float(r / max(noise, 1e-6)) for r in rough), float(lung)
    )


def lesion_and_solid(
    loaded: LoadedCase, part: Part, around: Around | None, depth_mm: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A part and what is so many mm around it: image (1, D, H, W); lesions (K, D, H, W) bool; (D, H, W) bool,
    where beside them walls are, see solid_in."""
    box = _box_around(loaded, part, depth_mm + max(loaded.spacing_mm))
    image, lesions = loaded.image(box), part.lesions(box)
    solid = torch.zeros_like(lesions[0]) if around is None else solid_in(image, lesions, around.solid)
    return image, lesions, solid


def solid_in(image: Tensor, lesions: Tensor, solid: float) -> Tensor:
    """image (1, D, H, W), lesions (K, D, H, W) bool -> (D, H, W) bool: brighter tissue outside the lesions.

    As far as it is WALL voxels thick: what a lesion itself brightens beside a tight mask is thinner.
    """
    bright = ((image[0] > solid) & ~lesions.any(dim=0)).numpy()
    cube = np.ones((WALL,) * 3, bool)
    thick = binary_dilation(binary_erosion(bright, cube, border_value=1), cube)
    return torch.from_numpy(thick & bright)


def beside(solid: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """(D, H, W) bool -> the same, and what is within BESIDE_MM of it, where a lesion joins the wall or does
    not, whatever the distance from its border."""
    if not bool(solid.any()):
        return solid
    return torch.from_numpy(distance_transform_edt(~solid.numpy(), sampling=spacing_mm) <= BESIDE_MM)


def vessels_in(image: Tensor, lesions: Tensor, painted: Tensor, level: float) -> Tensor:
    """image (1, D, H, W), both masks (K, D, H, W) bool -> (D, H, W) bool: vessels that run on outside of what
    is painted.

    Brighter than lung (see look_around; level: of walls, see solid_in), at most THIN voxels thick. None where
    more than MOST_VESSELS of the lesions' place is as bright: there is a lesion already, to be painted over.
    (Under 77 training nodules it is 0.70 in the median, in healthy lung 0.16 at the most, in 56 places.)
    """
    bright = image[0].numpy() > level - SOLID + LUNG
    place, painted = lesions.any(dim=0).numpy(), painted.any(dim=0)
    if place.any() and bright[place].mean() > MOST_VESSELS:
        return torch.zeros_like(painted)
    thin = bright & ~binary_opening(np.pad(bright, THIN, mode="edge"), _ball(THIN))[(slice(THIN, -THIN),) * 3]
    parts, _ = label(thin, np.ones((3, 3, 3)))
    outside = np.unique(parts[~painted.numpy()])
    return torch.from_numpy(np.isin(parts, outside[outside > 0]))


def _ball(across: int) -> np.ndarray:
    """Bool: the voxels of a ball of so many and one more across."""
    axis = np.arange(across + 1) - across / 2
    return sum(one**2 for one in np.meshgrid(axis, axis, axis)) <= (across + 1) ** 2 / 4


def _box_around(loaded: LoadedCase, part: Part, reach_mm: float) -> Box:
    """The bounding box of a part and so many mm on each side, within the image."""
    spans = zip(part.place.start, part.place.end, loaded.spacing_mm, loaded.shape, strict=True)
    ends = [(max(0, a - round(reach_mm / mm)), min(n, b + round(reach_mm / mm))) for a, b, mm, n in spans]
    return Box(tuple(a for a, _ in ends), tuple(b - a for a, b in ends))


def third_difference(image: np.ndarray, tissue: np.ndarray, least: int) -> float:
    """Its sd along the first axis, robust, without a slow trend: of four voxels in a row of tissue, both
    (D, H, W); 0 of fewer than so many rows."""
    rows = tissue[:-3] & tissue[1:-2] & tissue[2:-1] & tissue[3:]
    values = (image[3:] - image[:-3] - 3 * (image[2:-1] - image[1:-2]))[rows]
    return float(1.4826 * np.median(np.abs(values))) if len(values) >= least else 0.0


def under_noise(layers: Tensor, of: float, wanted: float) -> Tensor:
    """Histograms (layers, bins) over [-1, 1] of a scan with noise of this sd as under another; same sums.

    More noise is added as independent of what is there: the histogram is convolved with a Gaussian whose
    variance is the difference. Less takes that variance from each layer by drawing it together about its
    median.
    """
    variance = wanted**2 - of**2
    if variance == 0:
        return layers
    bins = layers.shape[-1]
    found = torch.zeros_like(layers)
    for n, layer in enumerate(layers):
        total = float(layer.sum())
        if total == 0:
            continue
        fine = refined(layer).numpy()
        if variance > 0:
            fine = gaussian_filter1d(fine, variance**0.5 * len(fine) / 2, mode="reflect")
        else:
            fine = _narrowed(fine, -variance)
        found[n] = folded(torch.from_numpy(fine), bins) * (total / fine.sum())
    return found


def under_lung(layers: Tensor, of: float, wanted: float, water: float) -> Tensor:
    """Histograms (layers, bins) over [-1, 1] of a nodule beside lung of this intensity as beside other lung;
    same sums.

    What is darker than water (0 HU) holds air as the lung does, at the border because voxels are shared with
    it: its distance from water grows with the lung's. (Medians of 97 nodules rise with the lung's, Theil-Sen,
    by 1.6 [1.0, 2.2] in the first mm from the border, by 0.5 in the third, not in the core; air held in
    proportion gives 0.7, 0.0, 0.0.) water: in network intensities.
    """
    factor = (wanted - water) / (of - water)
    edges = np.linspace(-1, 1, layers.shape[-1] + 1)
    origin = np.where(edges < water, water + (edges - water) / factor, edges)
    below = np.pad(layers.double().numpy().cumsum(axis=1), ((0, 0), (1, 0)))
    moved = np.stack([np.interp(origin, edges, row) for row in below])
    moved[:, 0] = 0
    return torch.from_numpy(np.diff(moved)).to(layers.dtype)


def _narrowed(shares: np.ndarray, variance: float) -> np.ndarray:
    """Shares (bins,) of sum 1 over [-1, 1] with so much less variance, about their median.

    Their spread is that of the middle 68 %, so that a few voxels of another tissue do not count.
    """
    edges = np.linspace(-1, 1, len(shares) + 1)
    below = np.concatenate([[0.0], np.cumsum(shares)])
    low, median, high = np.interp((0.159, 0.5, 0.841), below, edges)
    spread = max((high - low) / 2, 1e-6)
    factor = max(1 - variance / spread**2, LEAST_SHARE**2) ** 0.5
    moved = np.interp(median + (edges - median) / factor, edges, below, left=0.0, right=1.0)
    return np.diff(moved).clip(min=0)
