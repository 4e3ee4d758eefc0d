"""The settings of DiffMask's commands: the keys of configs/diffmask_*.yaml, checked when a command starts."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import model_validator

from DiffMask.dataset import TURNS
from DiffMask.losses import LOSS_TYPES
from DiffMask.sphere import ENCODINGS, GUIDES
from LeFusion.diffusion import SAMPLERS
from LeFusion.errors import UserError
from LeFusion.runtime.validation import (
    Count,
    Flag,
    NoPath,
    Path,
    Seed,
    Share,
    choice,
    either,
    kind,
    number,
    numbers,
    whole,
)
from LeFusion.settings import (
    LIDC,
    REGIONS,
    BatchSize,
    DataTypeSettings,
    Device,
    ModelSettings,
    NoCount,
    NoSize,
    Split,
    Timesteps,
    TrainerSettings,
    Weights,
)

PLACED, FROM_MASKS = "placed", "masks"
Range = numbers(2, "[low, high]", lambda ends: ends[0] <= ends[1])
Given = either(number("a number"), Range, words=(None,))

# What decides a mask besides the network, as the table records it
SPHERE_SETTINGS = (
    "masks_from",
    "organ_masks",
    "lesion_masks",
    "diameter_mm",
    "border_mm",
    "inside_share",
    "vessel_share",
    "separate",
)
SECTOR_SETTINGS = ("angle_deg", "half_angle_deg", "transmurality", "heights", "no_reflow_share")
OF_DRAWN_SPHERES = ("diameter_mm", "border_mm", "inside_share", "vessel_share", "separate")
# What a heart has no use for; masks_from says where its labels are
OF_SPHERES = (
    "spheres",
    "organ_masks",
    "lesion_masks",
    *OF_DRAWN_SPHERES,
    "model_path",
    "weights",
    "mask_sampler",
    "num_steps",
    "smoothing",
)


class MaskInferenceSettings(DataTypeSettings):
    """configs/diffmask_inference.yaml. painting: settings of LeFusion's inference, checked with those."""

    dataset_root_dir: Path
    output_dir: Path
    masks_per_scan: Count
    seed: Seed
    model_path: Path
    weights: Weights
    spheres: kind(str, f"{PLACED}, {FROM_MASKS} or a CSV file", bool)
    masks_from: NoPath
    organ_masks: NoPath
    lesion_masks: NoPath
    diameter_mm: either(number("a number"), Range, words=(REGIONS, LIDC))
    border_mm: Given
    inside_share: Share
    vessel_share: Share
    separate: Flag
    mask_sampler: choice(*SAMPLERS)
    num_steps: NoCount
    smoothing: either(number("a number of mm above 0", lambda mm: mm > 0), words=(None, "paper"))
    max_redraws: whole(0)
    angle_deg: Given
    half_angle_deg: Given
    transmurality: Given
    heights: either(Range, words=(None,))
    no_reflow_share: Given
    paint: Flag
    painting: kind(dict[str, Any], "a group of keys")
    compile: Flag
    shards: Count
    shard: whole(0)
    batch_size: BatchSize
    device: Device
    overwrite: Flag
    skip_bad_cases: Flag
    preview_masks: Count
    viewer: Flag

    @model_validator(mode="after")
    def _paint_all(self):
        if self.paint and self.shards > 1:
            raise UserError(f"paint=true needs all masks, not those of shard={self.shard}; paint afterwards")
        return self

    def recorded(self, keys: Sequence[str]) -> dict[str, str]:
        """Settings as columns of the table."""
        values = {key: getattr(self, key) for key in keys}
        return {f"given_{key}": "" if value is None else str(value) for key, value in values.items()}


def refuse_ignored(settings: MaskInferenceSettings, defaults: MaskInferenceSettings) -> None:
    """Refuses settings that are not their defaults and that this run would not look at, by name."""
    spheres = settings.spheres
    if settings.layout.hearts:
        reasons = dict.fromkeys(OF_SPHERES, "is for lesions made from spheres; those of hearts are sectors")
    else:
        reasons = dict.fromkeys(SECTOR_SETTINGS, "is for hearts; here lesions are made from spheres")
        if spheres != FROM_MASKS:
            reasons["masks_from"] = f"is read with spheres={FROM_MASKS}"
        if spheres != PLACED:
            reasons |= dict.fromkeys(OF_DRAWN_SPHERES, f"is for spheres={PLACED}; spheres={spheres} says all")
            reasons["masks_per_scan"] = (
                f"is for spheres={PLACED}; each sphere of spheres={spheres} gets one mask. For another mask "
                "of each, run again with another seed and output_dir"
            )
    for key, reason in reasons.items():
        if getattr(settings, key) != getattr(defaults, key):
            raise UserError(f"{key}={getattr(settings, key)} {reason}")


class MaskModelSettings(ModelSettings):
    """configs/model/*.yaml"""

    context: kind(Literal["noised"], "noised: masks have no surroundings")


class MaskTrainerSettings(TrainerSettings):
    """configs/trainer/*.yaml"""

    histogram_loss: number("0: masks have no histograms", lambda weight: weight == 0)


class MaskTrainSettings(DataTypeSettings):
    """configs/diffmask_train.yaml"""

    dataset_root_dir: Path
    test_txt_dir: NoPath
    split: Split
    skip_empty: Flag
    results_folder: Path
    crop_size: NoSize
    shrink: Flag
    augment: Flag
    turns: choice(*TURNS)
    max_shift: whole(0)
    sphere: choice(*ENCODINGS)
    guide: choice(*GUIDES)
    loss_type: choice(*LOSS_TYPES)
    level_power: number("a number above 0 and at most 1", lambda power: 0 < power <= 1)
    init_weights: NoPath
    timesteps: Timesteps
    validation_masks: whole(0)
    validation_share: number("a number above 0 and below 1", lambda share: 0 < share < 1)
    validation_steps: Count
    model: MaskModelSettings
    trainer: MaskTrainerSettings
