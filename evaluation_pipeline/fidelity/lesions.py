"""Read real and synthetic lesions: each cut out with its surroundings, in one scale of intensities."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from evaluation_pipeline.cases.patients import case_name, patient_of
from LeFusion.data_types import DataType
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.boxes import extent
from LeFusion.dataset.edit import edit_masks
from LeFusion.dataset.intensity import IntensityMap
from LeFusion.dataset.scans import ENDINGS, find_scans, read_volume
from LeFusion.dataset.volume import Volume, check_same_grid, on_grid_of
from LeFusion.errors import MissingFileError, UserError

GENERATED_MASK = re.compile(r"_GenMask_\d+$")  # ends the name of an image painted into such a mask
MARGIN_MM = 20.0  # of surroundings that are kept: enough for border profiles and pictures


class TooLittleData(ValueError):
    """A question that the given lesions cannot answer. The report leaves it out and says why."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """All lesion voxels of one image (its lesion labels together), with what lies around them.

    case: the image's name without ending. kind: the texture type 1, 2, ... of a synthetic lesion, 0: real.
    image: (D, H, W) float32, in the window's scale (see `intensities`). mask: (D, H, W) bool. labels:
    (D, H, W) uint8. spacing_mm: (depth, height, width). reference: what was subtracted from the intensities.
    origin: where in the volume the cut begins.
    """

    case: str
    patient: str
    kind: int
    path: Path
    image: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]
    reference: float = 0.0
    origin: tuple[int, int, int] = (0, 0, 0)

    @property
    def values(self) -> np.ndarray:
        """(N,) intensities of the lesion's voxels."""
        return self.image[self.mask]


@dataclass(frozen=True)
class Background:
    """|synthetic - source| over the voxels outside the lesions, in the images' units."""

    case: str
    kind: int
    largest: float
    mean: float
    changed_voxels: int


def read_lesion(
    image_path: Path, mask_path: Path, data_type: DataType, case: str, kind: int
) -> tuple[Lesion | None, Volume, np.ndarray]:
    """One lesion with its volume and all its labels (stored axis order); None without chosen lesion labels.

    Raises ValueError for shapes or affines that differ, labels that the data type does not know, a mask
    without anything in it, and what read_volume refuses (NaN, damaged files).
    """
    volume, labels, stored = read_pair(image_path, mask_path, data_type)
    values, reference = intensities(volume, labels, data_type)
    mask = np.isin(labels, data_type.layout.lesion_labels)
    if not mask.any():
        return None, volume, stored
    spacing_mm = Axes.of(volume, data_type.layout).spacing_mm(volume)
    part = around(mask, spacing_mm)
    crops = [np.ascontiguousarray(array[part]) for array in (values.astype(np.float32), mask, labels)]
    origin = tuple(cut.start for cut in part)
    lesion = Lesion(case, patient_of(case), kind, image_path, *crops, spacing_mm, reference, origin)
    return lesion, volume, stored


def read_pair(
    image_path: Path, mask_path: Path, data_type: DataType
) -> tuple[Volume, np.ndarray, np.ndarray]:
    """(image, its labels (D, H, W) of layout.label_dtype, the same in stored axis order), after checks; see
    read_lesion."""
    volume, mask_volume = read_volume(image_path), read_volume(mask_path)
    mask_volume = on_grid_of(mask_volume, volume)
    stored = data_type.layout.labels_of(mask_volume.labels)
    found = np.unique(stored)
    unknown = [f"{v:g}" for v in found if v not in data_type.layout.known_labels]
    if unknown:
        raise UserError(
            f"{mask_path}: holds the labels {', '.join(unknown[:5])}, but {data_type.name} has "
            f"{', '.join(map(str, data_type.layout.known_labels))}; give --lesion_labels and --other_labels"
        )
    if not found.any():
        raise UserError(f"{mask_path}: is empty; a mask needs the lesion's voxels")
    stored = stored.astype(data_type.layout.label_dtype)
    return volume, np.ascontiguousarray(Axes.of(volume, data_type.layout).to_dhw(stored)), stored


def intensities(volume: Volume, labels_dhw: np.ndarray, data_type: DataType) -> tuple[np.ndarray, float]:
    """Intensities (D, H, W) that can be compared between scans, and what was subtracted from them.

    With a fixed window: the image's units, clamped to it. Otherwise: shares of the volume's range (its own
    window where that is of percentiles, clamped to it), less their mean
    over the reference label (healthy myocardium), where there is one. Raises ValueError for a constant image.
    """
    values = Axes.of(volume, data_type.layout).to_dhw(volume.values).astype(np.float64)
    if data_type.fixed_window:
        return values.clip(*data_type.fixed_window), 0.0
    low, high = float(values.min()), float(values.max())
    if low == high:
        raise UserError(f"{volume.path}: is {low:g} everywhere; is it the image?")
    if data_type.window != "minmax":
        span = IntensityMap.of(values, data_type.window)
        low, high = span.low, span.high
        values = values.clip(low, high)
    shares = (values - low) / (high - low)
    healthy = labels_dhw == data_type.layout.reference_label
    reference = float(shares[healthy].mean()) if healthy.any() else 0.0
    return shares - reference, reference


def scale_of(data_type: DataType) -> tuple[float, float]:
    """The range that intensities of a data type lie in."""
    if data_type.fixed_window:
        return data_type.fixed_window
    return (0.0, 1.0) if data_type.layout.reference_label is None else (-1.0, 1.0)


def read_real(cases: Sequence, data_type: DataType, left_out: list[str]) -> list[Lesion]:
    """The lesions of real cases; names of cases without the chosen labels go to `left_out`."""
    lesions = []
    with tqdm(cases, unit="case", desc="reading real lesions") as progress:  # closed before an error is shown
        for case in progress:
            lesion, _, _ = read_lesion(case.image_path, case.mask_path, data_type, case.name, 0)
            if lesion is None:
                left_out.append(case.name)
            else:
                lesions.append(lesion)
    return lesions


def read_synthetic(
    files: Sequence[tuple[str, int, Path, Path]],
    data_type: DataType,
    painted_labels: Sequence[int],
    sources: dict[str, Path] | None,
    left_out: list[str],
    edit_margin_mm: float = 0.0,
) -> tuple[list[Lesion], list[Background]]:
    """Lesions of synthetic images, and what changed outside them where sources are given.

    files: (case, type, image, mask). painted_labels: everything under these labels, and within edit_margin_mm
    of them, may differ from the source. sources: the scan painted into, by its name. Raises ValueError for a
    case without source.
    """
    lesions, backgrounds = [], []
    with tqdm(files, unit="image", desc="reading synthetic lesions") as progress:
        for case, kind, image_path, mask_path in progress:
            lesion, volume, labels = read_lesion(image_path, mask_path, data_type, case, kind)
            if lesion is None:
                left_out.append(f"{case} (type {kind})")
            else:
                lesions.append(lesion)
            if sources is not None:
                scan = GENERATED_MASK.sub("", case)
                if scan not in sources:
                    raise UserError(f"{image_path}: --source_dir has no image of this name; check the folder")
                source = read_volume(sources[scan])
                check_same_grid(volume, source)
                painted = torch.from_numpy(np.isin(labels, painted_labels))[None]
                spacing = np.linalg.norm(volume.affine[:3, :3], axis=0).tolist()
                painted = edit_masks(painted, edit_margin_mm, spacing)[0].numpy()
                backgrounds.append(background_difference(case, kind, volume.values, source.values, painted))
    return lesions, backgrounds


def background_difference(
    case: str, kind: int, values: np.ndarray, source: np.ndarray, mask: np.ndarray
) -> Background:
    """What differs outside `mask` (bool); all three of one shape. All zero where the mask is everything."""
    difference = np.abs(values[~mask].astype(np.float64) - source[~mask])
    if not difference.size:
        return Background(case, kind, 0.0, 0.0, 0)
    return Background(
        case, kind, float(difference.max()), float(difference.mean()), int(np.count_nonzero(difference))
    )


def images_by_name(folder: str | Path, image_folder: str) -> dict[str, Path]:
    """Every image below a folder (below its image folder, if it has one), by case.

    Raises FileNotFoundError when the folder is missing or holds no image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise MissingFileError(f"{root}: no such folder; check --source_dir")
    root = root / image_folder if (root / image_folder).is_dir() else root
    found = {case_name(scan.name): scan.path for scan in find_scans(root)}
    if not found:
        raise MissingFileError(f"{root}: holds no image ({', '.join(ENDINGS)} or DICOM); check --source_dir")
    return found


def around(mask: np.ndarray, spacing_mm: Sequence[float]) -> tuple[slice, slice, slice]:
    """The mask's bounding box with MARGIN_MM around it, cut at the volume."""
    margin = [max(1, round(MARGIN_MM / mm)) for mm in spacing_mm]
    return extent(mask).grown(margin).within(mask.shape).slices
