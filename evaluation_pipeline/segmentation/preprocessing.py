"""From stored volumes to what the network sees: normalisation, spacing, padding, crops and augmentation.

Axes stay as they are stored. All randomness of a sample is drawn from (seed, number of the sample in the
training), so that it depends neither on workers nor on where a training was stopped and resumed.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset
from monai.transforms import (
    Compose,
    FgBgToIndicesd,
    MapTransform,
    NormalizeIntensity,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    ScaleIntensityRange,
    SpatialPadd,
)
from nibabel.affines import voxel_sizes
from scipy import ndimage
from torch import Tensor

from evaluation_pipeline.cases.nnunet_layout import CT_WINDOW
from evaluation_pipeline.judging.metrics import ANY_NEIGHBOUR
from LeFusion.dataset.axes import THICK
from LeFusion.dataset.boxes import Box
from LeFusion.dataset.grid import resample_masks, resample_part
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import Volume, check_same_grid
from LeFusion.errors import UserError

SAME_SPACING = 0.02  # spacings that differ by less from the median are left as they are
ANISOTROPIC = 3.0  # from this ratio of spacings on, nothing is turned out of the plane (as in nnU-Net)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input, at training and at prediction.

    modality: "CT" (`window`, in HU, to [0, 1]; padding is 0, so air) or "MR" (mean 0, deviation 1 of
    each volume).
    spacing_mm: of the network's voxels, in the stored axis order; images of others are brought to it.
    resample: False where all training images had the same, to SAME_SPACING: then such are left as they are.
    """

    modality: str
    spacing_mm: tuple[float, float, float]
    resample: bool
    patch_size: tuple[int, int, int]
    window: tuple[float, float] = CT_WINDOW

    def __post_init__(self):
        object.__setattr__(self, "spacing_mm", tuple(float(value) for value in self.spacing_mm))
        object.__setattr__(self, "patch_size", tuple(int(value) for value in self.patch_size))
        object.__setattr__(self, "window", tuple(float(value) for value in self.window))

    def as_dict(self) -> dict[str, Any]:
        """Plain Python, for a checkpoint; `Preprocessing(**plain)` reads it back. The usual window is left
        out, as in checkpoints of earlier versions."""
        plain = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        return {key: v for key, v in plain.items() if key != "window" or self.window != CT_WINDOW}

    def image(self, volume: Volume) -> Tensor:
        """(1, *grid) float32, normalised, at the network's spacing."""
        values = torch.from_numpy(np.ascontiguousarray(volume.values, np.float32))[None]
        if self.modality == "CT":
            values = ScaleIntensityRange(*self.window, 0.0, 1.0, clip=True)(values)
        else:
            values = NormalizeIntensity()(values)
        return resample(values, self.grid(volume))

    def label(self, volume: Volume) -> Tensor:
        """(1, *grid) float32 label map at the network's spacing, for training; see `resample_labels`."""
        labels = np.asarray(volume.labels, np.float32)
        if labels.shape != self.grid(volume):
            values = np.unique(labels)
            shares = (torch.from_numpy(labels == value).float() for value in values)
            labels = values[resample_labels(np.searchsorted(values, labels), shares, self.grid(volume))]
        return torch.from_numpy(np.ascontiguousarray(labels))[None]

    def to_stored(self, probabilities: Tensor, volume: Volume) -> np.ndarray:
        """(C, *grid) probabilities of the classes -> (*stored shape) uint8 labels: the way back for a
        prediction."""
        labels = probabilities.argmax(dim=0).numpy()
        if labels.shape != volume.raw.shape:
            labels = resample_labels(labels, probabilities, volume.raw.shape)
        return labels.astype(np.uint8)

    def grid(self, volume: Volume) -> tuple[int, ...]:
        """The shape of the volume at the network's spacing.

        Raises UserError for slices along another axis than those that the network was trained on.
        """
        check_slices([volume.path], [spacing_of(volume)], slice_axis(self.spacing_mm))
        scale = spacing_of(volume) / np.array(self.spacing_mm)
        if not self.resample and np.abs(scale - 1).max() <= SAME_SPACING:
            return volume.raw.shape
        return tuple(max(1, round(n * s)) for n, s in zip(volume.raw.shape, scale, strict=True))


def spacing_of(volume: Volume) -> np.ndarray:
    """(3,) mm between voxels along each stored axis."""
    return voxel_sizes(volume.affine)


def slice_axis(spacing_mm: Sequence[float]) -> int | None:
    """The stored axis along which voxels are clearly longest; None where there is none."""
    longest = int(np.argmax(spacing_mm))
    return longest if spacing_mm[longest] > THICK * sorted(spacing_mm)[1] else None


def check_slices(paths: Sequence[Path], spacings: Sequence, wanted: int | None = None) -> None:
    """Raises UserError, naming the file, for an image whose slices lie along another stored axis than those
    of most, or than the wanted axis: axes are taken as stored, so it would be squeezed in its plane."""
    axes = [slice_axis(spacing) for spacing in spacings]
    known = Counter(axis for axis in axes if axis is not None)
    if wanted is None and known:
        wanted = known.most_common(1)[0][0]
    for path, axis, spacing in zip(paths, axes, spacings, strict=True):
        if axis not in (None, wanted) and wanted is not None:
            raise UserError(
                f"{path}: its slices lie along the stored axis {axis} (voxels of "
                f"{' x '.join(f'{mm:.3g}' for mm in spacing)} mm), those of the training along axis "
                f"{wanted}; store it and its label in the order of the others, for example with nibabel's "
                "as_reoriented"
            )


def check_pair(
    image_path: Path, label_path: Path, label_values: Sequence[int]
) -> tuple[tuple[int, ...], np.ndarray]:
    """(shape, spacing in mm) of an image and its label map.

    Raises ValueError, naming the file, when their shapes or affines differ or the map holds a value that is
    not among label_values.
    """
    image, label = read_volume(image_path), read_volume(label_path)
    check_same_grid(label, image)
    found = label.found_labels
    unknown = found[~np.isin(found, label_values)]
    if unknown.size:
        raise UserError(
            f"{label_path}: holds the label {', '.join(f'{value:g}' for value in unknown[:5])}; expected "
            f"only {', '.join(map(str, label_values))}. Correct the mask, or name all labels (--labels, "
            "dataset.json)"
        )
    return image.raw.shape, spacing_of(image)


def fingerprint(shapes: Sequence, spacings: Sequence) -> tuple[tuple, tuple, bool]:
    """(median shape at the target spacing, target spacing in mm, whether to resample) of a data set."""
    shapes, spacings = np.array(shapes, float), np.array(spacings, float)
    target = np.median(spacings, axis=0)
    resample = bool((np.abs(spacings / target - 1) > SAME_SPACING).any())
    grids = shapes * spacings / target if resample else shapes
    median = np.maximum(1, np.rint(np.median(grids, axis=0))).astype(int)
    return tuple(median.tolist()), tuple(target.tolist()), resample


class ReadPair(MapTransform):
    """{"image": path, "label": path} -> image and label as (1, *grid) tensors, and "lesion", where crops are
    centred: the lesion labels, or all labels where the case has no lesion."""

    def __init__(self, preprocessing: Preprocessing, lesion_labels: Sequence[int]):
        super().__init__(keys=("image", "label"))
        self.preprocessing, self.lesion_labels = preprocessing, torch.tensor(list(lesion_labels))

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Tensor]:
        image = self.preprocessing.image(read_volume(item["image"]))
        label = self.preprocessing.label(read_volume(item["label"]))
        lesion = torch.isin(label, self.lesion_labels)
        return {"image": image, "label": label, "lesion": lesion if lesion.any() else label > 0}


def cached_dataset(
    items: Sequence[Mapping[str, Any]],
    preprocessing: Preprocessing,
    lesion_labels: Sequence[int],
    cache_rate: float = 1.0,
    progress: bool = False,
) -> CacheDataset:
    """What is the same each time a case is seen: read, normalised, resampled, padded to the patch.

    items: {"image": path, "label": path} each. cache_rate: the share of the cases held in memory.
    """
    steps = [
        ReadPair(preprocessing, lesion_labels),
        SpatialPadd(("image", "label", "lesion"), preprocessing.patch_size),
        FgBgToIndicesd("lesion", fg_postfix="_inside", bg_postfix="_outside"),
    ]
    return CacheDataset(
        items, Compose(steps), cache_rate=cache_rate, num_workers=0, progress=progress, copy_cache=False
    )


def augmentation(preprocessing: Preprocessing) -> Compose:
    """A crop, centred on the lesion every second time, turned, scaled, mirrored, with noise and contrast."""
    spacing = preprocessing.spacing_mm
    coarse = max(range(3), key=lambda axis: spacing[axis])
    flat = spacing[coarse] > ANISOTROPIC * min(spacing)
    turn = np.deg2rad(20)
    rotation = [turn if not flat or axis == coarse else 0.0 for axis in range(3)]
    zoom = [0.15 if not flat or axis != coarse else 0.0 for axis in range(3)]
    both = ("image", "label")
    return Compose(
        [
            RandCropByPosNegLabeld(
                both,
                label_key="lesion",
                spatial_size=preprocessing.patch_size,
                fg_indices_key="lesion_inside",
                bg_indices_key="lesion_outside",
            ),
            RandAffined(
                both, prob=0.3, rotate_range=rotation, scale_range=zoom, mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
            RandGaussianNoised("image", prob=0.2, std=0.1 if preprocessing.modality == "MR" else 0.03),
            RandScaleIntensityd("image", factors=0.2, prob=0.3),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        ]
    )  # fmt: skip


class AddressedDataset(torch.utils.data.Dataset):
    """dataset[(index, draw)]: the case `index` with the random choices number `draw` of the training."""

    def __init__(self, cached: CacheDataset, augment: Compose, seed: int):
        self.cached, self.augment, self.seed = cached, augment, seed

    def __getitem__(self, address: tuple[int, int]) -> dict[str, Tensor]:
        index, draw = address
        self.augment.set_random_state(seed=address_seed(self.seed, "augmentation", draw))
        (sample,) = self.augment(self.cached[index])  # one crop
        return {key: torch.as_tensor(sample[key]).contiguous() for key in ("image", "label")}


def address_seed(*address: str | int) -> int:
    """A seed of 32 bits from what is being drawn, e.g. (seed, "augmentation", 17)."""
    digest = hashlib.sha256("/".join(map(str, address)).encode()).digest()
    return int.from_bytes(digest[:4], "little")


def resample(values: Tensor, shape: Sequence[int]) -> Tensor:
    """(C, D, H, W) -> (C, *shape) over the same extent: means along axes that get coarser, else linear."""
    whole = Box((0, 0, 0), tuple(shape))
    return resample_part(lambda box: values[(slice(None), *box.slices)], values.shape[1:], shape, whole)


def resample_labels(labels: np.ndarray, classes: Iterable[Tensor], shape: Sequence[int]) -> np.ndarray:
    """Labels 0, 1, ... on a grid of another shape over the same extent: (D, H, W) -> shape, uint8.

    classes: how much each voxel belongs to class 0, 1, ..., (D, H, W) each; a voxel gets the class with the
    largest share in it. A connected region of a label that has the largest share nowhere, such as a small
    lesion on thick slices, is where half as much of it is as in the voxel that has most of it.
    """
    most, found = None, np.zeros(tuple(shape), np.uint8)
    for value, belongs in enumerate(classes):
        share = resample(belongs[None], shape)[0]
        more = torch.ones_like(share, dtype=torch.bool) if most is None else share > most
        found[more.numpy()] = value
        most = share if most is None else torch.maximum(most, share)
    kept = found.copy()
    for value in range(1, int(labels.max()) + 1):
        regions, _ = ndimage.label(labels == value, ANY_NEIGHBOUR)
        for number, place in enumerate(ndimage.find_objects(regions), start=1):
            region = torch.from_numpy(regions[place] == number)[None]
            start, size = tuple(cut.start for cut in place), region.shape[1:]
            masks, box = resample_masks(region, Box(start, size), labels.shape, shape)
            mask = masks[0].numpy()
            if not (found[box.slices][mask] == value).any():
                kept[box.slices][mask] = value
    return kept
