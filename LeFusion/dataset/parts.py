"""The lesions of a case in groups: those of a group are painted in one box."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from LeFusion.dataset.boxes import Box, Size, copy_overlap, extent
from LeFusion.dataset.grid import resample_masks


@dataclass(frozen=True, eq=False)
class Part:
    """Lesions of a case that one box holds.

    place: their bounding box on the network's grid; voxels: (K, *place.size) bool, in the order of the
    layout's lesion labels. stored_place, stored: the same on the stored grid, (*stored_place.size) bool, of
    all labels together.
    """

    place: Box
    voxels: torch.Tensor
    stored_place: Box
    stored: np.ndarray

    @classmethod
    def of(
        cls, mask: np.ndarray, place: Box, labels: np.ndarray, lesions: Sequence[int], shape: Size
    ) -> "Part":
        """The lesions under a mask (*place.size) bool that touches all sides of its box.

        labels: (D', H', W') on the stored grid; lesions: those of lesions. shape: of the network's grid.
        """
        inside = np.where(mask, labels[place.slices], 0)
        voxels = torch.from_numpy(np.stack([inside == label for label in lesions]))
        return cls(*resample_masks(voxels, place, labels.shape, shape)[::-1], place, mask)

    def lesions(self, box: Box) -> torch.Tensor:
        """(K, *box.size) bool of the network's grid."""
        lesions = self.voxels.new_zeros((len(self.voxels), *box.size))
        copy_overlap(self.voxels, self.place, lesions, box)
        return lesions


def grouped(
    numbers: np.ndarray,
    place: Box,
    labels: np.ndarray,
    lesions: Sequence[int],
    shape: Size,
    size: Sequence[int],
) -> list[Part]:
    """Lesions in groups that each fit a box of `size` on the network's grid: one joins the first with room.

    numbers: (*place.size), lesion i has the value i, see `numbered`. The rest is as in Part.of.
    """

    def part(mask: np.ndarray, slices: Sequence[slice]) -> Part:
        around = Box.between([cut.start for cut in slices], [cut.stop for cut in slices]).moved(place.start)
        return Part.of(mask, around, labels, lesions, shape)

    groups: list[tuple[list[int], Box]] = []
    for number, found in enumerate(ndimage.find_objects(numbers), start=1):
        if found is None:
            continue
        alone = part(numbers[found] == number, found).place
        for index, (members, around) in enumerate(groups):
            if fits(union(around, alone), size):
                groups[index] = [*members, number], union(around, alone)
                break
        else:
            groups.append(([number], alone))
    parts = []
    for members, _ in groups:
        mask = np.isin(numbers, members)
        slices = extent(mask).slices
        parts.append(part(mask[slices], slices))
    return parts


def numbered(lesion: np.ndarray, instances: np.ndarray | None) -> np.ndarray:
    """Lesion voxels (D, H, W) bool -> int32, the number of the lesion: as given, or connected voxels."""
    if instances is None:
        return ndimage.label(lesion, np.ones((3, 3, 3), bool))[0]
    return np.where(lesion, instances, 0).astype(np.int32)


def fits(place: Box, size: Sequence[int]) -> bool:
    return all(n <= wanted for n, wanted in zip(place.size, size, strict=True))


def union(first: Box, second: Box) -> Box:
    """The smallest box that holds both."""
    start = tuple(min(a, b) for a, b in zip(first.start, second.start, strict=True))
    return Box.between(start, [max(a, b) for a, b in zip(first.end, second.end, strict=True)])
