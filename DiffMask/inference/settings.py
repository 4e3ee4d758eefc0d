"""The settings of a run of DiffMask: what is refused, and what the table records."""

from collections.abc import Sequence

from DiffMask.inference.plan import FROM_MASKS, PLACED
from LeFusion.diffusion import SAMPLERS
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import check_whole_numbers

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


def check_settings(config: dict) -> None:
    """Refuses what no run could use, each in a line that names the key."""
    check_whole_numbers(config, masks_per_scan=1, max_redraws=0, seed=0, preview_masks=1)
    check_whole_numbers(config, diffusion_depth_size=1, diffusion_img_size=1)
    if config["batch_size"] != "auto":
        check_whole_numbers(config, batch_size=1)
    if config["num_steps"] is not None:
        check_whole_numbers(config, num_steps=1)
    if config["mask_sampler"] not in SAMPLERS:
        raise UserError(f"mask_sampler={config['mask_sampler']!r} must be one of {', '.join(SAMPLERS)}")
    smoothing = config["smoothing"]
    number = isinstance(smoothing, int | float) and not isinstance(smoothing, bool) and smoothing > 0
    if smoothing not in (None, "paper") and not number:
        raise UserError(f"smoothing={smoothing} must be null, paper or a number of mm above 0")
    for key in (
        "diameter_mm",
        "border_mm",
        "angle_deg",
        "half_angle_deg",
        "transmurality",
        "no_reflow_share",
    ):
        if not _is_range(config[key], config[key] is None or isinstance(config[key], int | float)):
            raise UserError(f"{key}={config[key]} must be a number, a range [low, high], or null")
    if not _is_range(config["heights"], config["heights"] is None):
        raise UserError(f"heights={config['heights']} must be a range [low, high] from 0 to 1, or null")
    if config["paint"] and config["shards"] > 1:
        raise UserError(f"paint=true needs all masks, not those of shard={config['shard']}; paint afterwards")
    for key in ("separate", "paint", "overwrite", "skip_bad_cases", "compile"):
        if not isinstance(config[key], bool):
            raise UserError(f"{key}={config[key]} must be true or false")
    for key in ("inside_share", "vessel_share"):
        if not isinstance(config[key], int | float) or not 0 <= config[key] <= 1:
            raise UserError(f"{key}={config[key]} must be a number from 0 to 1")
    if not isinstance(config["spheres"], str):
        raise UserError(f"spheres={config['spheres']} must be {PLACED}, {FROM_MASKS} or a CSV file")


def refuse_ignored(config: dict, defaults: dict, hearts: bool) -> None:
    """Refuses settings that are not their defaults and that this run would not look at, by name."""
    spheres = config["spheres"]
    if hearts:
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
        if config[key] != defaults[key]:
            raise UserError(f"{key}={config[key]} {reason}")


def _is_range(value, else_fine: bool) -> bool:
    if not isinstance(value, list):
        return else_fine
    return len(value) == 2 and all(isinstance(v, int | float) for v in value) and value[0] <= value[1]


def recorded(config: dict, keys: Sequence[str]) -> dict[str, str]:
    """Settings as columns of the table."""
    return {f"given_{key}": "" if config[key] is None else str(config[key]) for key in keys}
