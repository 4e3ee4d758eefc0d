"""What a run of DiffMask leaves beside its masks: a table (CSV), outlines over the scans, 3D surfaces."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from DiffMask.inference.plan import Draft, Scan
from DiffMask.shapes.features import longest_axial_diameter_mm, shape_features
from DiffMask.shapes.pictures import save_surfaces
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.boxes import extent
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import Volume
from LeFusion.errors import UserError
from LeFusion.runtime.pictures import PLANES, around, lesion_slice, save_contact_sheet
from LeFusion.runtime.processes import Share
from LeFusion.runtime.tables import Table, markdown_table
from LeFusion.viewer.manifest import layout_text, write_masks_page
from LeFusion.viewer.page import Page

ORIGIN = ("model_sha256", "inputs_sha256")  # columns: the weights; the scan, its masks and its given sphere
SHA256 = "mask_sha256"  # column: of the mask's file, as it was written
SHOWN = ("source", "layout", "unit")  # columns: the scan, how it is stored, and the unit of its voxels
SIDE = 56  # voxels of a slice that are shown, at least
WALL_OPACITY, INFARCT_OPACITY = 0.12, 0.4  # no-reflow lies within


class MaskTable:
    """One row for each mask, by its name. Rows of earlier runs in the same folder are kept."""

    def __init__(self, path: Path, settings: dict, share: Share = Share()):  # noqa: B008 (frozen)
        self.path, self.settings = path, {key: str(value) for key, value in settings.items()}
        self.table = Table(path, lambda row: row["mask"], {"mask", *self.settings}, share)

    @property
    def rows(self) -> dict[str, dict[str, str]]:
        return self.table.rows

    def has(self, mask: str) -> bool:
        return mask in self.rows

    def has_of(self, mask: str, origin: dict[str, str]) -> bool:
        """Whether this mask was made from just that."""
        return self.has(mask) and all(self.rows[mask].get(key) == value for key, value in origin.items())

    def sha256(self, mask: str) -> str | None:
        """Of the file of a mask that has a row; None or "" where an earlier version wrote the row."""
        return self.rows[mask].get(SHA256)

    def add(
        self,
        mask: str,
        scan: str,
        number: int,
        draws: int,
        facts: dict[str, float | None],
        origin: dict[str, str],
        sha256: str,
        shown: dict[str, str],
    ) -> None:
        """draws: how many it took. facts: columns of its own. origin: hashes of what it was made from.
        sha256: of its file. shown: what a viewer page has to know, see shown_with."""
        values = {key: "" if value is None else f"{value:.6g}" for key, value in facts.items()}
        names = {"mask": mask, "scan": scan, "number": str(number), "draws": str(draws)}
        self.table.add(names | self.settings | origin | values | {SHA256: sha256} | shown)

    def write(self) -> None:
        """Saves what was added, for a run that goes on after this one was killed."""
        self.table.write()

    def join(self) -> None:
        """Makes one file of what all processes wrote."""
        self.table.join()

    def made_otherwise(self, masks: Iterable[str]) -> int:
        """How many of these were made with other settings than this run's."""
        return sum(any(self.rows[m][k] != v for k, v in self.settings.items()) for m in masks)

    def summary(self) -> str:
        """A Markdown table: the spread of each number over all masks."""
        skipped = {"mask", "scan", "number", "type", *ORIGIN, SHA256, *SHOWN, *self.settings}
        rows = []
        for column in dict.fromkeys(column for row in self.rows.values() for column in row):
            values = (
                [float(row[column]) for row in self.rows.values() if row.get(column)]
                if (column not in skipped)
                else []
            )
            values = [value for value in values if np.isfinite(value)]  # no border in sight: infinitely far
            if values:
                rows.append([column, *(f"{q:.3g}" for q in np.quantile(values, (0.05, 0.5, 0.95)))])
        return markdown_table(["of each mask", "5 %", "median", "95 %"], rows)


def lung_facts(draft: Draft, mask: np.ndarray, source: Volume, layout: Layout) -> dict[str, float]:
    """Where the sphere is, and how large and of what shape the lesion. mask: (D, H, W) in the draft's box."""
    placement = draft.placement
    axes = Axes.of(source, layout)
    stored = axes.stored_index(placement.centre_dhw, axes.to_dhw(source.raw).shape)
    world = dict(zip(("x_mm", "y_mm", "z_mm"), (source.affine @ [*stored, 1])[:3], strict=True))
    shape = shape_features(mask, draft.spacing_mm)
    diameter_mm = shape.pop("diameter_mm")
    return {
        **world,
        "sphere_diameter_mm": placement.diameter_mm,
        "distance_to_border_mm": placement.distance_to_border_mm,
        "inside_share": placement.inside_share,
        "network_voxel_mm": max(draft.grid.spacing_mm),
        "voxels": int(mask.sum()),
        "volume_ml": float(mask.sum() * np.prod(draft.spacing_mm) / 1000),
        "diameter_mm": diameter_mm,
        "longest_axial_diameter_mm": longest_axial_diameter_mm(mask, draft.spacing_mm),
        **shape,
    }


def heart_facts(draft: Draft, layout: Layout) -> dict[str, float | None]:
    """The sector that was drawn, and how much of the wall the infarct takes up."""
    sector, labels = draft.sector, draft.labels
    septum = draft.facts["septal_angle"]
    angle = sector.angle - (septum or 0.0)
    voxel_ml = float(np.prod(draft.spacing_mm)) / 1000
    lesion = np.isin(labels, layout.lesion_labels)
    core = labels == layout.lesion_labels[-1] if len(layout.lesion_labels) > 1 else np.zeros_like(lesion)
    wall = lesion | (labels == layout.myocardium_label)
    return {
        "septal_angle_deg": None if septum is None else float(np.degrees(septum)),
        "angle_deg": float(np.degrees(np.angle(np.exp(1j * angle)))),
        "half_angle_deg": float(np.degrees(sector.half_angle)),
        "transmurality": sector.transmurality,
        "lowest_height": sector.heights[0],
        "highest_height": sector.heights[1],
        "infarct_ml": float(lesion.sum() * voxel_ml),
        "infarct_share_of_wall": float(lesion.sum() / wall.sum()),
        "no_reflow_ml": float(core.sum() * voxel_ml),
        "no_reflow_share": float(core.sum() / lesion.sum()),
    }


def save_preview(path: Path, drafts: Sequence[Draft], paths: dict[str, Path], layout: Layout) -> Path:
    """Outlines over the scan: in the three planes through a lesion, or in three slices of a heart."""
    rows, outlines, names = [], [], []
    for draft in drafts:
        image, labels = _read(draft, paths, layout)
        shown = np.where(np.isin(labels, layout.lesion_labels), labels, 0)
        if layout.hearts:
            planes = _heart_planes(image, shown)
            low, high = np.percentile(image[extent(labels > 0).slices], (1, 99))
        else:
            planes, (low, high) = _lung_planes(image, shown), (-1000, 400)
        parts = [around(mask > 0, SIDE) for _, mask in planes]
        scaled = [
            np.clip((plane[part] - low) / max(high - low, 1e-9), 0, 1)
            for (plane, _), part in zip(planes, parts, strict=True)
        ]
        rows.append([scaled[0], *scaled])
        outlines.append([None, *(mask[part] for (_, mask), part in zip(planes, parts, strict=True))])
        names.append(_short(draft))
    titles = ("first slice", "middle slice", "last slice") if layout.hearts else PLANES
    titles = [f"scan, {titles[0]}", *(f"mask, {title}" for title in titles)]
    save_contact_sheet(path, rows, outlines, titles, names, (0, 1))
    return path


def _heart_planes(image: np.ndarray, lesions: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Image and lesions in the first, the middle and the last slice with a lesion."""
    levels = np.flatnonzero(lesions.any(axis=(1, 2)))
    levels = levels[np.linspace(0, len(levels) - 1, 3).round().astype(int)]
    return [(image[z], lesions[z]) for z in levels]


def _lung_planes(image: np.ndarray, lesions: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Image and lesions in PLANES, each where the lesion is largest, head up."""
    planes = []
    for axis in range(3):
        level = lesion_slice(np.moveaxis(lesions > 0, axis, 0))
        pair = (np.moveaxis(array, axis, 0)[level] for array in (image, lesions))
        planes.append(tuple(plane[::-1] if axis else plane for plane in pair))
    return planes


def shown_with(scan: Scan, layout: Layout, unit: str | None) -> dict[str, str]:
    """The columns SHOWN."""
    return dict(zip(SHOWN, (str(scan.path.absolute()), layout_text(layout), unit or ""), strict=True))


def save_page(path: Path, drafts: Sequence[Draft], paths: dict[str, Path], layout: Layout, unit: str) -> Page:
    """The viewer page: all masks of each scan, as far as a page holds them."""
    masks = [(draft.scan.name, draft.scan.path, str(draft.number), paths[draft.name]) for draft in drafts]
    return write_masks_page(path, masks, layout, unit)


def save_surface_sheet(path: Path, drafts: Sequence[Draft], paths: dict[str, Path], layout: Layout) -> Path:
    """The lesions as shaded surfaces; of a heart the wall as well, to be looked through."""
    scenes, names = [], []
    for draft in drafts:
        _, labels = _read(draft, paths, layout)
        scene = [(labels == label) for label in layout.lesion_labels]
        if layout.hearts:
            scene = [np.isin(labels, [layout.myocardium_label, *layout.lesion_labels]), *scene]
        box = extent(scene[0] if layout.hearts else np.any(scene, axis=0)).slices
        scenes.append([part[box] for part in scene])
        names.append(_short(draft))
    spacing = [draft.spacing_mm for draft in drafts]
    lesions = np.linspace(INFARCT_OPACITY, 1, len(layout.lesion_labels))
    opacities = (WALL_OPACITY, *lesions) if layout.hearts else ()
    save_surfaces(path, scenes, spacing, names, opacities)
    return path


def _read(draft: Draft, paths: dict[str, Path], layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    scan, mask = read_volume(draft.scan.path), read_volume(paths[draft.name])
    axes = Axes.of(scan, layout)
    if mask.raw.shape != scan.raw.shape or axes.spacing_mm(mask) != draft.spacing_mm:
        raise UserError(
            f"{mask.path}: is not on the grid of {draft.scan.path}: made for another scan of "
            "that name; overwrite=true makes it again"
        )
    return axes.to_dhw(scan.values), axes.to_dhw(mask.raw)


def _short(draft: Draft) -> str:
    name = draft.scan.name
    return f"{name if len(name) <= 24 else '...' + name[-21:]}\nmask {draft.number}"
