"""Drafts from spheres: drawn in the organ, around the lesions of own masks, or read from a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from DiffMask.grid import MaskGrid
from DiffMask.inference.plan import Draft, Scan, beside, digest
from DiffMask.placement.spheres import LungScene, Placement, largest_painted_mm, place_lesions, sphere_around
from DiffMask.postprocess import CORNERS
from DiffMask.settings import FROM_MASKS, PLACED, MaskInferenceSettings
from LeFusion.dataset.axes import Axes, refuse_turned
from LeFusion.dataset.cases import GENERATED
from LeFusion.dataset.hounsfield import refuse_other_units
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import Volume, on_grid_of
from LeFusion.errors import MissingFileError, UserError
from LeFusion.runtime.commandline import given_path
from LeFusion.runtime.tables import read_csv

COLUMNS = ("x_mm", "y_mm", "z_mm", "diameter_mm")  # of a table of spheres; and case, where scans are several


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

    def __init__(
        self, settings: MaskInferenceSettings, scans: Sequence[Scan], size: Sequence[int], spacing_mm
    ):
        self.layout, self.size, self.spacing_mm = settings.layout, tuple(size), tuple(spacing_mm)
        self.count, self.seed, self.spheres = settings.masks_per_scan, settings.seed, settings.spheres
        self.options = settings.model_dump(
            include={"diameter_mm", "border_mm", "inside_share", "vessel_share"}
        )
        self.separate, self.window = settings.separate, settings.window
        self.region_depth, self.data_type = settings.diffusion_depth_size, settings.data_type
        self.painted_size, self.painted_mm = settings.region_size, settings.spacing_mm
        self.organs = beside(given_path(settings.organ_masks), "organ_masks", len(scans))
        self.lesions = beside(given_path(settings.lesion_masks), "lesion_masks", len(scans))
        self.table = None
        if self.spheres not in (PLACED, FROM_MASKS):
            self.table = read_spheres(given_path(self.spheres), len(scans))
            unknown = sorted(set(self.table) - {"", *(scan.name for scan in scans)})
            if unknown:
                raise UserError(f"{self.spheres}: there is no scan {unknown[0]}, of which it has spheres")

    def __call__(self, scan: Scan) -> list[Draft]:
        volume = read_volume(scan.path)
        refuse_turned(volume, self.layout, self.region_depth, self.data_type)
        refuse_other_units(volume, self.window)
        axes = Axes.of(volume, self.layout)
        spacing, image = axes.spacing_mm(volume), np.ascontiguousarray(axes.to_dhw(volume.values))
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
            types = [site.type for site in self._sites(scan)]
            drafts = []
            for number, placement in enumerate(self._placements(scan, scene, volume, own), start=1):
                grid, box = self._grid(placement, spacing, image.shape)
                site = repr(placement) if self.table else ""  # drawn ones follow from the settings
                drafts.append(
                    Draft(
                        scan,
                        number,
                        spacing,
                        placement,
                        volume.raw.shape,
                        digest(volume, organ, lesions, own, site),
                        types[number - 1] if types else None,
                        grid=grid,
                        box=box,
                        organ=scene.lung[box].copy(),
                    )
                )
            return drafts
        except UserError as error:
            raise UserError(f"{scan.path}: {error}") from None

    def _placements(
        self, scan: Scan, scene: LungScene, volume: Volume, own: np.ndarray | None
    ) -> list[Placement]:
        if self.spheres == PLACED:
            address = (self.seed, "placement", scan.name)
            shape, spacing = scene.lung.shape, scene.spacing_mm
            most_mm = largest_painted_mm(shape, spacing, self.painted_size, self.painted_mm or spacing)
            return place_lesions(scene, self.count, address, self.separate, most_mm=most_mm, **self.options)
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
                centre = Axes.of(volume, self.layout).dhw_index(stored, scene.lung.shape)
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

    def _grid(
        self, placement: Placement, spacing: Sequence[float], shape: Sequence[int]
    ) -> tuple[MaskGrid, tuple[slice, slice, slice]]:
        """The network's grid around a sphere, and the box of the scan that it covers."""
        if placement.inside_share == 0:
            raise UserError(
                f"the sphere of {placement.diameter_mm:.1f} mm at voxel {placement.centre_dhw} is not in the "
                "organ"
            )
        centre, diameter = placement.centre_dhw, placement.diameter_mm
        grid = MaskGrid.around(centre, diameter, spacing, self.size, self.spacing_mm)
        return grid, grid.box(shape)

    def _mask(self, path: Path, volume: Volume, labels: Sequence[int] = ()) -> np.ndarray:
        """A mask (D, H, W) bool on the scan's grid: of these labels, or of all above 0."""
        values = on_grid_of(read_volume(path), volume).labels
        mask = np.isin(self.layout.labels_of(values), labels) if labels else values > 0
        return np.ascontiguousarray(Axes.of(volume, self.layout).to_dhw(mask))


def read_spheres(path: Path, scans: int) -> dict[str, list[Site]]:
    """A CSV file of spheres -> them in mm and NIfTI's world axes (RAS), by name of the scan.

    Its columns: x_mm, y_mm, z_mm (or x, y, z), diameter_mm; case, where there are several scans; and type,
    the name or number of a texture. Rows without a case are under "". Raises FileNotFoundError and
    ValueError, with the row or the column.
    """
    if not path.is_file():
        raise MissingFileError(f"spheres={path}: give placed, masks, or a CSV file of spheres")
    given, rows = read_csv(path)
    full = {name: f"{name}_mm" if f"{name}_mm" in COLUMNS else name for name in given}
    names = [full[name] for name in given]
    unknown = [name for name in names if name not in (*COLUMNS, "case", "type") or names.count(name) > 1]
    if unknown:
        raise UserError(
            f"{path}: column {unknown[0]!r} is unknown or there twice; it may have {', '.join(COLUMNS)}, "
            "case and type"
        )
    found: dict[str, list[Site]] = {}
    for number, row in rows:
        row = {full.get(name): cell for name, cell in row.items()}
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
