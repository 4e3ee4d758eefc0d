"""Find the images of a data set and the masks that belong to each."""

import difflib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from LeFusion.dataset.scans import find_scans, stem
from LeFusion.errors import MissingFileError, UserError

SPLITS = ("all", "train", "test")
GENERATED = "_GenMask_"  # <image name>_GenMask_<number>: a mask that DiffMask made for an image
LABELS = frozenset(range(2**16))  # what a label map may hold, the background 0 among it
PAINTED = "_painted_"  # <image name>_painted_<type>: a painted image among real ones
# What separates the patient from the rest in the names of images, masks and generated masks
CASE_PARTS = ("_Vol_", "_CVol_", "_Mask_", "_CMask_", GENERATED, PAINTED)


@dataclass(frozen=True)
class Layout:
    """How one data set names its files and codes its labels. A data set of your own is one more Layout.

    mask_names: pairs (part of the image name, part of the mask name that stands in its place); the first pair
        whose image part occurs in the name is used. The mask part may be empty, as in nnU-Net's layout:
        ("_0000", ""). No pairs: a mask carries the name of its image.
    output_mask_infix: stands in place of the image part in the name of a written label map.
    lesion_labels: the label of each lesion class, in channel order.
    other_labels: what else a mask may hold; no lesion.
    cavity_label, myocardium_label: which of these are a heart's; None for other organs.
    reference_label: which of these is healthy tissue that lesion intensities of other cases are taken
        relative to, for images whose units differ from scan to scan (MR); None: units are absolute (CT).
    instances: masks number their lesions, 1, 2, 3, ...; all of them are of the one lesion label.
    depth_axis: which axis of the stored array is the depth; the others stay in their order. For arrays whose
        affines give the voxel size only. Hearts are turned by their affines all the same: see Axes.of_heart.
    orientation: instead of it, where depth, rows and columns run to, by the affine, whatever the order in
        which a volume is stored: "SPL" is from inferior to superior, anterior to posterior, right to left.
    """

    image_folder: str = "Image"
    mask_folder: str = "Mask"
    mask_names: tuple[tuple[str, str], ...] = (("_CVol_", "_CMask_"), ("_Vol_", "_Mask_"))
    output_mask_infix: str = "_Mask_"
    lesion_labels: tuple[int, ...] = (1,)
    other_labels: tuple[int, ...] = ()
    cavity_label: int | None = None
    myocardium_label: int | None = None
    reference_label: int | None = None
    instances: bool = False
    depth_axis: int | None = 0
    orientation: str | None = None

    def __post_init__(self):
        # Values from a YAML file arrive as lists.
        object.__setattr__(self, "mask_names", tuple(tuple(pair) for pair in self.mask_names))
        object.__setattr__(self, "lesion_labels", tuple(self.lesion_labels))
        object.__setattr__(self, "other_labels", tuple(self.other_labels))
        labels = self.known_labels
        if not self.lesion_labels or len(set(labels)) < len(labels) or not set(labels) <= LABELS:
            raise UserError(
                f"lesion_labels {self.lesion_labels} and other_labels {self.other_labels} must be different "
                f"whole numbers from 1 to {max(LABELS)}, at least one of them a lesion"
            )
        if self.instances and (len(self.lesion_labels) > 1 or self.other_labels):
            raise UserError(
                f"layout.instances=true is for masks of one lesion label and no others; this layout has "
                f"lesion_labels {self.lesion_labels} and other_labels {self.other_labels}"
            )
        heart = (self.cavity_label, self.myocardium_label)
        if heart != (None, None) and (heart[0] == heart[1] or not set(heart) <= set(self.other_labels)):
            raise UserError(
                f"cavity_label and myocardium_label, {heart[0]} and {heart[1]}, must be two of the "
                f"other_labels {self.other_labels}"
            )
        if self.reference_label is not None and self.reference_label not in self.other_labels:
            raise UserError(
                f"reference_label {self.reference_label} must be one of the other_labels {self.other_labels}"
            )
        if self.orientation is None and self.depth_axis not in (0, 1, 2):
            raise UserError(f"depth_axis is {self.depth_axis}; it must be 0, 1 or 2")
        if self.orientation is not None:
            if self.depth_axis is not None:
                raise UserError(
                    f"layout.orientation={self.orientation} says which axis is the depth; set "
                    f"layout.depth_axis=null, not {self.depth_axis}, or layout.orientation=null"
                )
            letters = [set(pair) & set(str(self.orientation)) for pair in ("LR", "PA", "IS")]
            if len(str(self.orientation)) != 3 or any(len(found) != 1 for found in letters):
                raise UserError(
                    f"layout.orientation={self.orientation!r} must be null or three letters, one each of L "
                    "or R, P or A, I or S, such as SPL"
                )
        if any(len(pair) != 2 or not pair[0] for pair in self.mask_names):
            raise UserError(
                f"mask_names {self.mask_names} must be pairs (part of an image's name, what stands in its "
                "place in the mask's name); the former may not be empty"
            )

    @property
    def hearts(self) -> bool:
        """Whether the images are of hearts, whose labels tell the wall."""
        return self.myocardium_label is not None

    @property
    def known_labels(self) -> tuple[int, ...]:
        """All values that a mask may hold."""
        return (0, *self.lesion_labels, *self.other_labels)

    @property
    def label_dtype(self) -> np.dtype:
        """What holds each of the labels: uint8, or uint16 where one is above 255."""
        return np.min_scalar_type(max(self.known_labels))

    def labels_of(self, values: np.ndarray) -> np.ndarray:
        """What a mask holds, with all its instances as the one lesion label."""
        return np.where(values > 0, self.lesion_labels[0], values) if self.instances else values


@dataclass(frozen=True)
class Case:
    """One image with one mask. name: the image's, its file name without the ending; for a mask that DiffMask
    made, of which an image may have several, the mask's."""

    name: str
    image_path: Path
    mask_path: Path


def find_cases(
    root_dir: str | os.PathLike,
    layout: Layout,
    test_txt: str | os.PathLike | None = None,
    split: str = "all",
    skipped: list[str] | None = None,
    mask_dir: str | os.PathLike | None = None,
    generated: bool = False,
) -> list[Case]:
    """List the cases of a data set, sorted by name.

    root_dir: the folder that holds the image and the mask folder, or the image folder itself. Images may lie
        in sub-folders; a mask lies in the same sub-folder of the mask folder, or has a name that occurs only
        once in it. With mask_dir also any folder of images, or one image.
    test_txt: a text file with one image name per line; each must be an image of the data set.
    split: "all", "test" (those listed in test_txt) or "train" (the others).
    skipped: a list to which images without a mask are reported; None makes them an error.
    mask_dir: where the masks are, if not in the layout's mask folder.

    generated: an image is also a case with each mask that DiffMask made for it (<name>_GenMask_<number>), and
        then needs no other. Otherwise these are no masks: they mark no lesion that is there.

    Raises FileNotFoundError for a missing folder, file, image or mask, ValueError for anything else. Each
    message is one line.
    """
    image_dir, mask_dir = locate_folders(root_dir, layout, mask_dir)
    images = _choose(find_images(image_dir), image_dir, test_txt, split)
    if not image_dir.is_dir() or image_dir in images.values():  # a DICOM series is a folder
        image_dir = image_dir.parent
    masks = index_by_name(mask_dir)
    made_for = _generated(masks) if generated else {}
    cases = []
    for name, image in images.items():
        made = made_for.get(name, [])
        cases += [Case(stem(path.name), image, path) for path in made]
        try:
            cases.append(Case(name, image, _find_mask(name, image, image_dir, mask_dir, masks, layout)))
        except (FileNotFoundError, ValueError) as error:
            if made:
                continue
            if skipped is None:
                raise
            skipped.append(str(error))
    return sorted(cases, key=lambda case: case.name)


def find_images(
    folder: str | os.PathLike, left_out: list[str] | None = None, key: str = "dataset_root_dir"
) -> dict[str, Path]:
    """All scans at any depth below a folder, or the one there, by name, sorted; see `find_scans`.

    left_out: a list to which is added why DICOM files are no scans, such as localizers. key: of the
        settings, that the path comes from.
    Raises FileNotFoundError when there is nothing there, ValueError when two have one name.
    """
    folder = Path(folder)
    try:
        images = index_by_name(folder, left_out)
    except MissingFileError as error:
        raise MissingFileError(f"{folder}: no such folder or file; check {key}") from error
    for name, paths in sorted(images.items()):
        if len(paths) > 1:
            first, second = sorted(paths)[:2]
            raise UserError(
                f"{first}: has the same case name {name!r} as {second}; give the folder of scans alone, or "
                "rename one, as results go by name"
            )
    return {name: images[name][0] for name in sorted(images)}


def refuse_masks(images: Mapping[str, Path], root: Path, layout: Layout, key: str) -> None:
    """Raises UserError where scans found below `root`, which a key of the settings names, lie in the mask
    folder of a data set: its masks would be taken for scans."""
    for path in images.values():
        for folder in path.parents:
            data_set = folder.parent
            if folder.name == layout.mask_folder and (data_set / layout.image_folder).is_dir():
                raise UserError(
                    f"{key}={root}: {path} is a mask, not a scan, by the folder that it lies in; give the "
                    f"folder of scans {data_set / layout.image_folder}"
                )
            if folder in (root, root.parent):
                break


def output_mask_name(case_file_name: str, layout: Layout) -> str:
    """File name of the label map written for an image, e.g. `A_CVol_1.nii.gz` -> `A_Mask_1.nii.gz`.

    Raises ValueError for a name that has none of the layout's image parts, unless DiffMask made its mask.
    """
    if not layout.mask_names or (
        GENERATED in case_file_name and not any(part in case_file_name for part, _ in layout.mask_names)
    ):
        return case_file_name
    return _swap(
        case_file_name, [(image_part, layout.output_mask_infix) for image_part, _ in layout.mask_names]
    )


def locate_folders(
    root_dir: str | os.PathLike, layout: Layout, mask_dir: str | os.PathLike | None = None
) -> tuple[Path, Path]:
    """The folders (or the one image) that `find_cases` reads: of the images, and of the masks.

    Raises FileNotFoundError for a missing one.
    """
    root = Path(os.path.abspath(root_dir))
    if mask_dir is not None:
        images = root / layout.image_folder
        image_dir, mask_dir = images if images.is_dir() else root, Path(os.path.abspath(mask_dir))
    elif not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "no such folder"
        raise MissingFileError(f"{root_dir}: {what}; check dataset_root_dir")
    elif (root / layout.image_folder).is_dir():
        image_dir, mask_dir = root / layout.image_folder, root / layout.mask_folder
    elif root.name == layout.image_folder:
        image_dir, mask_dir = root, root.parent / layout.mask_folder
    else:
        raise MissingFileError(
            f"{root}: has no folder {layout.image_folder!r}; give the folder that holds "
            f"{layout.image_folder!r} and {layout.mask_folder!r}"
        )
    if not mask_dir.is_dir():
        raise MissingFileError(f"{mask_dir}: no such folder; every image needs a mask there")
    return image_dir, mask_dir


def refuse_among_sources(outputs: Mapping[str, str | os.PathLike], sources: Iterable[Path | None]) -> None:
    """Raises UserError where a folder that is written to lies in one that is read, or is it: the next run
    would take what is written there for images or masks.

    outputs: by the key or flag that names them. sources: folders; files and None are passed over.
    """
    read = [source for source in sources if source is not None and source.is_dir()]
    for key, output in outputs.items():
        for source in read:
            if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(source)):
                raise UserError(
                    f"{key}={output} lies in {source}, where all files are read as sources: the next run "
                    f"would take what this one writes for one of them; choose another {key}"
                )


def _choose(
    images: dict[str, Path], image_dir: Path, test_txt: str | os.PathLike | None, split: str
) -> dict[str, Path]:
    """The images of a split, sorted by name."""
    if split not in SPLITS:
        raise UserError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    listed = read_names(test_txt) if test_txt is not None else None
    if split == "all" or not images:
        chosen = set(images)
    elif listed is None:
        raise no_test_list(split)
    else:
        check_listed(test_txt, listed, images, f"{len(images)} images in {image_dir}")
        chosen = set(images) - listed if split == "train" else listed
    if not chosen:
        raise MissingFileError(
            f"{image_dir}: no case found (split {split}, {len(images)} images seen, "
            f"{len(listed or ())} names in test.txt); check the folder and the split"
        )
    return {name: images[name] for name in sorted(chosen)}


def no_test_list(split: str) -> UserError:
    """For a split that needs the list of test images, where none is given."""
    return UserError(
        f"split={split} needs the list of test images; give test_txt_dir, or split=all for all images"
    )


def read_names(test_txt: str | os.PathLike) -> set[str]:
    """The names that a list of test images holds, one a line, see `listed_name`.

    Raises MissingFileError where there is no such file, UserError where it is no text.
    """
    path = Path(test_txt)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; it should list the names of the test images")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text; save it as plain text with one name per line") from error
    return {listed_name(line) for line in lines if line.strip()}


def listed_name(line: str) -> str:
    """The name that a line of a list of images holds: without the folder before it and the ending."""
    return stem(re.split(r"[/\\]", line.strip())[-1])


def check_listed(test_txt: str | os.PathLike, listed: set[str], known: Iterable[str], where: str) -> None:
    """Raises MissingFileError, with a name that is like it, where a listed name is none of those known.

    It would change nothing, and what it was meant for would be trained on. where: what is known, in words.
    """
    known = list(known)
    absent = sorted(listed.difference(known))
    if absent:
        like = {name.casefold(): name for name in known}
        near = difflib.get_close_matches(absent[0].casefold(), like, 1, 0.7)
        hint = f" (for {absent[0]} there is {like[near[0]]})" if near else ""
        raise MissingFileError(
            f"{test_txt}: lists {_shorten(absent)}, not found among the {where}{hint}; correct or remove the "
            "line, or give another list"
        )


def index_by_name(folder: Path, left_out: list[str] | None = None) -> dict[str, list[Path]]:
    """The scans at any depth below `folder`, or the one there, by name."""
    found = defaultdict(list)
    for scan in find_scans(folder, left_out):
        found[scan.name].append(scan.path)
    return found


def _generated(masks: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Of these masks those that DiffMask made, by the name of their image."""
    found = defaultdict(list)
    for name, paths in masks.items():
        match = re.fullmatch(rf"(.+){GENERATED}\d+", name)
        if match:
            if len(paths) > 1:
                raise UserError(f"{paths[0]}: lies also in {paths[1].parent}; keep one")
            found[match[1]].append(paths[0])
    return found


def _find_mask(
    name: str, image: Path, image_dir: Path, mask_dir: Path, masks: dict[str, list[Path]], layout: Layout
) -> Path:
    try:
        mask_name = _swap(name, layout.mask_names) if layout.mask_names else name
    except ValueError as error:
        raise UserError(f"{image}: {error}") from error
    expected_dir = mask_dir / image.parent.relative_to(image_dir)
    candidates = masks.get(mask_name, [])
    nearby = [path for path in candidates if path.parent == expected_dir]
    if len(nearby or candidates) > 1:
        raise UserError(
            f"{image}: its mask could be {_shorten(sorted(map(str, nearby or candidates)))}; keep one"
        )
    if not candidates:
        raise MissingFileError(
            f"{image}: its mask {expected_dir / mask_name}.nii.gz is missing; every image "
            "needs a mask of its lesions"
        )
    return (nearby or candidates)[0]


def _swap(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Put the second text of the first pair whose first text occurs in `name` in its (last) place.

    Raises ValueError where none occurs.
    """
    for old, new in pairs:
        if old in name:
            before, _, after = name.rpartition(old)
            return before + new + after
    parts = ", ".join(repr(old) for old, _ in pairs)
    raise UserError(
        f"the name {name!r} has none of the parts {parts}; rename the file, or say "
        "layout.mask_names=[] where masks have the names of their images"
    )


def patient_of(name: str, parts: Iterable[str] = CASE_PARTS) -> str:
    """The patient of an image or a mask: what stands before the first of these parts in its name, e.g.
    `A-0001_Mask_3` -> `A-0001`; a name without any is the patient's own."""
    return min((name.partition(part)[0] for part in parts if part), key=len, default=name) or name


def _shorten(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
