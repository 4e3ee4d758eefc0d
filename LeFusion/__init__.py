"""Lesion-focused diffusion: paints lesions into lesion-free 3D scans."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from LeFusion.errors import UserError
    from LeFusion.painter import Painter
    from LeFusion.pool import PaintedPool
    from LeFusion.shared_painter import SharedPainter
    from LeFusion.transforms import RandInsertLesiond, RandPaintLesiond

__all__ = ["PaintedPool", "Painter", "RandInsertLesiond", "RandPaintLesiond", "SharedPainter", "UserError"]
_PLACES = {
    "PaintedPool": "LeFusion.pool",
    "Painter": "LeFusion.painter",
    "RandInsertLesiond": "LeFusion.transforms",
    "RandPaintLesiond": "LeFusion.transforms",
    "SharedPainter": "LeFusion.shared_painter",
    "UserError": "LeFusion.errors",
}


def __getattr__(name: str):
    """Imports what is asked for then: LeFusion.diffusion needs fewer packages than a painter."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from LeFusion.runtime.threads import spin_briefly

    spin_briefly()
    return getattr(import_module(_PLACES[name]), name)
