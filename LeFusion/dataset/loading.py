"""One case, read once: its volumes as stored, its lesions, and any box of them as the network sees it."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from LeFusion.dataset.axes import Axes
from LeFusion.dataset.boxes import (
    AIR,
    Box,
    Size,
    box_around,
    copy_overlap,
    crop,
    extent,
    tight_box_around,
)
from LeFusion.dataset.cases import Case, Layout
from LeFusion.dataset.edit import edit_part
from LeFusion.dataset.grid import grid_shape, resample_masks, resample_part
from LeFusion.dataset.hounsfield import refuse_other_units
from LeFusion.dataset.intensity import IntensityMap, Window
from LeFusion.dataset.parts import Part, fits, grouped, numbered, union
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import Volume, on_grid_of
from LeFusion.errors import UserError

MOST_INSTANCES = 255  # lesions that a mask may number
ROUNDING = 1e-5  # of an intensity in [-1, 1] that is resampled in boxes of different sizes
CACHED_BYTES = 1 << 30  # of volumes that several cases may share


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """A case as stored (volumes, labels), and any box of it as the network sees it.

    mask_volume: on the grid of `volume`, in the same order. axes: between them and what is depth first.
    labels_dhw: (D', H', W') of layout.label_dtype, every label, on the stored grid. shape: of the network's
    grid, which is the stored one or that of `spacing_mm`. reference_mean: mean network intensity over the
    layout's reference_label; None without one. instances_dhw: as labels_dhw, the number of each lesion where
    the mask says it (layout.instances); None: connected voxels are a lesion.
    """

    case: Case
    layout: Layout
    volume: Volume
    mask_volume: Volume
    axes: Axes
    labels_dhw: np.ndarray
    shape: Size
    intensity_map: IntensityMap
    reference_mean: float | None = None
    instances_dhw: np.ndarray | None = None

    def image(self, box: Box) -> torch.Tensor:
        """(1, *box.size) float32 in [-1, 1] of the network's grid; air where the box overhangs."""
        inside = box.within(self.shape)
        part = resample_part(self._stored, self.labels_dhw.shape, self.shape, inside)
        return part.contiguous() if inside == box else crop(part, box.moved([-n for n in inside.start]), AIR)

    def lesions(self, box: Box) -> torch.Tensor:
        """(K, *box.size) bool of the network's grid."""
        return self.all_lesions.lesions(box)

    @cached_property
    def all_lesions(self) -> Part:
        """All lesions together, whether one box holds them or not."""
        place = self.stored_place
        mask = self.stored_lesion()[place.slices]
        return Part.of(mask, place, self.labels_dhw, self.layout.lesion_labels, self.shape)

    @cached_property
    def organ(self) -> Box | None:
        """The bounding box of the organ and its lesions, which a region that shows the whole organ is centred
        on; None for the lesion itself."""
        return None if self._organ is None else union(self._organ[1], self.all_lesions.place)

    def organ_in(self, box: Box) -> torch.Tensor | None:
        """(*box.size) bool of the network's grid: the organ and its lesions; None where labels tell none."""
        if self._organ is None:
            return None
        organ = torch.zeros(1, *box.size, dtype=torch.bool)
        copy_overlap(*self._organ, organ, box)
        return organ[0]

    @cached_property
    def _organ(self) -> tuple[torch.Tensor, Box] | None:
        if not self.layout.hearts:
            return None
        whole = extent(self.labels_dhw > 0)
        mask = torch.from_numpy(self.labels_dhw[whole.slices] > 0)[None]
        return resample_masks(mask, whole, self.labels_dhw.shape, self.shape)

    @cached_property
    def present(self) -> torch.Tensor:
        """(K,) bool: which lesion labels the case has."""
        return torch.tensor([bool((self.labels_dhw == label).any()) for label in self.layout.lesion_labels])

    def parts(self, size: Sequence[int]) -> list[Part]:
        """The lesions in groups that each fit a box of `size`: one where all of them do.

        Lesions that are near each other share a group. One that is larger than the box is a group of its own.
        """
        if tuple(size) not in self._parts:
            self._parts[tuple(size)] = self._grouped(size)
        return self._parts[tuple(size)]

    def _grouped(self, size: Sequence[int]) -> list[Part]:
        place = self.stored_place
        grids = zip(place.size, self.labels_dhw.shape, self.shape, size, strict=True)
        # Resampling moves no border by two voxels: a mask of a whole CT need not be resampled to see that
        near = all((n - 2) * new / old <= wanted for n, old, new, wanted in grids)
        if near and fits(self.all_lesions.place, size):
            return [self.all_lesions]
        instances = None if self.instances_dhw is None else self.instances_dhw[place.slices]
        numbers = numbered(self.stored_lesion()[place.slices], instances)
        return grouped(numbers, place, self.labels_dhw, self.layout.lesion_labels, self.shape, size)

    @cached_property
    def _parts(self) -> dict[tuple[int, ...], list[Part]]:
        return {}

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the network's grid: depth, height, width."""
        return tuple(
            mm * stored / count
            for mm, stored, count in zip(
                self.stored_spacing_mm, self.labels_dhw.shape, self.shape, strict=True
            )
        )

    @property
    def stored_spacing_mm(self) -> tuple[float, float, float]:
        """Of the stored grid: depth, height, width."""
        return self.axes.spacing_mm(self.volume)

    @property
    def whole(self) -> Box:
        return Box((0, 0, 0), self.shape)

    @cached_property
    def image_dhw(self) -> torch.Tensor:
        """(D, H, W) float32: the whole image on the network's grid."""
        return self.image(self.whole)[0]

    @cached_property
    def lesions_dhw(self) -> torch.Tensor:
        """(K, D, H, W) bool: the whole masks on the network's grid."""
        return self.lesions(self.whole)

    @cached_property
    def stored_place(self) -> Box:
        """The bounding box of all lesions on the stored grid."""
        return extent(self.stored_lesion())

    def stored_lesion(self, place: Box | None = None) -> np.ndarray:
        """(D', H', W') bool: all lesion voxels on the stored grid, or in a box of it."""
        labels = self.labels_dhw if place is None else self.labels_dhw[place.slices]
        return np.isin(labels, self.layout.lesion_labels)

    def region(self, size: Sequence[int], part: Part | None = None) -> Box:
        """The box of `size` around the organ, or around the lesions where that is larger than the box."""
        return region_box((part or self.all_lesions).place, self.organ, self.shape, size)

    def tight_region(
        self,
        margin: int,
        max_size: Sequence[int],
        multiple: Sequence[int],
        step: tuple[int, int] | None,
        part: Part,
    ) -> Box:
        """See `tight_box_around`."""
        return tight_box_around(part.place, self.shape, margin, max_size, multiple, step)

    def image_under(self, patches: Sequence[tuple[torch.Tensor, Box]], box: Box) -> torch.Tensor:
        """(1, *box.size): the image with patches (1, *their box.size) of the network's grid over it, the last
        on top."""
        image = self.image(box)
        for patch, place in patches:
            copy_overlap(patch, place, image, box)
        return image

    def painted(
        self, patches: Sequence[tuple[torch.Tensor, Box]], place: Box
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same on the stored grid: (*place.size) float64 in the source's units; bool, where it is new.

        On another grid than the network's it is the scan plus what painting changed: the scan's own noise and
        detail stay, and the change is averaged over voxels that are larger, such as thick slices.
        """
        if self.shape == self.labels_dhw.shape:
            painted = self.image_under(patches, place)[0]
            new = (painted != self.image(place)[0]).numpy() | self.stored_lesion(place)
            return self.intensity_map.to_source(painted.double()).numpy(), new

        def change(box: Box) -> torch.Tensor:
            return (self.image_under(patches, box) - self.image(box)).double()

        changed = resample_part(change, self.shape, self.labels_dhw.shape, place)[0]
        stored = (self._stored(place)[0].double() + changed).clamp(-1, 1)
        return self.intensity_map.to_source(stored).numpy(), (changed.abs() > ROUNDING).numpy()

    def edit_of(self, part: Part, margin_mm: float) -> tuple[Box, np.ndarray]:
        """What is painted for a part, on the stored grid: a box, and (*its size) bool. Other lesions stay."""
        spacing = self.stored_spacing_mm if margin_mm else (1.0, 1.0, 1.0)
        place, edit = edit_part(part.stored, part.stored_place, self.labels_dhw.shape, margin_mm, spacing)
        if margin_mm:
            lesions = self.stored_lesion(place)
            own = np.zeros_like(lesions)
            copy_overlap(part.stored, part.stored_place, own, place)
            edit = edit & (own | ~lesions)
        return place, edit

    def values_of(self, part: Part, volume: Volume | None = None) -> np.ndarray:
        """(N,): values of a part's stored voxels in the source, or in a volume of its shape, in its units."""
        return self.axes.to_dhw((volume or self.volume).part(self.stored_slices(part.stored_place)))[
            part.stored
        ]

    def stored_slices(self, place: Box) -> tuple[slice, slice, slice]:
        """Where a box of the stored grid lies in the stored array."""
        return self.axes.slices(place, self.labels_dhw.shape)

    @cached_property
    def lesion_mm3(self) -> float:
        """Volume of all lesions, in mm3."""
        return self.mm3_of(self.all_lesions)

    def mm3_of(self, part: Part) -> float:
        """Volume of a part, in mm3."""
        return float(part.voxels.sum()) * math.prod(self.spacing_mm)

    def _stored(self, box: Box) -> torch.Tensor:
        """(1, *box.size) float32 in [-1, 1] of the stored grid."""
        stored = self.volume.part(self.axes.slices(box, self.labels_dhw.shape))
        values = self.axes.to_dhw(stored)
        return torch.from_numpy(np.ascontiguousarray(self.intensity_map.to_network(values)))[None]


class Reader:
    """Reads cases, each file once: volumes stay in memory, up to a limit, for the cases that share them.

    refuse: raises UserError for an image that the network cannot do with.
    """

    def __init__(
        self,
        layout: Layout,
        window: Window,
        spacing_mm: Sequence[float] | None = None,
        refuse: Callable[[Volume], None] = lambda image: None,
        cached_bytes: int = CACHED_BYTES,
    ):
        self.layout, self.window, self.spacing_mm = layout, window, spacing_mm
        self.refuse, self.cached_bytes = refuse, cached_bytes
        self._volumes: OrderedDict[Path, Volume] = OrderedDict()

    def __call__(self, case: Case, relabel: Callable | None = None) -> LoadedCase:
        """See `load_case`."""
        self.refuse(self.volume(case.image_path))
        return load_case(case, self.layout, self.window, self.spacing_mm, relabel, self.volume)

    def volume(self, path: Path) -> Volume:
        if path not in self._volumes:
            self._volumes[path] = read_volume(path)
        self._volumes.move_to_end(path)
        while len(self._volumes) > 2 and self._bytes() > self.cached_bytes:
            self._volumes.popitem(last=False)
        return self._volumes[path]

    def _bytes(self) -> int:
        return sum(volume.raw.nbytes for volume in self._volumes.values())


def load_case(
    case: Case,
    layout: Layout,
    window: Window,
    spacing_mm: Sequence[float] | None = None,
    relabel: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    read: Callable[[Path], Volume] = read_volume,
) -> LoadedCase:
    """Read one case and check it.

    window: see IntensityMap.of. spacing_mm: (depth, height, width) of the network's grid; None: as stored.
    relabel: (image values, labels), both (D, H, W) as stored -> other labels of that shape, with lesions; the
    case itself then needs none. Raises UserError, in one line with the file and the value, for unreadable
    files, shapes that differ, an empty mask, or a label that the layout does not know.
    """
    volume, mask_volume = read(case.image_path), read(case.mask_path)
    axes, mask_volume = Axes.of(volume, layout), on_grid_of(mask_volume, volume)
    refuse_other_units(volume, window)
    _check_labels(case, mask_volume, layout, need_lesion=relabel is None)
    dtype = layout.label_dtype
    plain = mask_volume.raw.dtype == dtype and mask_volume.slope == 1 and mask_volume.inter == 0
    stored = mask_volume.raw if plain else mask_volume.labels.astype(dtype)
    labels, instances = axes.to_dhw(stored), None
    if layout.instances:
        instances = labels
        labels = layout.labels_of(labels).astype(dtype)
    if relabel is not None:
        values = axes.to_dhw(volume.values)
        try:
            labels = relabel(values, np.ascontiguousarray(labels))
        except UserError as error:
            raise UserError(f"{case.mask_path}: {error}") from error
    try:
        intensity_map = IntensityMap.of(lambda: volume.values, window)
    except UserError as error:
        raise UserError(f"{case.image_path}: {error}") from error
    reference = None
    if layout.reference_label is not None:
        where = labels == layout.reference_label
        if not where.any():
            raise UserError(
                f"{case.mask_path}: has no voxel of label {layout.reference_label} (reference_label), which "
                "lesion intensities are taken relative to; draw it, or set layout.reference_label=null"
            )
        values = axes.to_dhw(volume.values)
        image = torch.from_numpy(np.ascontiguousarray(intensity_map.to_network(values)))
        reference = float(image[torch.from_numpy(where)].mean())
    shape = labels.shape
    if spacing_mm is not None:
        shape = grid_shape(labels.shape, axes.spacing_mm(volume), spacing_mm)
    extent(np.isin(labels, layout.lesion_labels))  # refuses what `relabel` left no lesion in
    return LoadedCase(
        case, layout, volume, mask_volume, axes, labels, tuple(shape), intensity_map, reference, instances
    )


def region_box(lesion: Box, organ: Box | None, shape: Size, size: Sequence[int]) -> Box:
    """The box of `size` around the organ, or around the lesion where there is no organ or it does not fit."""
    if organ is not None:
        with suppress(UserError):
            return box_around(organ, shape, size)
    return box_around(lesion, shape, size)


def _check_labels(case: Case, mask: Volume, layout: Layout, need_lesion: bool) -> None:
    found = set(mask.found_labels.tolist())
    if layout.instances:
        odd = sorted(value for value in found if not (value.is_integer() and 0 <= value <= MOST_INSTANCES))
        if odd:
            raise UserError(
                f"{case.mask_path}: holds the values {_numbers(odd)}; with layout.instances=true a mask "
                f"holds 0 and the numbers of lesions, 1 to {MOST_INSTANCES}"
            )
        if found == {0.0}:
            raise UserError(f"{case.mask_path}: has no lesion voxel; draw a lesion or leave the case out")
        return
    unknown = sorted(found.difference(layout.known_labels))
    if unknown:
        raise UserError(
            f"{case.mask_path}: holds the unknown values {_numbers(unknown)}; a mask may hold only "
            f"{_numbers(sorted(layout.known_labels))} (layout.lesion_labels, layout.other_labels)"
        )
    if need_lesion and found.isdisjoint(layout.lesion_labels):
        raise UserError(
            f"{case.mask_path}: has no lesion voxel (label {' or '.join(map(str, layout.lesion_labels))}), "
            f"only {_numbers(sorted(found))}; draw the lesion or leave the case out"
        )


def _numbers(values: Sequence[float], limit: int = 5) -> str:
    return ", ".join(f"{value:g}" for value in values[:limit]) + (", ..." if len(values) > limit else "")
