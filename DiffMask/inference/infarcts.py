"""Drafts of hearts: infarcts in the wall, with no-reflow within."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from DiffMask.inference.plan import Draft, Scan, digest
from DiffMask.placement.sectors import draw_sector, no_reflow_mask, sector_mask
from DiffMask.placement.spheres import sphere_around
from DiffMask.settings import SECTOR_SETTINGS, MaskInferenceSettings
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import on_grid_of
from LeFusion.diffusion import addressed_generator
from LeFusion.errors import UserError
from LeFusion.hearts.transfer import Anatomy, septal_angle, wall_coordinates


class SectorDrafts:
    """scan -> its drafts, for hearts: infarcts drawn in the wall, with no-reflow inside.

    The labels of the scan say where cavity and myocardium are. Raises ValueError, naming them, where they
    are missing, hold lesions already, or the infarct cannot lie.
    """

    def __init__(
        self, layout: Layout, numbers: Sequence[int], max_redraws: int, seed: int = 0, **sector: Any
    ):
        """numbers: of the drafts of a scan. sector: of SECTOR_SETTINGS; what is not given, or None, is as in
        real hearts."""
        self.layout, self.numbers, self.redraws, self.seed = layout, numbers, max_redraws, seed
        self.anatomy = Anatomy(layout.cavity_label, layout.myocardium_label)
        self.options = {
            "angle": _radians(sector.get("angle_deg")),
            "half_angle": _radians(sector.get("half_angle_deg")),
            "transmurality": sector.get("transmurality"),
            "heights": sector.get("heights"),
            "no_reflow_share": sector.get("no_reflow_share"),
        }

    @classmethod
    def of(cls, settings: MaskInferenceSettings) -> "SectorDrafts":
        numbers = range(1, settings.masks_per_scan + 1)
        sector = {key: getattr(settings, key) for key in SECTOR_SETTINGS}
        return cls(settings.layout, numbers, settings.max_redraws, settings.seed, **sector)

    def __call__(self, scan: Scan) -> list[Draft]:
        image = read_volume(scan.path)
        axes, mask = Axes.of(image, self.layout), on_grid_of(read_volume(scan.mask_path), image)
        labels, values, spacing = axes.to_dhw(mask.labels), axes.to_dhw(image.values), axes.spacing_mm(image)
        try:
            labels = self._check(labels)
            try:
                angle = septal_angle(values, labels, self.anatomy, ())
            except ValueError:
                angle = None  # no septum to be seen: all angles are equally likely
            of_scan = {
                "scan": scan,
                "spacing_mm": spacing,
                "stored_shape": image.raw.shape,
                "inputs": digest(image, labels),
            }
            return [self._draft(number, labels, angle, of_scan) for number in self.numbers]
        except UserError as error:
            raise UserError(f"{scan.mask_path}: {error}") from None

    def _check(self, labels: np.ndarray) -> np.ndarray:
        """The labels as layout.label_dtype."""
        known = self.layout.known_labels
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
        return np.ascontiguousarray(labels, dtype=self.layout.label_dtype)

    def _draft(self, number: int, labels: np.ndarray, angle: float | None, of_scan: dict[str, Any]) -> Draft:
        """Infarct `number` of a scan. angle: of the septum, None: not seen. of_scan: what all drafts of the
        scan share."""
        scan, spacing, reason = of_scan["scan"], of_scan["spacing_mm"], None
        for attempt in range(self.redraws + 1):
            address = (self.seed, "sector", scan.name, number, attempt)
            generator = addressed_generator(*address)
            sector = draw_sector(generator, angle, **self.options)
            try:
                infarct = sector_mask(labels, self.anatomy, sector, generator)
            except ValueError as error:
                reason = error
                continue
            share, depth = sector.no_reflow_share, sector.no_reflow_depth
            core = no_reflow_mask(infarct, labels, self.anatomy, share, spacing, generator, depth)
            made = labels.copy()
            made[infarct] = self.layout.lesion_labels[0]
            made[core] = self.layout.lesion_labels[-1]
            return Draft(
                **of_scan,
                number=number,
                placement=sphere_around(infarct, spacing),
                labels=made,
                sector=sector,
                facts={"attempt": attempt, "septal_angle": angle},
            )
        raise UserError(
            f"no infarct found a place in {self.redraws + 1} draws (mask {number}, seed {self.seed}): "
            f"{reason}"
        )


def _radians(degrees: float | Sequence[float] | None) -> float | list[float] | None:
    return None if degrees is None else np.radians(degrees).tolist()
