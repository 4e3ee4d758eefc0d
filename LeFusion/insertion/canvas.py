"""A scan that lesions are painted into, one after the other: only boxes around them are looked at."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from LeFusion.dataset.axes import Axes
from LeFusion.dataset.boxes import Box, Size
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.grid import resample_masks, resample_part
from LeFusion.dataset.intensity import IntensityMap, Window
from LeFusion.dataset.volume import WHOLE, Volume, with_values

ROOM = 8  # voxels of the network's grid around its box, for lesions that lie off its middle
SPACING_DIGITS = 4  # of mm: formats that store affines in single precision differ beyond
LEAST_SHARE = 1e-3  # of an edit mask in a voxel of the scan, below which the voxel is left alone
MOST_LESIONS = 2**16 - 1


class Patch:
    """A box of the scan, and the network's grid over the same extent.

    box: in voxels of the scan (D, H, W). shape, spacing_mm: of the network's grid.
    """

    def __init__(self, box: Box, shape: Size, stored_mm: Sequence[float]):
        self.box, self.shape = box, shape
        self.spacing_mm = tuple(mm * n / m for mm, n, m in zip(stored_mm, box.size, shape, strict=True))

    @property
    def whole(self) -> Box:
        """All of the network's grid."""
        return Box((0, 0, 0), self.shape)

    @property
    def whole_stored(self) -> Box:
        """All of the box, seen from its corner."""
        return Box((0, 0, 0), self.box.size)

    def to_network(self, centre_dhw: Sequence[float]) -> tuple[float, float, float]:
        """A voxel of the scan (fractions too) on the network's grid."""
        return tuple(
            (c + 0.5 - start) * m / n - 0.5
            for c, start, n, m in zip(centre_dhw, self.box.start, self.box.size, self.shape, strict=True)
        )

    def label_of(self, mask: np.ndarray) -> np.ndarray:
        """A mask of the network's grid as (*box.size) bool of the scan's: see `resample_masks`."""
        found, place = resample_masks(torch.from_numpy(mask)[None], self.whole, self.shape, self.box.size)
        label = np.zeros(self.box.size, bool)
        label[place.slices] = found[0].numpy()
        return label

    def mask_of(self, label: np.ndarray) -> np.ndarray:
        """The inverse, for labels that are given on the scan's grid."""
        found, place = resample_masks(
            torch.from_numpy(label)[None], self.whole_stored, self.box.size, self.shape
        )
        mask = np.zeros(self.shape, bool)
        mask[place.slices] = found[0].numpy()
        return mask

    def carried(self, values: np.ndarray) -> np.ndarray:
        """Values (*shape) of the network's grid at the voxels of the scan (*box.size), float64: the mean over
        each voxel along axes where the scan's are larger, such as thick slices."""
        given = torch.from_numpy(np.asarray(values, np.float64))[None]

        def read(box: Box) -> torch.Tensor:
            return given[(slice(None), *box.slices)]

        return resample_part(read, self.shape, self.box.size, self.whole_stored)[0].numpy()


class Canvas:
    """A scan and the lesions that it has so far; arrays are depth first, views of what is stored.

    spacing_mm: (depth, height, width) of the scan's voxels. labels: (D, H, W), the number of each lesion.
    network_mm: of the network's voxels, None for those of the scan; size: of its largest box.
    """

    def __init__(
        self,
        volume: Volume,
        layout: Layout,
        window: Window,
        network_mm: Sequence[float] | None,
        size: Sequence[int],
    ):
        self.source, self.layout, self.size = volume, layout, tuple(size)
        self.axes = Axes.of(volume, layout)
        self.spacing_mm = tuple(round(mm, SPACING_DIGITS) for mm in self.axes.spacing_mm(volume))
        self.network_mm = tuple(network_mm or self.spacing_mm)
        self.intensity_map = IntensityMap.of(lambda: volume.values, window)
        self._raw = volume.raw.copy()
        self._labels = np.zeros(volume.raw.shape, np.uint16)
        self.labels = self.axes.to_dhw(self._labels)

    @property
    def shape(self) -> Size:
        return self.labels.shape

    @cached_property
    def address(self) -> str:
        """See scan_address."""
        return scan_address(self.source, self.axes, self.spacing_mm, self.intensity_map)

    def values(self, box: Box, painted: bool = True) -> np.ndarray:
        """(*box.size) in the scan's units, with the lesions so far, or as it was without them."""
        volume = self.image() if painted else self.source
        return self.axes.to_dhw(volume.part(self.axes.slices(box, self.shape)))

    def patch(self, first: Sequence[float], last: Sequence[float]) -> Patch:
        """A patch with voxels first to last (fractions too) about in its middle, and room for the network's
        box around them."""
        start, size, shape = [], [], []
        for low, high, n, stored, mm, wanted in zip(
            first, last, self.shape, self.spacing_mm, self.network_mm, self.size, strict=True
        ):
            least = math.ceil((max(wanted, (high - low + 1) * stored / mm) + ROOM) * mm / stored)
            # Of the next few lengths that whose extent is nearest to whole voxels of the network
            lengths = range(least, least + max(2, math.ceil(4 * mm / stored)))
            length = min(lengths, key=lambda k: (abs(k * stored / mm - round(k * stored / mm)) > 0.02, k))
            length = min(length, n)
            start.append(min(max(round((low + high + 1 - length) / 2), 0), n - length))
            size.append(length)
            shape.append(max(1, round(length * stored / mm)))
        return Patch(Box(tuple(start), tuple(size)), tuple(shape), self.spacing_mm)

    def on_network(self, patch: Patch, painted: bool = True) -> np.ndarray:
        """(*patch.shape) float32 in the scan's units, clamped to the window; see `values`."""

        def read(box: Box) -> torch.Tensor:
            values = self.intensity_map.to_network(self.values(box.moved(patch.box.start), painted))
            return torch.from_numpy(np.ascontiguousarray(values))[None]

        found = resample_part(read, patch.box.size, patch.shape, patch.whole)[0]
        return self.intensity_map.to_source(found).numpy().astype(np.float32)

    def add(
        self, patch: Patch, number: int, label: np.ndarray, change: np.ndarray, edit: np.ndarray
    ) -> np.ndarray:
        """Puts lesion `number` into the scan.

        label: (*patch.box.size) bool. change: (*patch.shape), what painting adds, in the scan's units, where
        edit (*patch.shape) is true. Voxels of other lesions stay as they are. Returns (*patch.box.size) bool:
        the voxels that have new numbers now, or might have.
        """
        stored = self.axes.slices(patch.box, self.shape)
        labels = self.axes.to_dhw(self._labels[stored])
        touched = (patch.carried(edit) > LEAST_SHARE) & ((labels == 0) | (labels == number))
        values = self.values(patch.box)
        # What lies beyond the window is not in the change: that of a bright vessel goes with the vessel, that
        # of bone in the rim stays
        within = np.clip(values, self.intensity_map.low, self.intensity_map.high)
        values = np.where(label, within, values) + patch.carried(np.where(edit, change, 0.0))
        labels[label] = number
        part = replace(self.source, raw=self._raw[stored])
        pieces = [(self.axes.to_stored(values), self.axes.to_stored(touched), WHOLE)]
        self._raw[stored] = with_values(part, pieces, self.source.path).raw
        return touched

    def image(self) -> Volume:
        """The scan with all lesions."""
        return replace(self.source, raw=self._raw)

    def stored_labels(self) -> np.ndarray:
        """The numbers of the lesions in the order in which the scan is stored, uint8 or uint16."""
        return self._labels.astype(np.min_scalar_type(max(1, int(self._labels.max()))))


def scan_address(volume: Volume, axes: Axes, spacing_mm: Sequence[float], intensity_map: IntensityMap) -> str:
    """16 hexadecimal digits of what the network can see of a scan: the same in whatever order or format it is
    stored, so that it gets the same lesions."""
    dhw = axes.to_dhw(volume.raw)
    digest = hashlib.sha256(repr((dhw.shape, tuple(spacing_mm))).encode())
    for level in dhw:
        values = level * np.float64(volume.slope) + volume.inter
        seen = np.rint(np.clip(values, intensity_map.low, intensity_map.high))
        digest.update(seen.astype("<i4", order="C"))
    return digest.hexdigest()[:16]
