"""Lesions into a scan, value in, value out: where they are, their shapes, and painting them in sequence."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from DiffMask.placement.spheres import ROOM_MM, Diameter, Placement, draw_diameter
from DiffMask.shapes.features import longest_axial_diameter_mm
from LeFusion.box_painter import paint_case
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.boxes import extent
from LeFusion.dataset.cases import Case
from LeFusion.dataset.loading import LoadedCase
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import Volume, on_grid_of
from LeFusion.diffusion import addressed_generator
from LeFusion.errors import UserError
from LeFusion.inference.notes import lung_share
from LeFusion.insertion.canvas import MOST_LESIONS, Canvas
from LeFusion.insertion.lung import Lung, in_lung
from LeFusion.insertion.result import InsertedScan, Lesion, measured
from LeFusion.insertion.shapes import Shape, Wanted, make_shapes
from LeFusion.insertion.sites import Site, sites_in
from LeFusion.insertion.tools import Tools
from LeFusion.settings import REGIONS
from LeFusion.textures.conditions import Conditions
from LeFusion.textures.histograms import mean_intensity

DIAMETERS = 5  # drawn for one lesion, where no place is found


def insert_lesions(
    volume: Volume,
    tools: Tools,
    lesions: int | Sequence[int] | Sequence[Site] = 3,
    seed: int = 0,
    version: int = 1,
    texture: str | int | None = None,
    diameter_mm: Diameter = REGIONS,
    done: Callable[[], None] = lambda: None,
) -> InsertedScan:
    """A CT with lesions in it.

    Args:
        lesions: how many to draw, or (fewest, most), or the sites of all of them.
        seed, version: of everything that is drawn; the same seed gives the same lesions in whatever order and
            format the scan is stored.
        texture: of lesions whose sites name none, see Tools.conditions.
        diameter_mm: longest axial diameter of lesions whose sites name none: a number, (low, high), or whose
            are drawn, see DiffMask.placement.spheres.DIAMETERS.
        done: called after each lesion.

    Raises UserError, naming the file and the site, for a scan that is no CT in HU, sites outside the lung,
    masks that do not fit, unknown textures, and lesions that find no place.
    """
    tools.refuse(volume)
    given = tools.settings
    canvas = Canvas(volume, given.layout, given.window, given.spacing_mm, tools.painter.size)
    address = f"{seed}/{canvas.address}/{version}"
    if sites := sites_in(lesions):
        wanted, shapes = _given(canvas, sites, address, tools, diameter_mm)
    else:
        lung = _lung(canvas)
        wanted = _drawn(canvas, lung, _count(lesions, address), address, diameter_mm)
        shapes = _made(canvas, wanted, tools, lung)
    textures = {_name(lesion): lesion.texture or texture for lesion in wanted}
    conditions = tools.conditions(textures, {_name(lesion): lesion.what for lesion in wanted})
    made, edit = [], np.zeros(volume.raw.shape, bool)
    edit_dhw = canvas.axes.to_dhw(edit)
    for lesion, shape in zip(wanted, shapes, strict=True):
        made.append(_painted(canvas, lesion, shape, tools, conditions, seed))
        edit_dhw[made[-1].box.slices] |= made[-1].edit
        done()
    return InsertedScan(canvas.image(), canvas.stored_labels(), edit, made, canvas.spacing_mm, tools.unit)


def _name(lesion: Wanted) -> str:
    return f"{lesion.name}/{lesion.number}"


def _count(lesions: int | Sequence[int], address: str) -> int:
    if isinstance(lesions, int):
        return lesions
    generator = addressed_generator("count", address)
    return int(torch.randint(lesions[0], lesions[1] + 1, (), generator=generator))


def _lung(canvas: Canvas) -> Lung:
    try:
        return Lung(canvas)
    except UserError as error:
        raise UserError(f"{canvas.source.path}: {error}") from None


def _drawn(canvas: Canvas, lung: Lung, count: int, address: str, diameter_mm: Diameter) -> list[Wanted]:
    wanted, taken = [], []
    for number in range(1, count + 1):
        generator = addressed_generator("placement", address, number)
        taken.append(_place(canvas, lung, generator, diameter_mm, taken, f"lesion {number} of {count}"))
        placement = taken[-1]
        centre, sphere = lung.centre(placement), placement.diameter_mm
        asked = None if isinstance(diameter_mm, str) else sphere
        what = f"{canvas.source.path}: lesion {number}"
        patch = canvas.patch(centre, centre)
        wanted.append(Wanted(what, address, number, centre, sphere, asked, None, patch))
    return wanted


def _place(
    canvas: Canvas,
    lung: Lung,
    generator: torch.Generator,
    diameter_mm: Diameter,
    taken: list[Placement],
    what: str,
) -> Placement:
    """A sphere in the lung; where no place is found for its diameter, another is drawn."""
    reason = None
    for _ in range(DIAMETERS):
        try:
            return lung.place(generator, _diameter(canvas, generator, diameter_mm), taken)
        except UserError as error:
            reason = error
    raise UserError(f"{canvas.source.path}: {what}: {reason}; ask for fewer or smaller lesions")


def _diameter(canvas: Canvas, generator: torch.Generator, diameter_mm: Diameter) -> float:
    """Drawn; of those of real nodules one that the network's box holds."""
    room = min(n * mm for n, mm in zip(canvas.size, canvas.network_mm, strict=True)) - ROOM_MM
    return draw_diameter(generator, diameter_mm, room)


def _given(
    canvas: Canvas, sites: Sequence[Site], address: str, tools: Tools, diameter_mm: Diameter
) -> tuple[list[Wanted], list[Shape]]:
    """The lesions of sites, in their order; those without a mask get a shape made."""
    if len(sites) > MOST_LESIONS:
        raise UserError(f"{len(sites)} sites are more than the {MOST_LESIONS} that a label map numbers")
    wanted: list[Wanted] = []
    shapes: dict[int, Shape] = {}
    lung, volumes = None, {}
    for number, site in enumerate(sites, start=1):
        if site.mask is not None:
            lesion, shapes[number] = _masked(canvas, site, number, address, volumes)
            wanted.append(lesion)
            continue
        centre = canvas.axes.dhw_index(site.stored_index(canvas.source.affine), canvas.shape)
        if any(not -0.5 <= c < n - 0.5 for c, n in zip(centre, canvas.shape, strict=True)):
            raise UserError(f"{site.what} lies outside the scan {canvas.source.path}; is it of another scan?")
        lung = lung or _lung(canvas)
        in_lung(lung, centre, f"{site.what}: the site")
        generator = addressed_generator("diameter", address, number)
        given = diameter_mm if site.diameter_mm is None else site.diameter_mm
        sphere = _diameter(canvas, generator, given)
        asked = None if isinstance(given, str) else sphere
        patch = canvas.patch(centre, centre)
        wanted.append(Wanted(site.what, address, number, centre, sphere, asked, site.texture, patch))
    to_make = [lesion for lesion in wanted if lesion.number not in shapes]
    if to_make:
        made = _made(canvas, to_make, tools, lung)
        shapes |= {lesion.number: shape for lesion, shape in zip(to_make, made, strict=True)}
    return wanted, [shapes[lesion.number] for lesion in wanted]


def _masked(
    canvas: Canvas, site: Site, number: int, address: str, volumes: dict[Path, np.ndarray]
) -> tuple[Wanted, Shape]:
    """A lesion whose label is given, on the scan's grid."""
    if site.mask not in volumes:
        volumes.clear()  # whole scans: not more than one at a time
        mask = on_grid_of(read_volume(site.mask), canvas.source)
        volumes[site.mask] = canvas.axes.to_dhw(mask.labels)
    labels = volumes[site.mask]
    found = labels == site.label if site.label is not None else labels > 0
    if not found.any():
        raise UserError(f"{site.what}: mask={site.mask} has no voxel of the lesion")
    place = extent(found)
    patch = canvas.patch(place.start, [end - 1 for end in place.end])
    label = np.ascontiguousarray(found[patch.box.slices])
    shape = Shape(patch.mask_of(label), label, longest_axial_diameter_mm(label, canvas.spacing_mm))
    centre = tuple((first + end - 1) / 2 for first, end in zip(place.start, place.end, strict=True))
    return Wanted(site.what, address, number, centre, 0.0, None, site.texture, patch), shape


def _made(canvas: Canvas, wanted: Sequence[Wanted], tools: Tools, lung: Lung) -> list[Shape]:
    """A shape for each, made by DiffMask."""
    tries = tools.settings.max_redraws + 1
    return make_shapes(wanted, tools.maker, lung, canvas.spacing_mm, tries, canvas.size)


def _painted(
    canvas: Canvas, lesion: Wanted, shape: Shape, tools: Tools, conditions: Conditions, seed: int
) -> Lesion:
    """Paints one lesion over those before it."""
    patch, label = lesion.patch, shape.label
    label = label & (canvas.labels[patch.box.slices] == 0)
    if not label.any():
        raise UserError(f"{lesion.what}: lies wholly in a lesion before it; move it, or leave it out")
    loaded = _on_patch(canvas, lesion, shape.mask)
    bare = _on_patch(canvas, lesion, shape.mask, painted=False)
    look = conditions.look(bare, 1)
    try:
        patches = paint_case(tools.painter, loaded, lambda part: look, ("insert", _name(lesion)))
    except UserError as error:
        raise UserError(f"{lesion.what}: {error}") from None
    to_source = loaded.intensity_map.to_source
    painted = to_source(loaded.image_under(patches, loaded.whole)[0]).numpy()
    source = to_source(loaded.image_dhw).numpy()
    edit = tools.painter.stored_edit(loaded)
    before = canvas.values(patch.box)
    touched = canvas.add(patch, lesion.number, label, painted - source, edit)
    return measured(
        instance=lesion.number,
        texture=conditions.name(_name(lesion), 1, [look]),
        scores=conditions.scores(look),
        seed=seed,
        scan=canvas.source,
        axes=canvas.axes,
        spacing_mm=canvas.spacing_mm,
        box=patch.box,
        label=label,
        edit=touched,
        before=before,
        after=canvas.values(patch.box),
        asked_mm=lesion.diameter_mm,
        asked_mean=float(to_source(mean_intensity(look.histogram, len(look.histogram), (-1, 1)))),
        network_means=(float(source[shape.mask].mean()), float(painted[shape.mask].mean())),
        lung_share=lung_share(bare, bare.all_lesions),
        unit=tools.unit,
    )


def _on_patch(canvas: Canvas, lesion: Wanted, mask: np.ndarray, painted: bool = True) -> LoadedCase:
    """The scan under a lesion's patch and the lesion, as a case of its own on the network's grid.

    painted: with the lesions so far; else the scan as it was, whose noise is its own.
    """
    patch, name = lesion.patch, _name(lesion)
    label = canvas.layout.lesion_labels[0]
    layout = replace(canvas.layout, depth_axis=0, orientation=None, instances=False)
    case = Case(name, canvas.source.path, Path(lesion.what))
    affine = np.diag((*patch.spacing_mm, 1.0))
    image = Volume(case.image_path, canvas.on_network(patch, painted), 1.0, 0.0, affine, None)
    labels = mask.astype(layout.label_dtype) * label
    masks = Volume(case.mask_path, labels, 1.0, 0.0, affine, None)
    axes = Axes.of(image, layout)
    return LoadedCase(case, layout, image, masks, axes, labels, patch.shape, canvas.intensity_map)
