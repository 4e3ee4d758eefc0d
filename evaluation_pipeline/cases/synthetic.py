"""The synthetic images of a folder, and which of them a training may see.

A synthetic image carries the name of the real case that it was made from. It also may hold the lesion of
another case (its donor), which manifest.csv beside the images names. Made from a test case by either way, it
is an error; made from a validation case of the fold, it is left out of that fold.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation_pipeline.cases.patients import case_name, patient_of
from LeFusion.dataset.cases import Layout, output_mask_name
from LeFusion.dataset.scans import find_scans
from LeFusion.errors import MissingFileError, UserError
from LeFusion.runtime.tables import read_csv

RELEASED = Layout()  # names of the released data sets
ROOTS = (("imagesTr", "labelsTr"), ("Image", "Mask"), (".", "."))
MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class SyntheticImage:
    """name: of the case it was made from. kind: its texture type, 1 to T. donor: the case that lent the
    lesion, "" for none."""

    name: str
    kind: int
    image: Path
    label: Path
    donor: str = ""

    @property
    def patients(self) -> set[str]:
        """All patients of whom it holds something."""
        return {patient_of(name) for name in (self.name, self.donor) if name}


def find_synthetic(folders: Sequence[Path], layout: Layout = RELEASED) -> list[SyntheticImage]:
    """All synthetic images below the folders, by folder, type and name.

    A folder holds imagesTr/Image_1..T and labelsTr/Mask_1..T, or Image/Image_k and Mask/Mask_k, or Image_k
    and Mask_k. layout: of the scans painted into, for the names of the masks.

    Raises FileNotFoundError for missing folders, a folder without synthetic images, images
    without a mask and masks without an image; ValueError for an image that the manifest there does not list.
    """
    return [image for folder in folders for image in _find_in(Path(folder), layout)]


def check_leakage(
    synthetic: Sequence[SyntheticImage], validation: Iterable[str], test: Iterable[str]
) -> tuple[list[SyntheticImage], list[SyntheticImage]]:
    """(may be trained on, left out because made from a validation case), by patient.

    validation, test: names of cases. Raises ValueError when an image was made from a patient of the test set.
    """
    of_test = {patient_of(name) for name in test}
    of_validation = {patient_of(name) for name in validation}
    leaking = [image for image in synthetic if image.patients & of_test]
    if leaking:
        patients = sorted(set().union(*(image.patients for image in leaking)) & of_test)
        more = f" and {len(patients) - 5} more" if len(patients) > 5 else ""
        raise UserError(
            f"{leaking[0].image}: was made from a test case, as {len(leaking)} of {len(synthetic)} synthetic "
            f"images were (patients {', '.join(patients[:5])}{more}); a training must not see them. Remove "
            "them and their masks, or generate without these patients: for LeFusion, test_txt_dir= takes the "
            "list that held_out_sources.py writes"
        )
    kept = [image for image in synthetic if not image.patients & of_validation]
    return kept, [image for image in synthetic if image.patients & of_validation]


def draw_synthetic(synthetic: Sequence[SyntheticImage], number: int, seed: int) -> list[SyntheticImage]:
    """A draw of so many images without replacement, in the order of `synthetic`.

    Draws with one seed are nested: those of a smaller number are among those of a larger one.
    Raises ValueError when there are fewer.
    """
    if number > len(synthetic):
        raise UserError(
            f"--synthetic_ratio asks for {number} synthetic images but only {len(synthetic)} may be used; "
            "lower it or generate more"
        )
    # by name and type, so that it matters neither where the folder lies nor what else is in it
    drawn = sorted(
        range(len(synthetic)),
        key=lambda i: hashlib.sha256(f"{seed}/{synthetic[i].name}/{synthetic[i].kind}".encode()).digest(),
    )[:number]
    return [synthetic[i] for i in sorted(drawn)]


def _find_in(folder: Path, layout: Layout) -> list[SyntheticImage]:
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder of synthetic images")
    roots = [(folder / images, folder / masks) for images, masks in ROOTS]
    image_root, mask_root = next(
        (pair for pair in roots if numbered_folders(pair[0], "Image_")), (None, None)
    )
    if image_root is None:
        raise MissingFileError(
            f"{folder}: has no synthetic images; expected imagesTr/Image_1, "
            "Image/Image_1 or Image_1, as LeFusion/inference/inference.py writes them"
        )
    kinds = numbered_folders(image_root, "Image_")
    mask_kinds = numbered_folders(mask_root, "Mask_")
    donors = _donors(image_root / MANIFEST)
    found = []
    for kind in sorted(kinds):
        if kind not in mask_kinds:
            raise MissingFileError(f"{kinds[kind]}: has no counterpart {mask_root / f'Mask_{kind}'}")
        masks = {case_name(scan.name): scan.path for scan in find_scans(mask_kinds[kind])}
        images = {case_name(scan.name): scan.path for scan in find_scans(kinds[kind])}
        if not images:
            raise MissingFileError(f"{kinds[kind]}: holds no image; generate again")
        for name, path in sorted(images.items()):
            mask_name = _mask_name(path, layout)
            label = masks.pop(mask_name, None) or masks.pop(name, None)
            if label is None:
                missing = mask_kinds[kind] / f"{mask_name}.nii.gz"
                raise MissingFileError(f"{path}: its mask {missing} is missing; generate again")
            if donors is not None and (name, kind) not in donors:
                raise UserError(
                    f"{path}: {image_root / MANIFEST} has no row for it, without which it is unknown whose "
                    "lesion it holds; generate it again, or remove it with its mask"
                )
            donor = "" if donors is None else donors[name, kind]
            found.append(SyntheticImage(name, kind, path, label, donor))
        if masks:
            lone = min(masks.values())
            raise MissingFileError(f"{lone}: has no image in {kinds[kind]}; generate again")
    return found


def numbered_folders(root: Path, prefix: str) -> dict[int, Path]:
    """The folders <prefix><number> in a folder, by number."""
    found = {path.name.removeprefix(prefix): path for path in root.glob(f"{prefix}*") if path.is_dir()}
    return {int(number): path for number, path in found.items() if number.isdigit()}


def _mask_name(image: Path, layout: Layout) -> str:
    """Of the mask that LeFusion writes with an image; a name in another style is the mask's as well."""
    try:
        return case_name(output_mask_name(image.name, layout))
    except UserError:
        return case_name(image)


def _donors(manifest: Path) -> dict[tuple[str, int], str] | None:
    """(case, type) -> the case that lent the lesion, "" for none. None without a manifest."""
    if not manifest.is_file():
        return None
    _, rows = read_csv(manifest)
    try:
        return {(case_name(row["case"]), int(row["type"])): row["donor"] or "" for _, row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{manifest}: needs columns case, type and donor ({error!r}), without which it is unknown whose "
            "lesions the images hold; generate again"
        ) from None
