"""Lesion-focused diffusion: paints lesions into lesion-free 3D scans."""
