"""Drafts from spheres: drawn in the organ, around the lesions of own masks, or read from a table."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from DiffMask.grid import MaskGrid
from DiffMask.inference.plan import FROM_MASKS, PLACED, Draft, Scan, beside, digest
from DiffMask.placement.spheres import LungScene, Placement, place_lesions, sphere_around
from DiffMask.postprocess import CORNERS
from LeFusion.dataset.cases import GENERATED, Layout
from LeFusion.dataset.grid import spacing_depth_first, to_depth_first
from LeFusion.dataset.nifti import Volume, read_volume
from LeFusion.errors import MissingFileError, UserError
from LeFusion.runtime.commandline import given_path

COLUMNS = ("x_mm", "y_mm", "z_mm", "diameter_mm")  # of a table of spheres; and case, where scans are several
WHOLE = 3  # times the slices of the network's region: more of them are no region


@dataclass(frozen=True)
class Site:
    """A sphere that is given, in NIfTI's world axes. type: name or number of its texture; None: not said."""

    x_mm: float
    y_mm: float
    z_mm: float
    diameter_mm: float
    type: str | int | None = None


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
        self.region_depth, self.data_type = config["diffusion_depth_size"], config["data_type"]
        self.organs, self.lesions = (
            beside(given_path(config[key]), key, len(scans)) for key in ("organ_masks", "lesion_masks")
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
            self._refuse_turned(volume)
            own = None
            if self.spheres == FROM_MASKS:  # they lie in the organ, even where it does not look like it
                own = self._mask(scan.mask_path, volume, self.layout.lesion_labels)
                organ = None if organ is None else organ | own
                lesions = own if lesions is None else lesions | own
            scene = LungScene(image, spacing, organ, lesions)
            drafts = []
            for number, placement in enumerate(self._placements(scan, scene, volume, own), start=1):
                site = repr(placement) if self.table else ""  # drawn ones follow from the settings
                inputs = digest(volume, organ, lesions, own, site)
                drafts.append(self._draft(scan, number, spacing, placement, scene.lung, inputs))
            for draft, site in zip(drafts, self._sites(scan), strict=False):
                draft.type = site.type
            return drafts
        except UserError as error:
            raise UserError(f"{scan.path}: {error}") from None

    def _refuse_turned(self, volume: Volume) -> None:
        """A whole CT whose slices lie along another axis than the layout's.

        Regions pass, as do volumes with square slices along the layout's axis: the affines of LIDC regions
        give the voxel size only.
        """
        axis = self.layout.depth_axis
        axial = int(np.abs(volume.affine[2, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)).argmax())
        rows, columns = np.delete(volume.raw.shape, axis)
        if axial != axis and volume.raw.shape[axis] > WHOLE * self.region_depth and rows != columns:
            fitting = "data_type=chest_ct" if axial == 2 else f"layout.depth_axis={axial}"
            raise UserError(
                f"the slices of this whole CT of {volume.raw.shape} lie along axis {axial}, not {axis} as "
                f"with data_type={self.data_type}; use {fitting}"
            )

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
            sites = self._sites(scan)
            if not sites:
                raise UserError(f"{self.spheres} has no sphere for it")
            found = []
            for site in sites:
                stored = np.linalg.solve(volume.affine, (site.x_mm, site.y_mm, site.z_mm, 1))[:3]
                axis = self.layout.depth_axis
                centre = (stored[axis], *np.delete(stored, axis))
                found.append(scene.place(np.round(centre, 3), site.diameter_mm))
        return found

    def types(self, scans: Sequence[Scan]) -> dict[str, str | int]:
        """The textures that the table gives the lesions, by the names of their masks."""
        return {
            f"{scan.name}{GENERATED}{number}": site.type
            for scan in scans
            for number, site in enumerate(self._sites(scan), start=1)
            if site.type is not None
        }

    def _sites(self, scan: Scan) -> list[Site]:
        table = self.table or {}
        return [*table.get(scan.name, []), *table.get("", [])]

    def _draft(self, scan, number, spacing, placement: Placement, organ: np.ndarray, inputs: str) -> Draft:
        grid = MaskGrid.around(
            placement.centre_dhw, placement.diameter_mm, spacing, self.size, self.spacing_mm
        )
        box = grid.box(organ.shape)
        if placement.inside_share == 0:
            raise UserError(
                f"the sphere of {placement.diameter_mm:.1f} mm at voxel {placement.centre_dhw} is not in the "
                "organ"
            )
        return Draft(scan, number, spacing, placement, grid, box, organ[box].copy(), inputs=inputs)

    def _mask(self, path: Path, volume: Volume, labels: Sequence[int] = ()) -> np.ndarray:
        """A mask (D, H, W) bool on the scan's grid: of these labels, or of all above 0."""
        values = read_volume(path).values
        if values.shape != volume.raw.shape:
            raise UserError(
                f"{path}: has shape {values.shape} but its scan {volume.path} has {volume.raw.shape}"
            )
        return to_depth_first(np.isin(values, labels) if labels else values > 0, self.layout.depth_axis)


def read_spheres(path: Path, scans: int) -> dict[str, list[Site]]:
    """A CSV file of spheres -> them in mm and NIfTI's world axes (RAS), by name of the scan.

    Its columns: x_mm, y_mm, z_mm (or x, y, z), diameter_mm; case, where there are several scans; and type,
    the name or number of a texture. Rows without a case are under "". Raises FileNotFoundError and
    ValueError, with the row or the column.
    """
    if not path.is_file():
        raise MissingFileError(f"spheres={path}: give placed, masks, or a CSV file of spheres")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        names = [f"{name}_mm" if f"{name}_mm" in COLUMNS else name for name in reader.fieldnames or ()]
        unknown = [name for name in names if name not in (*COLUMNS, "case", "type") or names.count(name) > 1]
        if unknown:
            raise UserError(
                f"{path}: column {unknown[0]!r} is unknown or there twice; it may have {', '.join(COLUMNS)}, "
                "case and type"
            )
        reader.fieldnames = names
        rows = list(reader)
    found: dict[str, list[Site]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            values = tuple(float(row[column]) for column in COLUMNS)
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{path}, line {number}: needs numbers in the columns {', '.join(COLUMNS)}"
            ) from None
        if not np.isfinite(values).all() or values[3] <= 0:
            raise UserError(f"{path}, line {number}: {values} must be finite, the diameter above 0")
        case, kind = row.get("case") or "", row.get("type") or None
        if not case and scans > 1:
            raise UserError(f"{path}, line {number}: has no case, but there are {scans} scans")
        if kind is None and "type" in names:
            raise UserError(f"{path}, line {number}: has no type; give all spheres one, or none")
        found.setdefault(case, []).append(Site(*values, int(kind) if kind and kind.isdecimal() else kind))
    if not found:
        raise UserError(f"{path}: holds no sphere")
    return found
