"""Painting boxes of cases with a network: what it looks at, what it paints, and back onto the image."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from LeFusion.dataset.boxes import Box
from LeFusion.dataset.edit import SOFT_REACH, edit_masks, soften_edge
from LeFusion.dataset.loading import LoadedCase
from LeFusion.dataset.parts import Part
from LeFusion.dataset.volume import Volume, with_values
from LeFusion.diffusion import Checkpoint, NoiseSchedule, UNet3D
from LeFusion.diffusion.denoiser import Denoiser
from LeFusion.errors import UserError, check_choice
from LeFusion.guidance import Guide
from LeFusion.mending import mended
from LeFusion.painting import SamplerSettings, paint
from LeFusion.prepared import Prepared
from LeFusion.runtime.memory import BatchSize
from LeFusion.settings import PaintingSettings
from LeFusion.tasks import Patch, Task, paint_together
from LeFusion.textures.look import Look
from LeFusion.textures.surroundings import grown, near_walls, vessels_in, walls_in
from LeFusion.weights import check_fit, sampler_settings

GPU_STEP = (8, 16)  # of depth and plane, to which boxes just around lesions are rounded up on a GPU
FADED = 0.5  # share of the rim's width, from outside, in which what is painted fades into the scan
REGIONS = ("auto", "whole", "lesion")
P = TypeVar("P", bound="BoxPainter")


@dataclass(frozen=True, eq=False)
class BoxPainter:
    """A network and how it paints boxes of cases.

    size: (depth, height, width) of the largest box that it sees at once. region: "whole" = boxes of that
    size, around an organ or the lesions; "lesion" = just around what is painted, with `margin` voxels.
    edit_margin_mm: width of the rim around the lesions that is painted as well, see `edit_masks`.
    soft_edge_mm: how far from lesions a quarter of their change is left, which their surroundings have before
    they are painted, see `soften_edge`; for networks that paint no rim.
    """

    network: UNet3D
    schedule: NoiseSchedule
    sampler: SamplerSettings
    denoiser: Denoiser
    size: tuple[int, int, int]
    region: str
    margin: int
    edit_margin_mm: float = 0.0
    soft_edge_mm: float = 0.0

    @classmethod
    def of(
        cls: type[P],
        checkpoint: Checkpoint,
        sampler: SamplerSettings,
        size: Sequence[int] = (32, 64, 64),
        region: str = "auto",
        margin: int = 4,
        edit_margin_mm: float | None = None,
        soft_edge_mm: float | None = None,
    ) -> P:
        """A painter with the network of a checkpoint, on the device on which the network is.

        Args:
            checkpoint: see LeFusion.diffusion.load_checkpoint.
            sampler: how to walk from noise to a lesion.
            size: (D, H, W) of the network's box, in its voxels.
            region: what of a box the network sees: "whole", "lesion" (just around it), or "auto", as in its
                training.
            margin: voxels around the lesion, with "lesion".
            edit_margin_mm: width of the rim that is painted as well: 0, or one of the training; None: what
                the checkpoint asks for.
            soft_edge_mm: how far from a lesion a quarter of its change is left, which its surroundings have
                before it is painted; None: what the checkpoint asks for, but 0 with edit_margin_mm=0.

        Raises:
            UserError: for a size, a sampler or an edge that the network was not made for.
        """
        metadata, network = checkpoint.metadata, checkpoint.network
        check_choice("region", region, REGIONS)
        if sampler.guidance_scale != 1 and not metadata.get("loss", {}).get("cond_dropout"):
            raise UserError(
                f"guidance_scale={sampler.guidance_scale} needs a network trained with loss.cond_dropout > "
                "0; this one was not"
            )
        if any(n % network.plane_multiple for n in size[1:]):
            raise UserError(
                f"diffusion_img_size={size[1]} (rows and columns of size={tuple(size)}) must be a multiple "
                f"of {network.plane_multiple}"
            )
        schedule = NoiseSchedule.of(metadata["schedule"])
        if region == "auto":
            region = metadata.get("region", "whole")
            check_choice("region", region, REGIONS[1:])
        trained = float(metadata.get("edit_margin_mm", 0))
        edit = trained if edit_margin_mm is None else float(edit_margin_mm)
        least, most = metadata.get("edit_margins_mm", [trained, trained])
        if edit and not least <= edit <= most:
            known = f"{trained:g}" if least == most else f"{least:g} to {most:g}"
            raise UserError(
                f"edit_margin_mm={edit:g} must be 0 or what the network was trained with, {known}"
            )
        asked = 0 if edit_margin_mm == 0 else metadata.get("soft_edge_mm", 0)
        soft = float(asked if soft_edge_mm is None else soft_edge_mm)
        if soft and (edit or edit_margin_mm == 0):
            raise UserError(
                f"soft_edge_mm={soft:g} is for networks that paint the label only; with "
                f"edit_margin_mm={edit:g} it must be 0"
            )
        denoiser = Denoiser.of(metadata)
        return cls(network, schedule, sampler, denoiser, tuple(size), region, margin, edit, soft)

    @classmethod
    def of_settings(cls: type[P], settings: PaintingSettings, checkpoint: Checkpoint) -> P:
        """The same, as settings say. Raises UserError, naming the file, where they do not fit the weights."""
        check_fit(settings, checkpoint)
        try:
            return cls.of(
                checkpoint,
                sampler_settings(settings, checkpoint.metadata),
                settings.region_size,
                settings.region,
                settings.margin,
                settings.edit_margin_mm,
                settings.soft_edge_mm,
            )
        except UserError as error:
            raise UserError(f"{settings.model_path}: {error}") from None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def reach_mm(self) -> float:
        """How far from the lesions voxels may change."""
        return self.edit_margin_mm or SOFT_REACH * self.soft_edge_mm

    def boxes(self, loaded: LoadedCase) -> tuple[Box, ...]:
        """Where the network looks, for each part. Raises UserError for a lesion larger than `size`."""
        return tuple(self._box(loaded, part) for part in loaded.parts(self.size))

    def _box(self, loaded: LoadedCase, part: Part) -> Box:
        if self.region == "whole":
            return loaded.region(self.size, part)
        multiple = (1, self.network.plane_multiple, self.network.plane_multiple)
        rim = math.ceil(self.edit_margin_mm / min(loaded.spacing_mm)) if self.edit_margin_mm else 0
        soft = math.ceil(SOFT_REACH * self.soft_edge_mm / min(loaded.spacing_mm))
        # A GPU works on batches of one size, and compiles for each; on a CPU each voxel costs time
        step = GPU_STEP if self.device.type == "cuda" else None
        return loaded.tight_region(max(self.margin + rim, soft), self.size, multiple, step, part)

    def paint_boxes(self, tasks: Sequence[Task]) -> Tensor:
        """Paints tasks whose boxes have one size -> (B, 1, D, H, W) in [-1, 1] on the CPU."""
        return self.run([self.prepared(task) for task in tasks])

    def prepared(self, task: Task) -> Prepared:
        """What the network needs to know of a task."""
        loaded, look = task.loaded, task.look
        part, box = loaded.parts(self.size)[task.number], task.boxes[task.number]
        lesions = part.lesions(box)
        bare = Prepared(
            self._image(task, part, box),
            lesions,
            self._edit(loaded, part, box),
            (*task.address, task.number + 1) if task.number else task.address,
            share=self._share(lesions, loaded.spacing_mm),
        )
        if look is None:
            return bare
        present = part.voxels.flatten(1).any(dim=1)  # a class that the part lacks has none, as in training
        histogram = (look.histogram.reshape(len(present), -1) * present[:, None]).flatten()
        return _with_look(bare, replace(look, histogram=histogram), loaded.spacing_mm)

    def run(self, prepared: Sequence[Prepared]) -> Tensor:
        """Paints what `prepared` made of tasks; all with a condition, or none."""
        guides = [one.guide for one in prepared if one.guide is not None]
        histograms = [one.histogram for one in prepared if one.histogram is not None]
        painted = paint(
            self.network,
            self.schedule,
            self.sampler,
            torch.stack([one.image for one in prepared]),
            torch.stack([one.lesions for one in prepared]),
            torch.stack(histograms) if histograms else None,
            [one.address for one in prepared],
            self.denoiser,
            torch.stack([one.edit for one in prepared]),
            Guide.stack(guides) if guides else None,
        )
        if not bool(torch.isfinite(painted).all()):
            raise UserError("the network's output is not finite; try precision=no, or another checkpoint")
        # Who says until when intensities are guided leaves the rest to the network
        strength = self.sampler.intensity_guidance if self.sampler.guided_signal is None else 0.0
        pairs = zip(painted, prepared, strict=True)
        return torch.stack([mended(image, one, strength) for image, one in pairs])

    def _image(self, task: Task, part: Part, box: Box) -> Tensor:
        """(1, *box.size): what the network paints into; other lesions of the image stay."""
        image = task.loaded.image_under(task.earlier, box)
        if not self.soft_edge_mm or task.look is None:
            return image
        asked, spacing_mm = task.look.histogram, task.loaded.spacing_mm
        organ = task.loaded.organ_in(box)
        soft = soften_edge(image, part.lesions(box), asked, spacing_mm, self.soft_edge_mm, organ)
        return torch.where(task.loaded.lesions(box).any(dim=0), image, soft)

    def _edit(self, loaded: LoadedCase, part: Part, box: Box) -> Tensor:
        """(K, *box.size) bool: what is painted for a part; other lesions of the image stay."""
        lesions = part.lesions(box)
        if not self.edit_margin_mm:
            return lesions
        edit = edit_masks(lesions, self.edit_margin_mm, loaded.spacing_mm)
        for other in loaded.parts(self.size):
            if other is not part:  # of two that share a voxel once they are resampled, both have it
                edit &= lesions | ~other.lesions(box).any(dim=0)
        return edit

    def _share(self, lesions: Tensor, spacing_mm: Sequence[float]) -> Tensor | None:
        """(D, H, W) in [0, 1]: how much of a voxel is painted, less and less in the outer part of the rim;
        None: all."""
        if not self.edit_margin_mm:
            return None
        away = distance_transform_edt(~lesions.any(dim=0).numpy(), sampling=spacing_mm)
        width = FADED * self.edit_margin_mm
        left = (self.edit_margin_mm + min(spacing_mm) / 2 - away) / (width + min(spacing_mm) / 2)
        return torch.from_numpy(left.clip(0, 1).astype(np.float32))

    def painted(self, loaded: LoadedCase, patches: Sequence[Patch], path: Path) -> Volume:
        """The image of a case, to be at `path`, with its parts painted; other voxels as they are stored.

        So are those of the rim that lie beyond the network's box, and those that a resampled lesion misses.
        """
        changes = []
        for part in loaded.parts(self.size):
            place, edit = loaded.edit_of(part, self.reach_mm)
            values, new = loaded.painted(patches, place)
            pieces = (loaded.axes.to_stored(array) for array in (values, edit & new))
            changes.append((*pieces, loaded.stored_slices(place)))
        return with_values(loaded.volume, changes, path)

    def stored_edit(self, loaded: LoadedCase) -> np.ndarray:
        """(D', H', W') bool: all that is painted in a case, on the stored grid."""
        painted = np.zeros(loaded.labels_dhw.shape, dtype=bool)
        for part in loaded.parts(self.size):
            place, edit = loaded.edit_of(part, self.reach_mm)
            painted[place.slices] |= edit
        return painted


def _with_look(bare: Prepared, look: Look, spacing_mm: Sequence[float]) -> Prepared:
    """A box with what its lesions are to look like: condition, guide, and what mending takes. Walls are not
    painted."""
    image, lesions, edit = bare.image, bare.lesions, bare.edit
    rim, walls, seam, vessels = edit & ~lesions.any(dim=0), None, None, None
    if look.wall_level is not None:
        walls = walls_in(image, lesions, look.wall_level)
        seam = edit.any(dim=0) & walls & grown(lesions.any(dim=0))
        edit = edit & ~walls
        rim = rim & edit & ~near_walls(walls, spacing_mm)
        vessels = grown(vessels_in(image, lesions, edit, look.wall_level))  # what the scan shares with them
    classes = look.histogram.reshape(len(lesions), -1)
    return replace(
        bare,
        edit=edit,
        histogram=look.histogram,
        guide=Guide.of(lesions, classes, look, spacing_mm, walls, rim, vessels),
        darkest=look.darkest,
        brightest=look.brightest,
        seam=seam,
        vessels=vessels,
    )


def paint_case(
    painter: BoxPainter, loaded: LoadedCase, look: Callable[[int], Look | None], address: tuple
) -> list[Patch]:
    """Paints all lesions of a case, each part over those before it.

    look: number of a part, from 0 -> what its lesions are to look like. address: see Task.
    """
    boxes = painter.boxes(loaded)

    def task(_: str, number: int, earlier: Sequence[Patch]) -> Task:
        return Task(loaded, number, boxes, look(number), address, earlier)

    size = BatchSize(1, "use a machine with more memory, or smaller lesions")
    (done,) = filter(None, paint_together(painter.paint_boxes, {"case": boxes}, task, size))
    return done["case"][0]
