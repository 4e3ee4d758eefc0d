"""What one case of a data set holds, measured whatever is wrong with it. For the check of a data set."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from nibabel.orientations import aff2axcodes

from LeFusion.dataset.axes import Axes
from LeFusion.dataset.boxes import Size, extent
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.grid import grid_shape
from LeFusion.dataset.hounsfield import refuse_other_units
from LeFusion.dataset.intensity import IntensityMap, Window
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import Volume, on_grid_of
from LeFusion.errors import UserError
from LeFusion.textures.histograms import lesion_histogram

SAMPLE = 5000  # voxels of a case from which percentiles are estimated
UNKNOWN_KEPT = (
    20  # label values that the layout does not know; a picture in the place of a mask has thousands
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. where: file and value; findings alike but for it are reported in one line."""

    level: str  # "error": training stops, or learns what it should not; "warning": worth a look
    what: str
    where: str
    fix: str


@dataclass(frozen=True)
class CheckSettings:
    """What the data are measured against. size: (depth, height, width) that the network sees.

    crops: training draws random crops, which may hold a part of a lesion. spacing_mm: (depth, height, width)
    of the grid that images are brought to; None: as stored.
    """

    root: Path
    layout: Layout
    window: Window
    bins: int
    size: Size
    crops: bool = False
    spacing_mm: Sequence[float] | None = None

    def __str__(self) -> str:
        grid = "as stored" if self.spacing_mm is None else f"brought to {triple(self.spacing_mm)} mm"
        return (
            f"{'crops' if self.crops else 'region'} of {triple(self.size)} voxels (depth x height x width), "
            f"voxels {grid}, window {self.window}, {self.bins} bins, {self.layout}"
        )


@dataclass
class CaseFacts:
    """One image with its mask; what could not be measured is None or empty. Axes: (depth, height, width)."""

    name: str
    image_path: Path | None
    mask_path: Path | None
    split: str = ""
    findings: list[Finding] = field(default_factory=list)
    shape: Size | None = None
    spacing_mm: tuple[float, float, float] | None = None
    orientation: str = ""  # of the stored axes, e.g. LPS
    dtype: str = ""
    mask_dtype: str = ""
    range: tuple[float, float] | None = None
    sample: np.ndarray | None = None
    digest: str = ""  # equal for images of the same shape and values
    window: IntensityMap | None = None
    clipped: np.ndarray = field(default_factory=lambda: np.zeros(2, int))  # voxels below and above the window
    labels: dict[float, int] = field(default_factory=dict)  # voxels of each value but 0
    extent: Size | None = None  # of all lesions together, in voxels as stored
    grid_extent: Size | None = None  # in voxels of the network
    grid_shape: Size | None = None
    lesion_range: tuple[float, float] | None = None
    lesion_sample: np.ndarray | None = None
    lesion_clipped: np.ndarray = field(default_factory=lambda: np.zeros(2, int))
    histograms: np.ndarray | None = None  # (classes, bins)

    @property
    def voxel_ml(self) -> float:
        return math.prod(self.spacing_mm) / 1000

    def lesion_voxels(self, layout: Layout) -> int:
        return sum(self.labels.get(label, 0) for label in layout.lesion_labels)

    def add(self, level: str, what: str, where: str, fix: str) -> None:
        self.findings.append(Finding(level, what, where, fix))


def relative(path: Path, root: Path) -> str:
    """How a file is named in the report."""
    path, root = Path(path), Path(root).absolute()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def where_and_fix(error: Exception, path: Path, root: Path) -> tuple[str, str]:
    """An error "<path>: <reason>; <fix>" in the report's words: the file with the reason, and the fix."""
    text = " ".join((getattr(error, "strerror", None) or str(error)).split()).removeprefix(f"{path}: ")
    reason, _, fix = text.rpartition("; ")
    return f"{relative(path, root)} {reason or text}", fix if reason else ""


def measure(facts: CaseFacts, settings: CheckSettings) -> None:
    """Reads the files that `facts` names and fills in the rest; what is wrong goes to facts.findings."""
    image = _read(facts, facts.image_path, settings.root)
    mask = _read(facts, facts.mask_path, settings.root)
    axes = None
    for volume in (image, mask):
        if volume is not None and axes is None:
            axes = _measure_geometry(facts, volume, settings)
    if axes is None:
        return
    values = None if image is None else _measure_image(facts, image, axes, settings)
    if mask is None:
        return
    labels = _measure_mask(facts, mask, image, axes, settings)
    if labels is None or values is None:
        return
    if labels.shape != values.shape:
        facts.add(
            "error",
            "mask and image differ in shape",
            f"{relative(mask.path, settings.root)} {mask.raw.shape}, image {image.raw.shape}",
            "export the mask again on the image's grid: one voxel of the mask for each of the image",
        )
        return
    lesion = np.isin(labels, settings.layout.lesion_labels)
    if facts.window is not None and lesion.any():
        _measure_lesion(facts, values[lesion], labels[lesion], settings.layout, settings.bins)


def _read(facts: CaseFacts, path: Path | None, root: Path) -> Volume | None:
    if path is None:
        return None
    try:
        return read_volume(path)
    except (ValueError, OSError) as error:
        where, fix = where_and_fix(error, path, root)
        fix = fix or "make the file readable, or leave the case out"
        facts.add("error", "file cannot be used", where, fix)
        return None


def _measure_image(facts: CaseFacts, image: Volume, axes: Axes, settings: CheckSettings) -> np.ndarray:
    """Returns the values (D, H, W)."""
    values = axes.to_dhw(image.values)
    _measure_intensities(facts, values, settings)
    try:
        refuse_other_units(image, settings.window)
    except UserError as error:
        facts.add("error", "the image is not in HU", *where_and_fix(error, image.path, settings.root))
    facts.dtype = str(image.raw.dtype)
    return values


def _measure_mask(
    facts: CaseFacts, mask: Volume, image: Volume | None, axes: Axes, settings: CheckSettings
) -> np.ndarray | None:
    """Returns the labels (D, H, W); None where they lie elsewhere than the image."""
    facts.mask_dtype = str(mask.raw.dtype)
    if image is not None and sorted(mask.raw.shape) == sorted(image.raw.shape):
        try:
            mask = on_grid_of(mask, image)
        except UserError as error:
            where, _ = where_and_fix(error, mask.path, settings.root)
            fix = "export the mask again on the image's grid"
            facts.add("error", "mask and image differ in geometry (affine)", where, fix)
            return None
    labels = settings.layout.labels_of(axes.to_dhw(mask.labels))
    _measure_labels(facts, labels, settings)
    lesion = np.isin(labels, settings.layout.lesion_labels)
    if facts.spacing_mm is not None and lesion.any():
        _measure_extent(facts, lesion, settings)
    return labels


def _measure_geometry(facts: CaseFacts, volume: Volume, settings: CheckSettings) -> Axes | None:
    """None where the affine is needed to know the axes, and does not say."""
    axes = None
    try:
        axes = Axes.of(volume, settings.layout)
        facts.shape = axes.to_dhw(volume.raw).shape
        spacing = axes.spacing_mm(volume)
    except UserError:
        facts.add(
            "error",
            "the affine does not say where voxels lie",
            relative(volume.path, settings.root),
            "write the file again with its geometry (affine)",
        )
        return axes
    facts.spacing_mm = spacing
    facts.orientation = "".join(code or "?" for code in aff2axcodes(volume.affine))
    facts.grid_shape = grid_shape(facts.shape, spacing, settings.spacing_mm or spacing)
    return axes


def _measure_intensities(facts: CaseFacts, values: np.ndarray, settings: CheckSettings) -> None:
    where = relative(facts.image_path, settings.root)
    facts.range = float(values.min()), float(values.max())
    facts.sample = _some(values.ravel())
    facts.digest = hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()
    if facts.range[0] == facts.range[1]:
        facts.add(
            "error",
            "image is constant",
            f"{where} (every voxel is {facts.range[0]:g})",
            "look at the image: the export may have failed; put in the right file or leave the case out",
        )
        return
    try:
        facts.window = IntensityMap.of(values, settings.window)
    except ValueError as error:
        facts.add(
            "error",
            "the window does not suit the image",
            f"{where} ({error})",
            "give another window, for example window=minmax",
        )
        return
    facts.clipped = _count_outside(values, facts.window)
    hot = sum(facts.clipped)
    if settings.window == "minmax" and hot:
        facts.add(
            "warning",
            "single voxels are far brighter or darker than all others",
            f"{where} (values from {facts.range[0]:g} to {facts.range[1]:g}, all but {hot} of them "
            f"from {facts.window.low:g} to {facts.window.high:g})",
            "window=minmax takes them as the nearest of the others; look at the image",
        )


def _measure_labels(facts: CaseFacts, labels: np.ndarray, settings: CheckSettings) -> None:
    layout, where = settings.layout, relative(facts.mask_path, settings.root)
    known = layout.known_labels[1:]
    counts = _count_values(labels)
    counts.pop(0.0, None)
    unknown = sorted(set(counts) - set(known))
    kept = {*known, *unknown[:UNKNOWN_KEPT]}
    facts.labels = {value: counts[value] for value in sorted(counts) if value in kept}
    if unknown:
        shown = ", ".join(f"{value:g}" for value in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        facts.add(
            "error",
            "mask holds values that are no label of the layout",
            f"{where} ({shown})",
            f"the layout knows 0, {', '.join(map(str, sorted(known)))}: name the others in "
            "layout.lesion_labels or layout.other_labels, or correct the mask",
        )
    voxels = facts.lesion_voxels(layout)
    if voxels == 0:
        facts.add(
            "error",
            "mask holds no lesion",
            where,
            f"draw the lesion (label {' or '.join(map(str, layout.lesion_labels))}), or leave the case out",
        )
    elif voxels > labels.size / 2:
        facts.add(
            "warning",
            "lesion fills more than half of the image",
            f"{where} ({voxels / labels.size:.0%})",
            "check the labels: this may be the organ or the background, which belong to layout.other_labels",
        )
    if layout.reference_label is not None and not facts.labels.get(layout.reference_label):
        facts.add(
            "error",
            f"mask holds no voxel of layout.reference_label {layout.reference_label}",
            where,
            "draw it, or set layout.reference_label=null",
        )


def _measure_extent(facts: CaseFacts, lesion: np.ndarray, settings: CheckSettings) -> None:
    facts.extent = extent(lesion).size
    wanted = settings.spacing_mm or facts.spacing_mm
    scales = [s / w for s, w in zip(facts.spacing_mm, wanted, strict=True)]
    facts.grid_extent = tuple(
        math.ceil(n * scale - 1e-6) for n, scale in zip(facts.extent, scales, strict=True)
    )


def _measure_lesion(
    facts: CaseFacts, values: np.ndarray, labels: np.ndarray, layout: Layout, bins: int
) -> None:
    """values, labels: (N,) of the lesion voxels."""
    facts.lesion_range = float(values.min()), float(values.max())
    facts.lesion_sample = _some(values)
    facts.lesion_clipped = _count_outside(values, facts.window)
    row = torch.from_numpy(facts.window.to_network(values)).reshape(1, 1, 1, -1)
    lesions = torch.from_numpy(np.stack([labels == label for label in layout.lesion_labels]))
    histograms = lesion_histogram(row, lesions[:, None, None], bins)
    facts.histograms = histograms.numpy().reshape(len(lesions), bins)


def _some(values: np.ndarray) -> np.ndarray:
    """At most SAMPLE of (N,) values, drawn the same way each time."""
    if values.size <= SAMPLE:
        return values.copy()
    return values[np.random.default_rng(0).integers(0, values.size, SAMPLE)]


def _count_outside(values: np.ndarray, window: IntensityMap) -> np.ndarray:
    return np.array([np.count_nonzero(values < window.low), np.count_nonzero(values > window.high)])


def _count_values(values: np.ndarray) -> dict[float, int]:
    """How often each value occurs. Small whole numbers, as masks hold, are counted without sorting."""
    if values.min() >= 0 and values.max() <= 65535:
        whole = values.astype(np.uint16)
        if np.array_equal(whole, values):
            counts = np.bincount(whole.ravel())
            return {float(value): int(counts[value]) for value in np.flatnonzero(counts)}
    return dict(zip(*(array.tolist() for array in np.unique(values, return_counts=True)), strict=True))


def triple(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
