"""From a soft mask to a lesion: one solid part, inside its organ."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from LeFusion.errors import UserError

CORNERS = np.ones((3, 3, 3))  # voxels that touch at a corner are of one part
# The released smoothing: below so many voxels, a Gaussian of this sd in voxels, cut at this value
PAPER_SMOOTHING = (
    (20, 0.5, 0.01),
    (50, 0.5, 0.1),
    (100, 0.5, 0.2),
    (1000, 1.0, 0.3),
    (10_000, 1.5, 0.5),
    (np.inf, 2.0, 0.5),
)


def clean_mask(
    soft: np.ndarray,
    organ: np.ndarray | None = None,
    smoothing: str | float | None = None,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
) -> np.ndarray | None:
    """Threshold, fill holes, keep the largest part, smooth, clip to the organ, keep the largest part again.

    Args:
        soft: (D, H, W), lesion above 0.
        organ: (D, H, W) bool, where a lesion may be; None: everywhere.
        smoothing: None for none; the sd in mm of a Gaussian, see smooth_mask; "paper" for the released rule,
            by which small masks grow.

    Returns:
        (D, H, W) bool, or None when nothing is left.
    """
    mask = largest_part(ndimage.binary_fill_holes(np.asarray(soft) > 0))
    if smoothing == "paper":
        mask = smooth_as_released(mask)
    elif isinstance(smoothing, str):
        raise UserError(f"smoothing={smoothing!r} must be null, paper or a number of mm")
    elif smoothing:
        mask = smooth_mask(mask, smoothing, spacing_mm)
    if organ is not None:
        mask = mask & organ
    mask = largest_part(mask)
    return mask if mask.any() else None


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a bool mask; of equal ones the first; an empty mask stays empty."""
    parts, count = ndimage.label(mask, CORNERS)
    if count < 2:
        return mask
    return parts == 1 + np.bincount(parts.ravel())[1:].argmax()


def smooth_mask(mask: np.ndarray, sigma_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """A bool mask smoothed by a Gaussian of this sd and cut where its volume stays nearest to what it was."""
    if not sigma_mm > 0:
        raise UserError(f"smoothing={sigma_mm} must be above 0 mm")
    if not mask.any():
        return mask
    blurred = ndimage.gaussian_filter(mask.astype(float), np.divide(sigma_mm, spacing_mm), mode="constant")
    voxels = mask.sum()
    cut = np.partition(blurred.ravel(), -voxels)[-voxels]
    with_ties, without = blurred >= cut, blurred > cut  # symmetric lesions have many voxels of one value
    fewer = without.any() and voxels - without.sum() < with_ties.sum() - voxels
    return without if fewer else with_ties


def smooth_as_released(mask: np.ndarray) -> np.ndarray:
    """A bool mask of 1 mm voxels smoothed as the released inference does, by PAPER_SMOOTHING."""
    sigma, threshold = next(rule[1:] for rule in PAPER_SMOOTHING if mask.sum() < rule[0])
    return ndimage.gaussian_filter(mask.astype(float), sigma) > threshold
