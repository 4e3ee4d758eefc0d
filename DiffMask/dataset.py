"""Lesion masks on disk -> what DiffMask learns from: a mask in {-1, 1} and its sphere."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from DiffMask.sphere import (
    GUIDES,
    bounding_sphere,
    draw_sphere,
    encode_guide,
    encode_sphere,
    fitting_ellipsoid,
    half_axes,
)
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.boxes import Box, extent
from LeFusion.dataset.cases import (
    GENERATED,
    SPLITS,
    Layout,
    check_listed,
    find_images,
    no_test_list,
    patient_of,
    read_names,
)
from LeFusion.dataset.grid import resample_masks
from LeFusion.dataset.scans import read_volume
from LeFusion.diffusion import address_seed
from LeFusion.errors import MissingFileError, UserError

ISOTROPIC = 0.01  # share by which voxels of a mask may differ in length to be turned in all directions
TURNS = {  # the orders of the axes among which one is drawn
    "none": [(0, 1, 2)],
    "plane": [(0, 1, 2), (0, 2, 1)],
    "all": list(permutations(range(3))),
}


@dataclass(frozen=True)
class LesionMask:
    """One lesion. lesion: bool, its bounding box depth first. spacing_mm: of its voxels, depth first.

    diameter_mm: of the sphere with the lesion's volume.
    """

    name: str
    path: Path
    lesion: np.ndarray
    spacing_mm: tuple[float, float, float]

    @property
    def diameter_mm(self) -> float:
        """Of the sphere with the lesion's volume."""
        return float(np.cbrt(6 / np.pi * self.lesion.sum() * np.prod(self.spacing_mm)))

    def shrunk(self, size: Sequence[int]) -> "LesionMask":
        """The same lesion on larger voxels, as few times larger as lets it fit into `size`."""
        factor = max(n / most for n, most in zip(self.lesion.shape, size, strict=True))
        shape = [
            min(max(1, round(n / factor)), most) for n, most in zip(self.lesion.shape, size, strict=True)
        ]
        whole = Box((0, 0, 0), self.lesion.shape)
        lesion, _ = resample_masks(torch.from_numpy(self.lesion)[None], whole, whole.size, shape)
        return LesionMask(
            self.name, self.path, tight(lesion[0].numpy()), tuple(s * factor for s in self.spacing_mm)
        )


def find_masks(
    root_dir: str | Path, layout: Layout, test_txt: str | Path | None = None, split: str = "all"
) -> dict[str, Path]:
    """The mask files of a data set by name, sorted.

    root_dir: a folder of masks, in sub-folders or not; or the folder that holds the layout's mask folder; or
        its image folder, beside that. Images are not needed.
    test_txt, split: see find_cases. The names listed are of images, or of the masks themselves.

    Raises FileNotFoundError or ValueError, in one line.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    root = Path(root_dir).absolute()
    inside, beside = root / layout.mask_folder, root.parent / layout.mask_folder
    folder = inside if inside.is_dir() else beside if root.name == layout.image_folder else root
    masks = {name: path for name, path in find_images(folder).items() if GENERATED not in name}
    if not masks:
        raise MissingFileError(f"{folder}: no NIfTI file in it; give the folder of the masks")
    if split == "all":
        return masks
    if test_txt is None:
        raise no_test_list(split)
    listed = {_mask_name(name, layout) for name in read_names(test_txt)}
    check_listed(test_txt, listed, masks, f"{len(masks)} masks in {folder}")
    chosen = {name: path for name, path in masks.items() if (name in listed) == (split == "test")}
    if not chosen:
        raise MissingFileError(
            f"{folder}: no mask found (split {split}, {len(masks)} masks seen, {len(listed)} names in "
            f"{test_txt}); check the folder and the split"
        )
    return chosen


def hold_out(
    masks: dict[str, Path], layout: Layout, share: float, seed: int
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Masks to train on and masks to validate on, those of `share` of the patients, at least one.

    Who is held out depends on the seed and the patients' names only. Raises UserError for a share outside
    (0, 1) and where nobody is left to train on.
    """
    if not isinstance(share, int | float) or not 0 < share < 1:
        raise UserError(f"validation_share={share!r} must be above 0 and below 1")
    parts = [part for pair in layout.mask_names for part in pair]
    patient = {name: patient_of(name, parts) for name in masks}
    patients = sorted(set(patient.values()), key=lambda name: address_seed(seed, "validation", name))
    count = max(1, round(share * len(patients)))
    if count >= len(patients):
        raise UserError(
            f"validation_share={share} holds {count} of {len(patients)} patients out, which leaves none to "
            "train on; set validation_masks=0, or add masks"
        )
    held_out = set(patients[:count])
    divided = {}, {}
    for name, path in masks.items():
        divided[patient[name] in held_out][name] = path
    return divided


def read_lesion(name: str, path: Path, layout: Layout) -> LesionMask | None:
    """Reads a mask; every lesion label of the layout counts. None when it holds no lesion.

    Raises ValueError with the file and the value for unreadable files and labels that the layout does not
    know.
    """
    volume = read_volume(path)
    axes = Axes.of(volume, layout)
    labels = layout.labels_of(axes.to_dhw(volume.labels))
    known = layout.known_labels
    unknown = np.unique(labels[~_any_of(labels, known)])
    if unknown.size:
        raise UserError(
            f"{path}: holds the unknown values {', '.join(f'{v:g}' for v in unknown[:5])}; a mask may hold "
            f"only {', '.join(map(str, sorted(known)))}"
        )
    lesion = _any_of(labels, layout.lesion_labels)
    if not lesion.any():
        return None
    spacing = axes.spacing_mm(volume)
    return LesionMask(name, path, tight(lesion), tuple(round(s, 4) for s in spacing))


def tight(lesion: np.ndarray) -> np.ndarray:
    """The bounding box of what is set in a bool array (D, H, W)."""
    return np.ascontiguousarray(lesion[extent(lesion).slices])


class MaskDataset(Dataset):
    """Lesion masks as items for training and validation; all are read when it is made.

    masks: name -> path, see find_masks.
    size: (depth, height, width) of an item, the lesion's bounding box in its middle. Larger lesions have
        their names in `too_large`.
    shrink: show the larger lesions on larger voxels, on which they fit, instead of leaving them out, or of a
        ValueError when none fits.
    sphere: its encoding, "signed" or "released". guide: "sphere", or "ellipsoid" to show in it the
        ellipsoid of the lesion's second moments.
    augment: random flips, turns and shifts. turns: "plane" = by 90 degrees in the plane of the slices, where
        the lesion then fits; "all" = in any plane, for voxels that are cubes; "none". max_shift: voxels along
        each axis, as far as the lesion stays inside.
    skip_empty: leave masks without lesion out, their names in `empty`, instead of refusing them.
    seed: what is drawn depends on (seed, name, draw) only.

    An item is a dict: mask (1, D, H, W) float32 in {-1, 1}; sphere (1, D, H, W) float32; name; diameter_mm.
    """

    def __init__(
        self,
        masks: dict[str, Path],
        layout: Layout,
        size: Sequence[int] = (32, 64, 64),
        sphere: str = "signed",
        guide: str = "sphere",
        shrink: bool = False,
        augment: bool = False,
        turns: str = "plane",
        max_shift: int = 2,
        skip_empty: bool = False,
        seed: int = 0,
    ):
        whole = not isinstance(size, int) and all(isinstance(n, int) for n in size)
        if not whole or len(size) != 3 or min(size) < 1:
            raise UserError(f"size {size} must be three whole numbers above 0 (depth, height, width)")
        if turns not in TURNS:
            raise UserError(f"turns={turns!r} must be one of {', '.join(TURNS)}")
        if not isinstance(max_shift, int) or max_shift < 0:
            raise UserError(f"max_shift={max_shift!r} must be a whole number of at least 0")
        encode_sphere(torch.zeros(1, dtype=torch.bool), sphere)  # refuses an unknown encoding
        if guide not in GUIDES:
            raise UserError(f"guide={guide!r} must be one of {', '.join(GUIDES)}")
        self.size, self.sphere, self.guide, self.seed = tuple(size), sphere, guide, int(seed)
        self.shrink, self.augment, self.turns, self.max_shift = shrink, augment, turns, max_shift
        self.lesions: list[LesionMask] = []
        self.too_large: list[str] = []
        self.empty: list[str] = []
        for name, path in masks.items():
            found = read_lesion(name, path, layout)
            if found is None and not skip_empty:
                raise UserError(
                    f"{path}: has no lesion voxel (label {' or '.join(map(str, layout.lesion_labels))}); "
                    "draw the lesion, leave the file out, or set skip_empty=true"
                )
            if found is None:
                self.empty.append(name)
                continue
            if any(n > most for n, most in zip(found.lesion.shape, self.size, strict=True)):
                self.too_large.append(name)
                if not shrink:
                    continue
                found = found.shrunk(self.size)
            self.lesions.append(found)
            if augment and turns == "all" and max(found.spacing_mm) > (1 + ISOTROPIC) * min(found.spacing_mm):
                raise UserError(f"{path}: its voxels of {found.spacing_mm} mm are no cubes; turns=plane")
        if not self.lesions:
            raise UserError(
                f"no lesion fits into {self.size}: of {len(masks)} masks {len(self.too_large)} are larger "
                f"and {len(self.empty)} empty"
            )

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """The median size of the voxels, depth first."""
        return tuple(float(v) for v in np.median([lesion.spacing_mm for lesion in self.lesions], axis=0))

    def ellipsoids(self, most: int = 600) -> list[list[float]]:
        """Of up to `most` lesions, by size: radius of the sphere in mm, half axes of the ellipsoid in radii.

        What inference draws ellipsoids from (see drawn_axes).
        """
        rows = []
        for found in self.lesions:
            voxels = np.argwhere(found.lesion)
            radius = max(np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).max(), 1.0)
            axes = half_axes(fitting_ellipsoid(found.lesion)) / radius
            rows.append([round(float(v), 3) for v in (radius * max(found.spacing_mm), *axes)])
        rows.sort()
        return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]

    def __len__(self) -> int:
        return len(self.lesions)

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        """Item `index` of draw 0, or of the draw in a pair (index, draw) as a sampler may yield it."""
        index, draw = index if isinstance(index, tuple) else (index, 0)
        found = self.lesions[index]
        lesion, shift = found.lesion, (0, 0, 0)
        if self.augment:
            lesion, shift = self._vary(
                lesion, np.random.default_rng(address_seed(self.seed, found.name, draw))
            )
        mask = torch.from_numpy(place(lesion, self.size, shift))
        inside = draw_sphere(bounding_sphere(mask), self.size)
        ellipsoid = fitting_ellipsoid(mask) if self.guide == "ellipsoid" else None
        return {
            "mask": (mask.float() * 2 - 1)[None],
            "sphere": encode_guide(inside, ellipsoid, self.sphere)[None],
            "name": found.name,
            "diameter_mm": found.diameter_mm,
        }

    def _vary(self, lesion: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, ...]]:
        orders = [
            order
            for order in TURNS[self.turns]
            if all(lesion.shape[axis] <= most for axis, most in zip(order, self.size, strict=True))
        ]
        turned = lesion.transpose(orders[rng.integers(len(orders))])
        flipped = np.flip(turned, np.flatnonzero(rng.random(3) < 0.5))
        shift = rng.integers(-self.max_shift, self.max_shift, size=3, endpoint=True)
        return flipped, tuple(int(s) for s in shift)


def place(lesion: np.ndarray, size: Sequence[int], shift: Sequence[int] = (0, 0, 0)) -> np.ndarray:
    """A box (d, h, w) in the middle of an empty volume of `size`, moved by `shift` but never out of it."""
    volume = np.zeros(size, lesion.dtype)
    starts = [
        min(max((most - n) // 2 + s, 0), most - n)
        for most, n, s in zip(size, lesion.shape, shift, strict=True)
    ]
    volume[tuple(slice(s, s + n) for s, n in zip(starts, lesion.shape, strict=True))] = lesion
    return volume


def _any_of(labels: np.ndarray, wanted: Sequence[int]) -> np.ndarray:
    """np.isin, which for the floats of a volume would sort them all."""
    return np.logical_or.reduce([labels == label for label in wanted])


def _mask_name(listed: str, layout: Layout) -> str:
    """The name of the mask of an image, both without ending; a mask's own name stays."""
    for image_part, mask_part in layout.mask_names:
        if image_part in listed:
            before, _, after = listed.rpartition(image_part)
            return before + mask_part + after
    return listed
