"""What was made: the lesions of a scan, measured."""

from dataclasses import dataclass

import numpy as np

from DiffMask.shapes.features import longest_axial_diameter_mm
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.boxes import Box
from LeFusion.dataset.volume import Volume
from LeFusion.inference.notes import LEAST_LUNG
from LeFusion.insertion.shapes import TOLERANCE

FAINT_HU = 50  # from what was there before, below which a lesion is hardly seen
LARGEST_DIFFERENCE_HU = 60  # between asked and obtained, that is not said


@dataclass(frozen=True, eq=False)
class Lesion:
    """A lesion that was made, measured under its label.

    Intensities are in the scan's units (HU in CT). Differences are means over the label, after minus before.

    Attributes:
        instance: its number in the label map.
        texture: its name.
        scores: of the real lesion that was drawn; "" where none are known.
        seed: of the scan.
        world: (x, y, z) of the label's centroid in mm, RAS.
        asked_mm: the longest axial diameter that was asked for; None: none was.
        diameter_mm: the longest axial diameter of the label.
        volume_ml: of the label.
        mean: intensity.
        asked_difference: that of the texture's histogram, on the scan's voxels.
        obtained_difference: on the scan's voxels.
        asked_difference_network: that of the texture's histogram, on the network's voxels.
        obtained_difference_network: on the network's voxels.
        note: what of that which was asked for could not be met; "": nothing.
        box: around the lesion, in voxels of the scan (D, H, W).
        label: (*box.size) bool.
        edit: (*box.size) bool: the label and the rim that was painted as well.
        before: (*box.size), the scan without the lesion.
        after: (*box.size), the scan with it.
    """

    instance: int
    texture: str
    scores: str
    seed: int
    world: tuple[float, float, float]
    asked_mm: float | None
    diameter_mm: float
    volume_ml: float
    mean: float
    asked_difference: float
    obtained_difference: float
    asked_difference_network: float
    obtained_difference_network: float
    note: str
    box: Box
    label: np.ndarray
    edit: np.ndarray
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True, eq=False)
class InsertedScan:
    """image: the scan with all lesions. labels: their numbers, 1..n, in its stored order; edit: bool,
    likewise, outside of which the image has the numbers of its source. spacing_mm: (depth, height, width).
    unit: of intensities, "" where scans have none in common."""

    image: Volume
    labels: np.ndarray
    edit: np.ndarray
    lesions: list[Lesion]
    spacing_mm: tuple[float, float, float]
    unit: str


def measured(
    *,
    instance: int,
    texture: str,
    scores: str = "",
    seed: int,
    scan: Volume,
    axes: Axes,
    spacing_mm: tuple[float, float, float],
    box: Box,
    label: np.ndarray,
    edit: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    asked_mm: float | None = None,
    asked_mean: float,
    network_means: tuple[float, float],
    unit: str,
    lung_share: float = 1.0,
) -> Lesion:
    """A lesion in the box of a scan; for what is not said here see Lesion.

    scan: without the lesion. spacing_mm: (depth, height, width) of its voxels. asked_mean: of the texture's
    histogram. network_means: over the lesion on the network's grid, before and after.
    lung_share: of what surrounds it.
    """
    mean_before, mean_after = float(before[label].mean()), float(after[label].mean())
    asked, obtained = asked_mean - mean_before, mean_after - mean_before
    asked_network, obtained_network = asked_mean - network_means[0], network_means[1] - network_means[0]
    diameter = longest_axial_diameter_mm(label, spacing_mm)
    centre = np.argwhere(label).mean(axis=0) + box.start
    stored = axes.stored_index(centre, axes.to_dhw(scan.raw).shape)
    return Lesion(
        instance=instance,
        texture=texture,
        scores=scores,
        seed=seed,
        world=tuple((scan.affine @ [*stored, 1])[:3].tolist()),
        asked_mm=asked_mm,
        diameter_mm=diameter,
        volume_ml=float(label.sum() * np.prod(spacing_mm) / 1000),
        mean=mean_after,
        asked_difference=asked,
        obtained_difference=obtained,
        asked_difference_network=asked_network,
        obtained_difference_network=obtained_network,
        note=_note(asked_mm, diameter, asked, obtained, obtained_network, unit, lung_share),
        box=box,
        label=label,
        edit=edit,
        before=before,
        after=after,
    )


def _note(
    asked_mm: float | None,
    diameter_mm: float,
    asked: float,
    obtained: float,
    network: float,
    unit: str,
    lung_share: float,
) -> str:
    """What of that which was asked for could not be met, in words. asked, obtained, network: differences, as
    asked for, on the scan's voxels and on the network's."""
    notes = []
    if asked_mm is not None and abs(diameter_mm / asked_mm - 1) > TOLERANCE:
        notes.append(f"diameter {diameter_mm:.1f} mm instead of {asked_mm:.1f} mm")
    if unit == "HU" and abs(asked - obtained) > LARGEST_DIFFERENCE_HU:
        notes.append(
            f"{obtained:+.0f} HU instead of {asked:+.0f} HU on the voxels of the scan ({network:+.0f} HU on "
            "those of the network)"
        )
    elif unit == "HU" and abs(obtained) < FAINT_HU:
        notes.append(f"hardly to be seen: {obtained:+.0f} HU, as asked for by its texture")
    if lung_share < LEAST_LUNG:
        notes.append(f"lies outside the lung: {lung_share:.0%} of what surrounds it is lung")
    return "; ".join(notes)
