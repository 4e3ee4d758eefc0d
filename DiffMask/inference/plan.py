"""Where the masks go: reads every scan, finds its organ, draws or reads the spheres, before any is made."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from DiffMask.grid import MaskGrid
from DiffMask.placement.sectors import Sector, draw_sector, no_reflow_mask, sector_mask
from DiffMask.placement.spheres import LungScene, Placement, place_lesions, sphere_around
from DiffMask.postprocess import CORNERS
from LeFusion.dataset.cases import GENERATED, Layout, find_cases, find_images
from LeFusion.dataset.grid import spacing_depth_first, to_depth_first
from LeFusion.dataset.nifti import Volume, read_volume
from LeFusion.diffusion import address_seed
from LeFusion.errors import MissingFileError, UserError
from LeFusion.hearts.transfer import Anatomy, septal_angle, wall_coordinates
from LeFusion.runtime.commandline import absolute_path, given_path

PLACED, FROM_MASKS = "placed", "masks"
COLUMNS = ("x_mm", "y_mm", "z_mm", "diameter_mm")  # of a table of spheres; and case, where scans are several


@dataclass(frozen=True)
class Scan:
    """An image as stored. mask_path: of its own mask or labels, None without one."""

    name: str
    path: Path
    mask_path: Path | None = None


@dataclass
class Draft:
    """A mask to be made: number `number` (from 1) of a scan.

    Lungs: `placement` and `grid`, and of the organ the part in the grid's box (None: no organ to keep to).
    Hearts: `labels`, the whole label map with the infarct in it (D, H, W) uint8, and `sector`.
    """

    scan: Scan
    number: int
    spacing_mm: tuple[float, float, float]
    placement: Placement | None = None
    grid: MaskGrid | None = None
    box: tuple[slice, slice, slice] | None = None
    organ: np.ndarray | None = None
    labels: np.ndarray | None = None
    sector: Sector | None = None
    facts: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.scan.name}{GENERATED}{self.number}"


def find_scans(config: dict, layout: Layout) -> list[Scan]:
    """The scans of dataset_root_dir: a folder with the layout's image folder in it, of images, or one image.

    A mask is looked for where the settings need one: a heart's labels, the masks of spheres=masks. Raises
    ValueError when what is to be written lies among the scans, where it would be taken for one later.
    """
    root = given_path(config["dataset_root_dir"])
    folder = root / layout.image_folder
    folder = folder if folder.is_dir() else root
    output_dir = absolute_path(config["output_dir"]).resolve()
    if output_dir.is_relative_to(folder.resolve()):
        raise UserError(f"output_dir={output_dir} lies in the folder of the scans, {folder}; choose another")
    if layout.myocardium_label is not None or config["spheres"] == FROM_MASKS:
        cases = find_cases(root, layout, mask_dir=given_path(config["masks_from"]))
        return [Scan(case.name, case.image_path, case.mask_path) for case in cases]
    images = find_images(folder)
    if not images:
        raise MissingFileError(f"{root}: no NIfTI file in it; give a folder of scans, or one scan")
    return [Scan(name, path) for name, path in images.items()]


# --- spheres --------------------------------------------------------------------


class SphereDrafts:
    """scan -> its drafts, for organs in which a lesion is a mask made from a sphere.

    size, spacing_mm: of the network's box. spheres: `placed` in the organ, the spheres of the scan's own
    `masks`, or a CSV file of them. Raises ValueError, naming the scan, where that does not work out.
    """

    def __init__(self, config: dict, layout: Layout, scans: Sequence[Scan], size: Sequence[int], spacing_mm):
        self.layout, self.size, self.spacing_mm = layout, tuple(size), tuple(spacing_mm)
        self.count, self.seed, self.spheres = config["masks_per_scan"], config["seed"], config["spheres"]
        self.options = {k: config[k] for k in ("diameter_mm", "border_mm", "inside_share", "vessel_share")}
        self.separate = config["separate"]
        self.organs, self.lesions = (
            _beside(given_path(config[key]), key, len(scans)) for key in ("organ_masks", "lesion_masks")
        )
        self.table = None
        if self.spheres not in (PLACED, FROM_MASKS):
            self.table = read_spheres(given_path(self.spheres), len(scans))
            unknown = sorted(set(self.table) - {"", *(scan.name for scan in scans)})
            if unknown:
                raise UserError(f"{self.spheres}: there is no scan {unknown[0]}, of which it has spheres")

    def __call__(self, scan: Scan) -> list[Draft]:
        volume = read_volume(scan.path)
        spacing = spacing_depth_first(volume.affine, self.layout.depth_axis)
        image = to_depth_first(volume.values, self.layout.depth_axis)
        organ, lesions = (
            None if path is None else self._mask(path, volume)
            for path in (self.organs(scan), self.lesions(scan))
        )
        try:
            own = None
            if self.spheres == FROM_MASKS:  # they lie in the organ, even where it does not look like it
                own = self._mask(scan.mask_path, volume, self.layout.lesion_labels)
                organ = None if organ is None else organ | own
                lesions = own if lesions is None else lesions | own
            scene = LungScene(image, spacing, organ, lesions)
            return [
                self._draft(scan, number, spacing, placement, scene.lung)
                for number, placement in enumerate(self._placements(scan, scene, volume, own), start=1)
            ]
        except ValueError as error:
            raise UserError(f"{scan.path}: {error}") from None

    def _placements(
        self, scan: Scan, scene: LungScene, volume: Volume, own: np.ndarray | None
    ) -> list[Placement]:
        if self.spheres == PLACED:
            address = (self.seed, "placement", scan.name)
            return place_lesions(scene, self.count, address, self.separate, **self.options)
        if self.spheres == FROM_MASKS:
            parts, count = ndimage.label(own, CORNERS)
            if count == 0:
                raise UserError(f"its mask {scan.mask_path} has no lesion to take a sphere from")
            found = []
            for part in range(1, count + 1):
                around = sphere_around(parts == part, scene.spacing_mm)
                diameter = max(around.diameter_mm, 2 * min(scene.spacing_mm))
                found.append(scene.place(around.centre_dhw, diameter, may_overhang=True))
        else:
            rows = [*self.table.get(scan.name, []), *self.table.get("", [])]
            if not rows:
                raise UserError(f"{self.spheres} has no sphere for it")
            found = []
            for x, y, z, diameter_mm in rows:
                stored = np.linalg.solve(volume.affine, (x, y, z, 1))[:3]
                axis = self.layout.depth_axis
                centre = (stored[axis], *np.delete(stored, axis))
                found.append(scene.place(np.round(centre, 3), diameter_mm))
        return [placement for placement in found for _ in range(self.count)]

    def _draft(self, scan, number, spacing, placement: Placement, organ: np.ndarray) -> Draft:
        grid = MaskGrid.around(
            placement.centre_dhw, placement.diameter_mm, spacing, self.size, self.spacing_mm
        )
        box = grid.box(organ.shape)
        if placement.inside_share == 0:
            raise UserError(
                f"the sphere of {placement.diameter_mm:.1f} mm at voxel {placement.centre_dhw} is not in the "
                "organ"
            )
        return Draft(scan, number, spacing, placement, grid, box, organ[box].copy())

    def _mask(self, path: Path, volume: Volume, labels: Sequence[int] = ()) -> np.ndarray:
        """A mask (D, H, W) bool on the scan's grid: of these labels, or of all above 0."""
        values = read_volume(path).values
        if values.shape != volume.raw.shape:
            raise UserError(
                f"{path}: has shape {values.shape} but its scan {volume.path} has {volume.raw.shape}"
            )
        return to_depth_first(np.isin(values, labels) if labels else values > 0, self.layout.depth_axis)


def read_spheres(path: Path, scans: int) -> dict[str, list[tuple[float, ...]]]:
    """A CSV file of spheres -> (x, y, z, diameter) in mm and NIfTI's world axes (RAS), by name of the scan.

    Its columns: x_mm, y_mm, z_mm (or x, y, z), diameter_mm and, where there are several scans, case. Rows
    without a case are under "". Raises FileNotFoundError and ValueError, with the row.
    """
    if not path.is_file():
        raise MissingFileError(f"spheres={path}: give placed, masks, or a CSV file of spheres")
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list[tuple[float, ...]]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            values = tuple(
                float(row[column] if column in row else row[column.removesuffix("_mm")]) for column in COLUMNS
            )
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{path}, line {number}: needs numbers in the columns {', '.join(COLUMNS)}"
            ) from None
        if not np.isfinite(values).all() or values[3] <= 0:
            raise UserError(f"{path}, line {number}: {values} must be finite, the diameter above 0")
        case = row.get("case") or ""
        if not case and scans > 1:
            raise UserError(f"{path}, line {number}: has no case, but there are {scans} scans")
        found.setdefault(case, []).append(values)
    if not found:
        raise UserError(f"{path}: holds no sphere")
    return found


def _beside(path: Path | None, key: str, scans: int) -> Callable[[Scan], Path | None]:
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


# --- hearts ---------------------------------------------------------------------


class SectorDrafts:
    """scan -> its drafts, for hearts: infarcts drawn in the wall, with no-reflow inside.

    The labels of the scan say where cavity and myocardium are. Raises ValueError, naming them, where they
    are missing, hold lesions already, or the infarct cannot lie.
    """

    def __init__(self, config: dict, layout: Layout):
        self.layout, self.count, self.seed = layout, config["masks_per_scan"], config["seed"]
        self.redraws = config["max_redraws"]
        self.anatomy = Anatomy(layout.cavity_label, layout.myocardium_label)
        self.options = {
            "angle": _radians(config["angle_deg"]),
            "half_angle": _radians(config["half_angle_deg"]),
            "transmurality": config["transmurality"],
            "heights": config["heights"],
            "no_reflow_share": config["no_reflow_share"],
        }

    def __call__(self, scan: Scan) -> list[Draft]:
        image, mask = read_volume(scan.path), read_volume(scan.mask_path)
        if image.raw.shape != mask.raw.shape:
            raise UserError(
                f"{scan.mask_path}: has shape {mask.raw.shape} but its scan {scan.path} has {image.raw.shape}"
            )
        axis = self.layout.depth_axis
        labels = to_depth_first(mask.values, axis)
        values = to_depth_first(image.values, axis)
        spacing = spacing_depth_first(image.affine, axis)
        try:
            labels = self._check(labels)
            try:
                angle = septal_angle(values, labels, self.anatomy, ())
            except ValueError:
                angle = None  # no septum to be seen: all angles are equally likely
            return [self._draft(scan, number, spacing, labels, angle) for number in range(1, self.count + 1)]
        except ValueError as error:
            raise UserError(f"{scan.mask_path}: {error}") from None

    def _check(self, labels: np.ndarray) -> np.ndarray:
        """The labels as uint8."""
        known = (0, *self.layout.lesion_labels, *self.layout.other_labels)
        unknown = sorted(set(np.unique(labels).tolist()) - set(known))
        if unknown:
            found = ", ".join(f"{value:g}" for value in unknown[:5])
            raise UserError(f"holds the unknown labels {found}; it may hold only {sorted(known)}")
        if np.isin(labels, self.layout.lesion_labels).any():
            raise UserError("holds lesions already; masks are made for normal hearts")
        for part, label in (("myocardium", self.anatomy.myocardium), ("cavity", self.anatomy.cavity)):
            if not (labels == label).any():
                raise UserError(f"no {part} found: no voxel has the label {label}")
        wall_coordinates(labels, self.anatomy, ())
        return np.ascontiguousarray(labels, dtype=np.uint8)

    def _draft(self, scan, number, spacing, labels: np.ndarray, angle: float | None) -> Draft:
        reason = None
        for attempt in range(self.redraws + 1):
            address = (self.seed, "sector", scan.name, number, attempt)
            generator = torch.Generator().manual_seed(address_seed(*address))
            sector = draw_sector(generator, angle, **self.options)
            try:
                infarct = sector_mask(labels, self.anatomy, sector, generator)
            except ValueError as error:
                reason = error
                continue
            core = no_reflow_mask(infarct, labels, self.anatomy, sector.no_reflow_share, spacing, generator)
            made = labels.copy()
            made[infarct] = self.layout.lesion_labels[0]
            made[core] = self.layout.lesion_labels[-1]
            facts = {"attempt": attempt, "septal_angle": angle}
            return Draft(
                scan,
                number,
                spacing,
                sphere_around(infarct, spacing),
                labels=made,
                sector=sector,
                facts=facts,
            )
        raise UserError(
            f"no infarct found a place in {self.redraws + 1} draws (mask {number}, seed {self.seed}): "
            f"{reason}"
        )


def _radians(degrees: float | Sequence[float] | None) -> float | list[float] | None:
    return None if degrees is None else np.radians(degrees).tolist()
