"""One box: what the network has to know of it, and what is mended once it is painted."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation, gaussian_filter, maximum_filter, median_filter
from torch import Tensor

from LeFusion.guidance import Guide, as_the_scan
from LeFusion.ordering import SMOOTH
from LeFusion.textures.layers import brightest_of

ALIKE = 2.0  # voxels: sd of the Gaussian within which the fine structure of two images is compared


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the network has to know of one box.

    image: (1, D, H, W) in [-1, 1]. lesions, edit: (K, D, H, W) bool, edit is what is painted. address: of the
    noise. histogram: (K * bins,), and guide: where in the lesions its intensities lie; None: no condition.
    darkest, brightest: see Wanted. seam: (D, H, W) bool, where a wall's surface is that a lesion now lies at;
    None: not known. share: (D, H, W) in [0, 1], how much of a voxel is painted and not the scan's, see
    _faded; None: all. vessels: (D, H, W) bool, where the scan's are that run on into what is painted; None:
    not known.
    """

    image: Tensor
    lesions: Tensor
    edit: Tensor
    address: tuple
    histogram: Tensor | None = None
    guide: Guide | None = None
    darkest: float | None = None
    brightest: float | None = None
    seam: Tensor | None = None
    share: Tensor | None = None
    vessels: Tensor | None = None

    def as_dict(self) -> dict[str, Any]:
        """As tensors, tuples and numbers, for another process."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        guide = None if self.guide is None else tuple(vars(self.guide).values())
        # clone: of a view the whole image would be sent
        return vars(self) | {name: value.clone() for name, value in tensors.items()} | {"guide": guide}

    @classmethod
    def from_dict(cls, sent: dict[str, Any]) -> "Prepared":
        """Back again."""
        return cls(**sent | {"guide": sent["guide"] and Guide(*sent["guide"])})


def finished(painted: Tensor, prepared: Prepared, strength: float = 1.0) -> Tensor:
    """(1, D, H, W): what the network painted, without what gives it away. strength: of intensity guidance."""
    if prepared.guide is not None and strength:
        painted = as_the_scan(painted, prepared.guide, strength)
    painted = _faded(_joined(painted, prepared), prepared)
    return _with_vessels(_dimmed(_lit(painted, prepared), prepared), prepared)


def _lit(painted: Tensor, prepared: Prepared) -> Tensor:
    """(1, D, H, W): without black specks, which are darker than `darkest` and than the scan was."""
    if prepared.darkest is None:
        return painted
    lowest = prepared.image.clamp(max=prepared.darkest)
    return torch.where(prepared.edit.any(dim=0), torch.maximum(painted, lowest), painted)


def _dimmed(painted: Tensor, prepared: Prepared) -> Tensor:
    """(1, D, H, W): without bright specks around the lesions, above `brightest` and above the scan there."""
    if prepared.brightest is None:
        return painted
    scan = torch.from_numpy(maximum_filter(prepared.image[0].numpy(), 3))[None]
    rim = (prepared.edit & ~prepared.lesions).any(dim=0)
    return torch.where(rim, torch.minimum(painted, scan.clamp(min=prepared.brightest)), painted)


def _with_vessels(painted: Tensor, prepared: Prepared) -> Tensor:
    """(1, D, H, W): with the scan's vessels, which run on into real lesions, too.

    In the rim they are as they are, in a lesion no brighter than the brightest that is asked for.
    """
    if prepared.vessels is None or prepared.histogram is None:
        return painted
    seen, lesion = prepared.vessels & prepared.edit.any(dim=0), prepared.lesions.any(dim=0)
    most = torch.ones(lesion.shape)
    most[lesion] = brightest_of(prepared.histogram.reshape(len(prepared.lesions), -1).sum(dim=0))
    scan = torch.minimum(prepared.image, most)
    return torch.where(seen, torch.maximum(painted, scan), painted)


def _faded(painted: Tensor, prepared: Prepared) -> Tensor:
    """(1, D, H, W): without a seam where the rim ends.

    There the smooth structure is a mean of what is painted and the scan, in the outer half of the seam alone,
    so that strands reach it. The fine structure is a mean with their shares as weights, but as strong as
    theirs: of independent noise a mean would be weaker, of what both share, as a wall, it is not.
    """
    if prepared.share is None:
        return painted
    share, scan = prepared.share, prepared.image
    smooth, of_scan = _blurred(painted, SMOOTH), _blurred(scan, SMOOTH)
    fine, fine_scan = painted - smooth, scan - of_scan
    both = _blurred(fine * fine_scan, ALIKE)
    each = _blurred(fine.square(), ALIKE) * _blurred(fine_scan.square(), ALIKE)
    alike = (both / each.clamp(min=1e-16).sqrt()).clamp(0, 1)
    strength = share**2 + (1 - share) ** 2 + 2 * alike * share * (1 - share)
    fine = (share * fine + (1 - share) * fine_scan) / strength.sqrt()
    inner = (2 * share).clamp(max=1)
    mixed = inner * smooth + (1 - inner) * of_scan + fine
    return torch.where(prepared.edit.any(dim=0) & (share < 1), mixed.clamp(-1, 1), painted)


def _blurred(volume: Tensor, width: float) -> Tensor:
    return torch.from_numpy(gaussian_filter(volume[0].numpy(), width))[None]


def _joined(painted: Tensor, prepared: Prepared) -> Tensor:
    """(1, D, H, W): without a dark line between a lesion and the wall that it lies at.

    The wall's outermost voxels, which the scan shares between wall and lung, are no darker than the median of
    what is around them.
    """
    if prepared.seam is None or not bool(prepared.seam.any()):
        return painted
    around = torch.from_numpy(median_filter(painted[0].numpy(), 3))[None]
    return torch.where(prepared.seam, torch.maximum(painted, around), painted)


def grown(mask: np.ndarray) -> np.ndarray:
    """(D, H, W) bool and its neighbours."""
    return binary_dilation(mask, np.ones((3, 3, 3), bool))
