"""The shape of each lesion: made by DiffMask to a diameter, or given as a mask."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from DiffMask.grid import MaskGrid
from DiffMask.inference.masks import ShapeMaker
from DiffMask.inference.plan import Draft, Scan
from DiffMask.placement.spheres import Placement
from DiffMask.postprocess import clean_mask
from DiffMask.shapes.features import longest_axial_diameter_mm
from LeFusion.dataset.boxes import extent
from LeFusion.errors import UserError
from LeFusion.insertion.canvas import Patch
from LeFusion.insertion.lung import Lung

TOLERANCE = 0.1  # of a diameter that is asked for
SCALES = 3  # times that a shape is scaled to its diameter before another is drawn
OVERSHOOT = 1.15  # of a sphere by its lesion, for which the network's box has room
MOST_SCALED = 1.4  # times: beyond, a shape would not look like one of its size


@dataclass(frozen=True, eq=False)
class Wanted:
    """A lesion whose place and size are settled, but not its shape.

    name: of the address of its noise; number: from 1, of the lesion in its scan. centre_dhw: in voxels of the
    scan. sphere_mm: of the sphere that it is to fill. diameter_mm: longest axial diameter asked for, or None.
    """

    what: str
    name: str
    number: int
    centre_dhw: tuple[float, float, float]
    sphere_mm: float
    diameter_mm: float | None
    texture: str | int | None
    patch: Patch


@dataclass(frozen=True, eq=False)
class Shape:
    """mask: (*patch.shape) bool on the network's grid. label: (*patch.box.size) bool on the scan's."""

    mask: np.ndarray
    label: np.ndarray
    diameter_mm: float  # longest axial one of the label
    cut: bool = False  # by the box that the network works in

    @classmethod
    def of(cls, mask: np.ndarray, patch: Patch, spacing_mm: Sequence[float], cut: bool = False) -> "Shape":
        label = patch.label_of(mask)
        return cls(mask, label, longest_axial_diameter_mm(label, spacing_mm), cut)

    def misses(self, asked_mm: float | None) -> float:
        """By what share the diameter differs from that asked for; more, where the shape is cut."""
        return self.cut + (0.0 if asked_mm is None else abs(self.diameter_mm / asked_mm - 1))


def make_shapes(
    wanted: Sequence[Wanted],
    maker: ShapeMaker,
    lung: Lung,
    spacing_mm: Sequence[float],
    tries: int,
    size: Sequence[int],
) -> list[Shape]:
    """A shape for each; where a diameter is asked for it is scaled and drawn again until it is met to
    TOLERANCE, at most `tries` times, and else the nearest is taken.

    spacing_mm: of the scan. size: of the largest box that is painted, which each has to fit. Raises
    UserError, naming the lesion, where every mask came out empty or larger than that.
    """
    found: list[Shape | None] = [None] * len(wanted)
    organs = [lung.mask(lesion.patch) for lesion in wanted]
    todo = list(range(len(wanted)))
    for attempt in range(tries):
        drafts = [_draft(wanted[i], maker) for i in todo]
        for i, draft, soft in zip(todo, drafts, maker.sample(drafts, attempt), strict=True):
            shape = _scaled(wanted[i], draft, soft.numpy(), organs[i], spacing_mm)
            best, asked = found[i], wanted[i].diameter_mm
            if shape is None or any(n > most for n, most in zip(extent(shape.mask).size, size, strict=True)):
                continue
            if best is None or shape.misses(asked) < best.misses(asked):
                found[i] = shape
        todo = [i for i in todo if found[i] is None or found[i].misses(wanted[i].diameter_mm) > TOLERANCE]
        if not todo:
            break
    for lesion, shape in zip(wanted, found, strict=True):
        if shape is None:
            raise UserError(
                f"{lesion.what}: its mask came out empty, or larger than the {tuple(size)} voxels that are "
                f"painted at once, in {tries} draws; try another diameter_mm or seed, or more max_redraws"
            )
    return found


def _draft(lesion: Wanted, maker: ShapeMaker) -> Draft:
    """What DiffMask makes a mask from, on the lesion's patch as if that were the scan."""
    patch = lesion.patch
    centre = patch.to_network(lesion.centre_dhw)
    room = lesion.sphere_mm * OVERSHOOT
    grid = MaskGrid.around(centre, room, patch.spacing_mm, maker.size, maker.spacing_mm)
    placement = Placement(centre, lesion.sphere_mm, 0.0, 1.0)
    return Draft(Scan(lesion.name, None), lesion.number, patch.spacing_mm, placement, grid=grid)


def _scaled(
    lesion: Wanted, draft: Draft, soft: np.ndarray, organ: np.ndarray, spacing_mm: Sequence[float]
) -> Shape | None:
    """The soft mask as a lesion in the lung, scaled to the diameter asked for; None: nothing is left."""
    best, scale = None, 1.0
    middle = soft[1:-1, 1:-1, 1:-1]
    cut = (soft > 0).sum() > (middle > 0).sum()
    for _ in range(1 if lesion.diameter_mm is None else SCALES + 1):
        grid = replace(draft.grid, spacing_mm=tuple(mm * scale for mm in draft.grid.spacing_mm))
        box = grid.box(organ.shape)
        mask = np.zeros(organ.shape, bool)
        clean = clean_mask(grid.to_scan(soft, box), organ[box])
        if clean is None:
            return best
        mask[box] = clean
        shape = Shape.of(mask, lesion.patch, spacing_mm, cut)
        asked = lesion.diameter_mm
        if best is None or shape.misses(asked) < best.misses(asked):
            best = shape
        if asked is None or abs(shape.diameter_mm / asked - 1) <= TOLERANCE / 4:
            break
        scale *= asked / shape.diameter_mm
        if not 1 / MOST_SCALED <= scale <= MOST_SCALED:
            break
    return best
