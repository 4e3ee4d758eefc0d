"""What is odd about cases that are painted all the same: each kind is told in one line, before painting."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from scipy.ndimage import distance_transform_edt

from LeFusion.dataset.loading import LoadedCase
from LeFusion.dataset.parts import Part

LUNGS = "lidc"  # the data type whose networks learned nodules in lungs, on voxels of about 1 mm
THICKEST_MM = 2.0
BESIDE_MM = (2.0, 8.0)  # from a lesion: where the tissue beside it begins and ends
LUNG_HU = (-980.0, -500.0)
LEAST_LUNG = (
    0.2  # of that tissue: beside 97 nodules of LIDC-IDRI and in 56 places in lungs it is 0.44 at the least
)


class Note(NamedTuple):
    """kind: key of TOLD. path: of the file. what: the value there."""

    kind: str
    path: str
    what: str


TOLD = {
    "thick": "{files}: voxels of {what} mm (depth, height, width), while the weights learned on about 1 mm, "
    "so lesions get flat ends; spacing_mm=[1,1,1] paints on 1 mm and carries the change to the scan's voxels",
    "outside": "{files}: {what} of what surrounds the mask is lung ({low:g} to {high:g} HU), beside real "
    "nodules it is more than 40 %; move the mask into the lung, or leave the case out",
}


def notes_on(loaded: LoadedCase, size: tuple[int, int, int]) -> tuple[Note, ...]:
    """About a case that a network for lungs is to paint. size: of the network's box, see
    LoadedCase.parts."""
    found = []
    if max(loaded.spacing_mm) > THICKEST_MM:
        spacing = " x ".join(f"{mm:.3g}" for mm in loaded.spacing_mm)
        found.append(Note("thick", str(loaded.case.image_path), spacing))
    share = min(lung_share(loaded, part) for part in loaded.parts(size))
    if share < LEAST_LUNG:
        found.append(Note("outside", str(loaded.case.mask_path), f"{share:.0%}"))
    return tuple(found)


def lung_share(loaded: LoadedCase, part: Part) -> float:
    """How much of the tissue beside a part of a CT is as dark as lung, and not as dark as air; 1 where the
    image shows nothing beside it."""
    reach = [round(BESIDE_MM[1] / mm) + 1 for mm in loaded.spacing_mm]
    box = part.place.grown(reach).within(loaded.shape)
    lesions = part.lesions(box).any(dim=0).numpy()
    away = distance_transform_edt(~lesions, sampling=loaded.spacing_mm)
    beside = loaded.image(box)[0].numpy()[(away > BESIDE_MM[0]) & (away <= BESIDE_MM[1])]
    low, high = (float(loaded.intensity_map.to_network(hu)) for hu in LUNG_HU)
    return float(((beside > low) & (beside < high)).mean()) if beside.size else 1.0


def told(notes: Iterable[Note]) -> Iterator[str]:
    """A line for each kind, about its first file."""
    notes = sorted(set(notes))
    for kind, text in TOLD.items():
        found = [note for note in notes if note.kind == kind]
        if found:
            files = found[0].path + (f" and {len(found) - 1} more" if len(found) > 1 else "")
            low, high = LUNG_HU
            yield "note: " + text.format(files=files, what=found[0].what, low=low, high=high)
