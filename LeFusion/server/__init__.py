"""Painting over HTTP, for viewers such as 3D Slicer. Needs the extra `serve`; stands on DiffMask, too, which
makes the masks."""
