"""What is mended in a box once the network has painted it: what would give the painting away."""

import torch
from scipy.ndimage import (
    gaussian_filter,
    maximum_filter,
    median_filter,
    minimum_filter,
)
from torch import Tensor

from LeFusion.guidance import as_the_scan
from LeFusion.ordering import SMOOTH
from LeFusion.prepared import Prepared
from LeFusion.textures.layers import brightest_of
from LeFusion.textures.noise import BESIDE

# How far a voxel may be from all six beside it, times the scan's noise; in real nodules the farthest is, in
# the median, 0.5 darker and 1.3 brighter
DARKER, BRIGHTER = 1.0, 3.0
ALIKE = 2.0  # voxels: sd of the Gaussian within which the fine structure of two images is compared


def mended(painted: Tensor, prepared: Prepared, strength: float = 1.0) -> Tensor:
    """What was painted, after each of the repairs below that the box has the means for.

    painted: (1, D, H, W) in [-1, 1], the scan outside of prepared.edit. strength: of intensity guidance, 0 to
    1. Returns (1, D, H, W), new inside prepared.edit and in prepared.seam only.
    """
    guided = prepared.guide is not None and strength > 0
    if guided:
        painted = as_the_scan(painted, prepared.guide, strength)
    for mend in (_joined_to_walls, _faded, _without_dark_specks, _without_bright_specks):
        painted = mend(painted, prepared)
    if guided:
        painted = _without_dots(painted, prepared)
    return _with_vessels(painted, prepared)


def _joined_to_walls(painted: Tensor, prepared: Prepared) -> Tensor:
    """Without a dark line between a lesion and the wall that it lies at.

    The wall's outermost voxels, which the scan shares between wall and lung, are no darker than the median of
    what is around them.
    """
    if prepared.seam is None or not bool(prepared.seam.any()):
        return painted
    around = torch.from_numpy(median_filter(painted[0].numpy(), 3))[None]
    return torch.where(prepared.seam, torch.maximum(painted, around), painted)


def _faded(painted: Tensor, prepared: Prepared) -> Tensor:
    """Without a visible end of the rim: there the painting fades into the scan.

    Smooth structure is a mean of the two in the outer half of the band where they mix, so that strands reach
    it. Fine structure is a mean with their shares as weights, but as strong as theirs: a mean of independent
    noise would be weaker; one of what both share, such as a wall, is not.
    """
    if prepared.share is None:
        return painted
    share, scan = prepared.share, prepared.image
    smooth, smooth_scan = _blurred(painted, SMOOTH), _blurred(scan, SMOOTH)
    fine, fine_scan = painted - smooth, scan - smooth_scan
    both = _blurred(fine * fine_scan, ALIKE)
    each = _blurred(fine.square(), ALIKE) * _blurred(fine_scan.square(), ALIKE)
    alike = (both / each.clamp(min=1e-16).sqrt()).clamp(0, 1)  # their correlation
    strength = share**2 + (1 - share) ** 2 + 2 * alike * share * (1 - share)
    fine = (share * fine + (1 - share) * fine_scan) / strength.sqrt()
    inner = (2 * share).clamp(max=1)
    mixed = inner * smooth + (1 - inner) * smooth_scan + fine
    return torch.where(prepared.edit.any(dim=0) & (share < 1), mixed.clamp(-1, 1), painted)


def _without_dark_specks(painted: Tensor, prepared: Prepared) -> Tensor:
    """Nothing painted is darker than `darkest`, unless the scan was."""
    if prepared.darkest is None:
        return painted
    lowest = prepared.image.clamp(max=prepared.darkest)
    return torch.where(prepared.edit.any(dim=0), torch.maximum(painted, lowest), painted)


def _without_bright_specks(painted: Tensor, prepared: Prepared) -> Tensor:
    """Nothing around the lesions is brighter than `brightest`, unless the scan was there or one voxel off."""
    if prepared.brightest is None:
        return painted
    scan = torch.from_numpy(maximum_filter(prepared.image[0].numpy(), 3))[None]
    rim = (prepared.edit & ~prepared.lesions).any(dim=0)
    return torch.where(rim, torch.minimum(painted, scan.clamp(min=prepared.brightest)), painted)


def _without_dots(painted: Tensor, prepared: Prepared) -> Tensor:
    """No voxel painted is far darker or brighter than all six beside it, in units of the scan's noise.

    A layer's histogram is wide where the layer is bright on one side of a lesion and dark on the other; its
    ends then fall to lone voxels. Where the roughness of the scan is not looked at, as of hearts,
    whose slices are 10 mm apart, nothing changes.
    """
    grain = prepared.guide.grain[0] or ()
    if len(grain) < 2:
        return painted
    image, noise = painted[0].numpy(), grain[0]
    least = torch.from_numpy(minimum_filter(image, footprint=BESIDE) - DARKER * noise)[None]
    most = torch.from_numpy(maximum_filter(image, footprint=BESIDE) + BRIGHTER * noise)[None]
    return torch.where(prepared.edit.any(dim=0), painted.clamp(least, most), painted)


def _with_vessels(painted: Tensor, prepared: Prepared) -> Tensor:
    """With the scan's vessels, which run on into real lesions, too: in the rim as they are, in a lesion no
    brighter than the brightest that is asked for."""
    if prepared.vessels is None or prepared.histogram is None:
        return painted
    seen, lesion = prepared.vessels & prepared.edit.any(dim=0), prepared.lesions.any(dim=0)
    most = torch.ones(lesion.shape)
    most[lesion] = brightest_of(prepared.histogram.reshape(len(prepared.lesions), -1).sum(dim=0))
    scan = torch.minimum(prepared.image, most)
    return torch.where(seen, torch.maximum(painted, scan), painted)


def _blurred(volume: Tensor, width: float) -> Tensor:
    """(1, D, H, W) after a Gaussian of this sd in voxels."""
    return torch.from_numpy(gaussian_filter(volume[0].numpy(), width))[None]
