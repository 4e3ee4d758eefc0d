"""Which data type a folder holds: what the commands about fidelity and baselines share."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from LeFusion.data_types import DataType, load_data_type
from LeFusion.dataset.cases import Case, Layout, find_cases
from LeFusion.errors import MissingFileError, UserError

NNUNET_FOLDERS = {
    "image_folder": "imagesTr",
    "mask_folder": "labelsTr",
    "mask_names": (("_0000", ""),),
    "output_mask_infix": "",
}


GUESSED = ("lidc", "emidec")  # by the name of their folder of images


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that data_type_of reads."""
    parser.add_argument(
        "--data_type",
        default="auto",
        help="labels, axes and intensity window: a name in configs/data_type, or a YAML file like those. "
        "auto: lidc for a folder Image (or a dataset.json with CT), emidec for a folder images (default: "
        "%(default)s)",
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
    data_type = load_data_type(name)
    layout = data_type.layout
    if nnunet and layout.image_folder != NNUNET_FOLDERS["image_folder"]:
        layout = replace(layout, **NNUNET_FOLDERS)
    if arguments.lesion_labels:
        chosen = tuple(arguments.lesion_labels)
        rest = [v for v in layout.known_labels[1:] if v not in chosen]
        layout = replace(layout, lesion_labels=chosen, other_labels=tuple(rest))
    if arguments.other_labels is not None:
        layout = replace(layout, other_labels=tuple(arguments.other_labels))
    if arguments.depth_axis is not None:
        layout = replace(layout, depth_axis=arguments.depth_axis, orientation=None)
    data_type = replace(data_type, layout=layout)
    if not arguments.window:
        return data_type
    low, high = arguments.window
    if not low < high:
        raise UserError(f"--window {low} {high}: the first must be below the second")
    unit = data_type.unit if data_type.fixed_window else "the image's unit"
    return replace(data_type, window=(low, high), unit=unit)


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
    for name in GUESSED:
        folder = load_data_type(name).layout.image_folder
        if (root / folder).is_dir() or root.name == folder:
            return name
    raise UserError(
        f"{root}: has none of the folders Image, images and imagesTr; give the folder that holds the images "
        "and the masks, or --data_type"
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
        test = find_cases(root, held_out) if any((root / "imagesTs").glob("[!.]*.nii*")) else []
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
