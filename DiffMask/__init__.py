"""Mask diffusion: lesion shapes. Imports the core of LeFusion.diffusion and copies nothing of it."""
