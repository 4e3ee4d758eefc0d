"""How data sets are laid out, labelled and scaled: what the commands about fidelity and baselines share."""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

from LeFusion.dataset.cases import Case, Layout, find_cases
from LeFusion.errors import MissingFileError, UserError

NNUNET_FOLDERS = {
    "image_folder": "imagesTr",
    "mask_folder": "labelsTr",
    "mask_names": (("_0000", ""),),
    "output_mask_infix": "",
}


@dataclass(frozen=True)
class DataType:
    """window: (lowest, highest) intensity that counts, in `unit`; None: each volume's own range (MR)."""

    name: str
    layout: Layout
    window: tuple[float, float] | None
    unit: str

    @property
    def known_labels(self) -> tuple[int, ...]:
        return (0, *self.layout.lesion_labels, *self.layout.other_labels)


LIDC = DataType("lidc", Layout(), (-1000.0, 400.0), "HU")
EMIDEC = DataType(
    "emidec",
    Layout("images", "labels", (), "", (3, 4), (1, 2), 1, 2, 2, depth_axis=2),
    None,
    "share of the range",
)
DATA_TYPES = {"lidc": LIDC, "emidec": EMIDEC}


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that data_type_of reads."""
    parser.add_argument(
        "--data_type",
        choices=("auto", *DATA_TYPES),
        default="auto",
        help="labels, axes and intensity window. auto: lidc for a folder Image (or a dataset.json with CT), "
        "emidec for a folder images (default: %(default)s)",
    )
    parser.add_argument("--lesion_labels", type=int, nargs="+", help="labels that count as lesion")
    parser.add_argument("--other_labels", type=int, nargs="*", help="what else masks may hold")
    parser.add_argument(
        "--window",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="intensities that count; default: of the data type, for MR each volume's own range",
    )
    parser.add_argument("--depth_axis", type=int, choices=(0, 1, 2), help="the axis through the slices")


def data_type_of(arguments: argparse.Namespace, root_dir: str | Path) -> DataType:
    """The data type that the flags of add_data_flags and the folders of a data set name.

    Raises FileNotFoundError when the folder is missing, ValueError when its layout is unknown.
    """
    root = Path(root_dir)
    if not root.is_dir():
        raise MissingFileError(f"{root}: no such folder; check the path")
    nnunet = (root / "imagesTr").is_dir()
    name = arguments.data_type
    if name == "auto":
        name = _guess(root, nnunet)
    data_type = DATA_TYPES[name]
    layout = data_type.layout
    if nnunet:
        layout = replace(layout, **NNUNET_FOLDERS)
    if arguments.lesion_labels:
        chosen = tuple(arguments.lesion_labels)
        rest = [v for v in (*layout.lesion_labels, *layout.other_labels) if v not in chosen]
        layout = replace(layout, lesion_labels=chosen, other_labels=tuple(rest))
    if arguments.other_labels is not None:
        layout = replace(layout, other_labels=tuple(arguments.other_labels))
    if arguments.depth_axis is not None:
        layout = replace(layout, depth_axis=arguments.depth_axis)
    window, unit = data_type.window, data_type.unit
    if arguments.window:
        window, unit = tuple(arguments.window), data_type.unit if data_type.window else "the image's unit"
        if not window[0] < window[1]:
            raise UserError(f"--window {window[0]} {window[1]}: the first must be below the second")
    return DataType(name, layout, window, unit)


def _guess(root: Path, nnunet: bool) -> str:
    if nnunet:
        described = root / "dataset.json"
        try:
            channels = (
                json.loads(described.read_text()).get("channel_names", {}) if described.is_file() else {}
            )
        except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
            raise UserError(f"{described}: is not a dataset.json of nnU-Net ({error})") from error
        return "lidc" if "CT" in channels.values() or not channels else "emidec"
    for name, data_type in DATA_TYPES.items():
        if (root / data_type.layout.image_folder).is_dir() or root.name == data_type.layout.image_folder:
            return name
    raise UserError(
        f"{root}: has none of the folders Image, images and imagesTr; give the folder that holds the images "
        "and the masks"
    )


def training_cases(
    root_dir: str | Path, layout: Layout, test_txt_path: str | Path | None
) -> tuple[list[Case], list[Case]]:
    """(training, test) cases of a data set, sorted by name.

    The test cases are those listed in test_txt_path or, without it, in `test.txt` beside the images' folder;
    in nnU-Net's layout those of imagesTs. Without any of these all cases are for training. Raises as
    LeFusion.dataset.cases.find_cases does, and ValueError when no case is left for training.
    """
    root = Path(root_dir)
    if layout.image_folder == "imagesTr":
        train = find_cases(root, layout)
        held_out = replace(layout, image_folder="imagesTs", mask_folder="labelsTs")
        test = find_cases(root, held_out) if any((root / "imagesTs").glob("*.nii*")) else []
        return train, test
    if test_txt_path is None:
        folder = root.parent if root.name == layout.image_folder else root
        beside = folder / "test.txt"
        test_txt_path = beside if beside.is_file() else None
    if test_txt_path is None:
        return find_cases(root, layout), []
    train = find_cases(root, layout, test_txt_path, "train")
    in_training = {case.name for case in train}
    return train, [case for case in find_cases(root, layout) if case.name not in in_training]
