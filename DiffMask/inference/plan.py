"""The scans of a run and the masks to be made for each; where they go is said before the first is made."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from DiffMask.grid import MaskGrid
from DiffMask.placement.sectors import Sector
from DiffMask.placement.spheres import Placement
from DiffMask.settings import FROM_MASKS, MaskInferenceSettings
from LeFusion.dataset.cases import (
    GENERATED,
    find_cases,
    find_images,
    locate_folders,
    refuse_among_sources,
    refuse_masks,
)
from LeFusion.dataset.volume import Volume
from LeFusion.errors import MissingFileError, UserError, pass_over
from LeFusion.runtime.commandline import absolute_path, given_path


@dataclass(frozen=True)
class Scan:
    """An image as stored. mask_path: of its own mask or labels, None without one."""

    name: str
    path: Path
    mask_path: Path | None = None


@dataclass(frozen=True, eq=False)
class Draft:
    """A mask to be made.

    Attributes:
        scan, number: it is mask `number` (from 1) of that scan.
        spacing_mm: (depth, height, width) of the scan's voxels.
        placement: the sphere that it is made from, or that lies around it.
        stored_shape: of the scan.
        inputs: see digest.
        type: name or number of the texture to paint; None: not said.
        grid: of lungs, the network's; `box` is the part of the scan (D, H, W) that it covers, and `organ`
            (D, H, W) bool, in that box, what the mask has to keep to; None: anything.
        labels: of hearts, (D, H, W), the whole label map with the infarct in it; `sector` is what was drawn,
            and `facts` are further columns of the table.
    """

    scan: Scan
    number: int
    spacing_mm: tuple[float, float, float]
    placement: Placement
    stored_shape: tuple[int, ...] = ()
    inputs: str = ""
    type: str | int | None = None
    grid: MaskGrid | None = None
    box: tuple[slice, slice, slice] | None = None
    organ: np.ndarray | None = None
    labels: np.ndarray | None = None
    sector: Sector | None = None
    facts: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.scan.name}{GENERATED}{self.number}"


def digest(volume: Volume, *more: np.ndarray | str | None) -> str:
    """A hash of a scan and of what else a mask is made from (masks, a given sphere): 16 hex digits."""
    described = (volume.raw.dtype.str, volume.slope, volume.inter, volume.affine.tolist())
    made = hashlib.sha256(repr(described).encode())
    for part in (volume.raw, *more):
        array = isinstance(part, np.ndarray)
        made.update(repr(part.shape if array else part).encode())
        if array:
            made.update(np.ascontiguousarray(part.T))  # as NIfTI stores it: without a copy
    return made.hexdigest()[:16]


def find_scans(settings: MaskInferenceSettings, skipped: list[str] | None = None) -> list[Scan]:
    """The scans of dataset_root_dir: a folder with the layout's image folder in it, of images, or one image.

    A mask is looked for where the settings need one: a heart's labels, the masks of spheres=masks. Scans
    without it are reported to `skipped`; None makes them an error. Raises ValueError when what is to be
    written lies among the scans or the masks that are read.
    """
    layout, root = settings.layout, given_path(settings.dataset_root_dir)
    folder = root / layout.image_folder
    folder = folder if folder.is_dir() else root
    output_dir = absolute_path(settings.output_dir)
    others = (given_path(masks) for masks in (settings.organ_masks, settings.lesion_masks))
    refuse_among_sources({"output_dir": output_dir}, (folder, *others))
    if layout.hearts or settings.spheres == FROM_MASKS:
        masks_from = given_path(settings.masks_from)
        cases = find_cases(root, layout, skipped=(missing := []), mask_dir=masks_from)
        for reason in missing:
            pass_over(MissingFileError(reason), skipped)
        refuse_among_sources({"output_dir": output_dir / "Mask"}, locate_folders(root, layout, masks_from))
        return [Scan(case.name, case.image_path, case.mask_path) for case in cases]
    images = find_images(folder)
    if not images:
        raise MissingFileError(f"{root}: holds no scan; give a folder of scans, or one scan")
    refuse_masks(images, folder, layout, "dataset_root_dir")
    return [Scan(name, path) for name, path in images.items()]


def beside(path: Path | None, key: str, scans: int) -> Callable[[Scan], Path | None]:
    """scan -> the file of its name below a folder; or the one file given, for one scan."""
    if path is None:
        return lambda scan: None
    if not path.exists():
        raise MissingFileError(f"{key}={path}: no such folder or file")
    masks = find_images(path)
    if path.is_file() and scans > 1:
        raise UserError(f"{key}={path} is one file, but there are {scans} scans; give a folder")

    def find(scan: Scan) -> Path:
        if path.is_file():
            return path
        if scan.name not in masks:
            raise MissingFileError(f"{path}: holds no {scan.name}.nii.gz, the mask of {scan.path}")
        return masks[scan.name]

    return find


def plan(
    scans: Sequence[Scan], drafts_of: Callable[[Scan], list[Draft]], skipped: list[str] | None, shown: bool
) -> list[Draft]:
    """Reads and checks every scan before the first mask is made. Reasons for skipping go to `skipped`."""
    drafts = []
    for scan in tqdm(scans, unit="scan", desc="placing", leave=False, disable=not shown):
        try:
            drafts += drafts_of(scan)
        except UserError as error:
            pass_over(error, skipped)
    return drafts
