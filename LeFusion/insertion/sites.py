"""Where lesions are wanted: drawn, or read from a table, which may be that of an earlier run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LeFusion.errors import MissingFileError, UserError
from LeFusion.runtime.commandline import absolute_path
from LeFusion.runtime.given_tables import read_rows

WORLD, VOXEL = ("x", "y", "z"), ("i", "j", "k")
SITE_COLUMNS = (*WORLD, *VOXEL, "diameter_mm", "texture", "mask", "scan")
# What a written table has besides: results, which are made anew
RESULTS = (
    "instance",
    "x_lps",
    "y_lps",
    "z_lps",
    "asked_diameter_mm",
    "volume_ml",
    "mean_hu",
    "asked_difference_hu",
    "obtained_difference_hu",
    "asked_difference_network_hu",
    "obtained_difference_network_hu",
    "scores",
    "seed",
    "version",
    "note",
)
OTHER_NAMES = {
    "type": "texture",
    "case": "scan",
    "x_mm": "x",
    "y_mm": "y",
    "z_mm": "z",
    "diameter": "diameter_mm",
}


@dataclass(frozen=True)
class Site:
    """A lesion that is wanted: at a place (`world` or `voxel`), or as a mask.

    Attributes:
        what: how messages call it.
        world: (x, y, z) of its centre in mm, RAS as in NIfTI.
        voxel: (i, j, k) of its centre, an index of the stored array.
        diameter_mm: its longest axial diameter; None: as of lesions that are drawn.
        texture: name or number; None: that of the run.
        mask: a file with the lesion itself.
        label: its number in `mask`; None: all voxels above 0.
        scan: name of the scan, where a table has several.
    """

    what: str
    world: tuple[float, float, float] | None = None
    voxel: tuple[float, float, float] | None = None
    diameter_mm: float | None = None
    texture: str | int | None = None
    mask: Path | None = None
    label: int | None = None
    scan: str = ""

    def stored_index(self, affine: np.ndarray) -> tuple[float, float, float]:
        """Of its centre."""
        if self.voxel is not None:
            return self.voxel
        return tuple(np.round(np.linalg.solve(affine, (*self.world, 1))[:3], 3).tolist())


def sites_in(lesions: int | Sequence[int] | Sequence[Site]) -> Sequence[Site]:
    """The sites, where these say which lesions a scan gets; none where a number, or (fewest, most), does."""
    return () if isinstance(lesions, int) or not isinstance(lesions[0], Site) else lesions


def read_sites(path: Path) -> list[Site]:
    """A CSV file of sites; see docs/whole_ct.md for its columns. Masks are relative to its folder.

    Raises MissingFileError, and UserError with the line and the column.
    """
    more = f"{', '.join(SITE_COLUMNS)}, and the columns of a lesions.csv"
    names, rows = read_rows(path, "sites", (*SITE_COLUMNS, *RESULTS), more, OTHER_NAMES)
    spaces = [space for space in (WORLD, VOXEL) if set(space) & set(names)]
    if len(spaces) > 1 or any(set(space) - set(names) for space in spaces) or not (spaces or "mask" in names):
        raise UserError(f"{path}: needs the columns x, y, z (mm, RAS), or i, j, k (voxels), or mask")
    sites = [_site(path, what, row, spaces[0] if spaces else ()) for what, row in rows]
    if not sites:
        raise UserError(f"{path}: holds no site")
    return sites


def _site(path: Path, what: str, row: dict[str, str], space: Sequence[str]) -> Site:
    place = tuple(_number(what, name, row[name]) for name in space if row[name] or not row.get("mask"))
    if len(place) not in (0, 3):
        raise UserError(f"{what}: needs all of {', '.join(space)}, or none of them and a mask")
    mask = row.get("mask")
    if mask and not (path.parent / mask).is_file():
        raise MissingFileError(f"{what}: mask={mask}: there is no such file beside the table")
    given = row.get("asked_diameter_mm") or row.get("diameter_mm")
    diameter = _number(what, "diameter_mm", given) if given else None
    if diameter is not None and diameter <= 0:
        raise UserError(f"{what}: diameter_mm={diameter:g} must be above 0")
    if mask and (given or place):
        raise UserError(
            f"{what}: a mask says where its lesion lies and how large it is; leave {', '.join(space)} and "
            "diameter_mm empty"
        )
    texture = row.get("texture") or None
    shown = ", ".join(f"{name}={value:g}" for name, value in zip(space[: len(place)], place, strict=True))
    return Site(
        f"{what} ({shown})" if place else what,
        place if place and tuple(space) == WORLD else None,
        place if place and tuple(space) == VOXEL else None,
        diameter,
        int(texture) if texture and texture.isdecimal() else texture,
        absolute_path(path.parent / mask) if mask else None,
        scan=row.get("scan") or "",
    )


def _number(what: str, column: str, value: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"{what}: {column}={value!r} must be a number")
    return found
