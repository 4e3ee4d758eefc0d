"""The network that turns spheres into masks; the infarcts of hearts are drawn already."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from DiffMask.inference.plan import Draft
from DiffMask.postprocess import clean_mask
from DiffMask.sampling import sample_masks
from DiffMask.settings import MaskInferenceSettings
from DiffMask.sphere import (
    ENCODINGS,
    GUIDES,
    Ellipsoid,
    drawn_axes,
    drawn_ellipsoid,
    encode_guide,
    sphere_encoding,
)
from LeFusion.diffusion import Checkpoint, NoiseSchedule, addressed_generator, load_checkpoint
from LeFusion.diffusion.compilation import compile_network
from LeFusion.errors import UserError, check_choice
from LeFusion.runtime.commandline import choose_device, given_path, say_weights
from LeFusion.runtime.hashing import sha256_of_file
from LeFusion.runtime.memory import BatchSize

RELEASED_SPACING_MM = (1.0, 1.0, 1.0)
AT_ONCE = 8  # masks, for batch_size=auto


@dataclass(frozen=True)
class ShapeSettings:
    """What a ShapeMaker needs to know; the fields are keys of MaskInferenceSettings."""

    model_path: str
    weights: str = "ema"
    region_size: tuple[int, int, int] = (32, 64, 64)
    seed: int = 0
    mask_sampler: str = "dpmpp"
    num_steps: int | None = 25
    smoothing: float | str | None = None
    max_redraws: int = 10
    batch_size: int | str = "auto"
    device: str = "auto"
    compile: bool = False


class ShapeMaker:
    """Spheres -> masks by a network. size, spacing_mm: of the box that it works in."""

    def __init__(self, settings: MaskInferenceSettings | ShapeSettings):
        path = given_path(settings.model_path)
        self.checkpoint = _mask_network(path, settings.weights)
        metadata = self.checkpoint.metadata
        say_weights(path, metadata["format"])
        self.given, self.device = settings, choose_device(settings.device)
        self.schedule = NoiseSchedule.of(metadata["schedule"])
        size = AT_ONCE if settings.batch_size == "auto" else settings.batch_size
        self.at_once = BatchSize(size, "use a GPU with more memory, or device=cpu")
        self.size = tuple(metadata.get("size", settings.region_size))
        self.spacing_mm = tuple(metadata.get("spacing_mm", RELEASED_SPACING_MM))
        if max(self.spacing_mm) > 1.01 * min(self.spacing_mm):
            raise UserError(f"{path}: was trained on voxels of {self.spacing_mm} mm; masks are made on cubes")
        steps = settings.num_steps
        if steps is not None and steps > self.schedule.num_steps:
            raise UserError(
                f"num_steps={steps} must be at most the {self.schedule.num_steps} levels of {path}"
            )
        self.network = self.checkpoint.network.to(self.device)
        if settings.compile:
            compile_network(self.network, cuda_graphs=True)
        self.digest = sha256_of_file(path)[:16]
        self.recorded = {
            "seed": settings.seed,
            "model": path.name,
            "weights": settings.weights,
            "sampler": settings.mask_sampler,
            "num_steps": steps or self.schedule.num_steps,
            "smoothing": settings.smoothing or "",
        }

    def masks(self, drafts: Sequence[Draft]) -> Iterator[tuple[Draft, np.ndarray | None, int]]:
        """-> (draft, its mask (D, H, W) uint8 in the draft's box, draws); no mask where all came out empty.

        The noise is addressed by (seed, scan, number, attempt).
        """
        size = self.at_once.size
        for start in range(0, len(drafts), size):
            todo, made = list(drafts[start : start + size]), {}
            for attempt in range(self.given.max_redraws + 1):
                for draft, soft in zip(todo, self.sample(todo, attempt), strict=True):
                    smoothing = self.given.smoothing
                    if smoothing == "paper":  # its table is for the network's voxels
                        smooth = clean_mask(soft.numpy(), smoothing="paper")
                        soft = (
                            -torch.ones_like(soft) if smooth is None else torch.from_numpy(smooth * 2.0 - 1)
                        )
                        smoothing = None
                    inside = draft.grid.to_scan(soft, draft.box)
                    mask = clean_mask(inside, draft.organ, smoothing, draft.spacing_mm)
                    if mask is not None:
                        made[draft.name] = mask.astype(np.uint8), attempt
                todo = [draft for draft in todo if draft.name not in made]
                if not todo:
                    break
            for draft in drafts[start : start + size]:
                mask, attempt = made.get(draft.name, (None, self.given.max_redraws))
                yield draft, mask, attempt + 1

    def _ellipsoid(self, draft: Draft, attempt: int) -> Ellipsoid | None:
        """How long the lesion is and which way: that of a training lesion of like size, turned at random."""
        if self.checkpoint.metadata.get("guide", "sphere") == "sphere":
            return None
        address = (self.given.seed, "ellipsoid", draft.scan.name, draft.number, attempt)
        generator = addressed_generator(*address)
        radius_mm = draft.placement.diameter_mm / 2
        axes = drawn_axes(self.checkpoint.metadata["ellipsoids"], radius_mm, generator)
        grid = draft.grid
        middle = [n // 2 for n in grid.size]
        return drawn_ellipsoid(axes * radius_mm / max(grid.spacing_mm), middle, generator)

    def sample(self, drafts: Sequence[Draft], attempt: int) -> list[torch.Tensor]:
        """Soft masks (D, H, W) on the drafts' grids, lesion above 0."""
        pieces = self.at_once.run(drafts, lambda some: self._sample_at_once(some, attempt))
        return [soft for _, made in pieces for soft in made]

    def _sample_at_once(self, drafts: Sequence[Draft], attempt: int) -> list[torch.Tensor]:
        encoding = sphere_encoding(self.checkpoint.metadata)
        spheres = [
            encode_guide(d.grid.sphere(d.placement.diameter_mm), self._ellipsoid(d, attempt), encoding)[None]
            for d in drafts
        ]
        soft = sample_masks(
            self.network,
            self.schedule,
            torch.stack(spheres),
            [(self.given.seed, "mask", d.scan.name, d.number, attempt) for d in drafts],
            self.given.mask_sampler,
            self.given.num_steps,
            self.checkpoint.metadata.get("prediction", "noise"),
        )
        return list(soft[:, 0])


def _mask_network(path: Path, weights: str) -> Checkpoint:
    checkpoint = load_checkpoint(path, weights)
    network = checkpoint.metadata["network"]
    if network["in_channels"] != 2 or network["out_channels"] != 1 or network.get("cond_dim"):
        raise UserError(
            f"{path} takes {network['in_channels']} channels and gives {network['out_channels']}: it is no "
            "mask network (noisy mask and sphere -> mask); give one that DiffMask/train/train.py made"
        )
    try:
        check_choice("sphere", sphere_encoding(checkpoint.metadata), tuple(ENCODINGS))
        check_choice("guide", checkpoint.metadata.get("guide", "sphere"), GUIDES)
    except UserError as error:
        raise UserError(f"{path}: {error}; was it written by a newer version?") from None
    return checkpoint


def drawn_masks(drafts: Sequence[Draft]) -> Iterator[tuple[Draft, np.ndarray, int]]:
    """The same of drafts that hold their mask already."""
    for draft in drafts:
        yield draft, draft.labels, draft.facts["attempt"] + 1
