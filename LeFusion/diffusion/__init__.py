"""The diffusion core shared by LeFusion and DiffMask: torch, einops and numpy only (safetensors where a
checkpoint of ours is read or written)."""

from LeFusion.diffusion.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, start_from
from LeFusion.diffusion.randomness import AddressedNoise, address_seed, addressed_generator, drawn
from LeFusion.diffusion.samplers import (
    SAMPLERS,
    SPACINGS,
    compose,
    ddim,
    dpm_solver_pp_2m,
    repaint,
    repaint_step,
    repaint_times,
    spaced_levels,
    walk_levels,
)
from LeFusion.diffusion.schedule import NoiseSchedule
from LeFusion.diffusion.unet import UNet3D

__all__ = [
    "SAMPLERS",
    "SPACINGS",
    "AddressedNoise",
    "Checkpoint",
    "NoiseSchedule",
    "UNet3D",
    "address_seed",
    "addressed_generator",
    "compose",
    "ddim",
    "dpm_solver_pp_2m",
    "drawn",
    "load_checkpoint",
    "repaint",
    "repaint_step",
    "repaint_times",
    "save_checkpoint",
    "spaced_levels",
    "start_from",
    "walk_levels",
]
