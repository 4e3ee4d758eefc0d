"""nnU-Net v2's raw folders: imagesTr, labelsTr, imagesTs, labelsTs and dataset.json, read and described.

`lefusion` in dataset.json holds what nnU-Net has no word for, where it is not what is usual.

Images are <case>_0000.nii.gz, label maps <case>.nii.gz. Besides what nnU-Net's own check asks for, image and
label must agree in their whole affine, and test cases are checked as training cases are.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evaluation_pipeline.cases.evaluation import IGNORE, OWN, ignored_of, lesions_of
from evaluation_pipeline.cases.patients import CHANNEL_SUFFIX, case_name
from LeFusion.data_types import DataType
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.storage import write_json
from LeFusion.errors import MissingFileError, UserError

FILE_ENDING = ".nii.gz"
DESCRIPTION = "dataset.json"
CT_WINDOW = (-1000.0, 400.0)  # HU, where dataset.json names none
SPLITS = {"train": ("imagesTr", "labelsTr"), "test": ("imagesTs", "labelsTs")}


@dataclass(frozen=True)
class LabelledImage:
    """A real case. name: without ending and `_0000`."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class RealDataset:
    """labels: name -> value, without the background; lesions: those of them that are no anatomy. ignore: the
    value of voxels that nobody has labelled, None where there are none such; the highest of labels.
    modality: CT or MR. window: (lowest, highest) HU that count in CT. layout: of the scans that synthetic
    images were painted into, for the names of their masks."""

    folder: Path
    modality: str
    labels: dict[str, int]
    train: list[LabelledImage]
    test: list[LabelledImage]
    lesions: dict[str, int] | None = None  # None: by their names
    window: tuple[float, float] = CT_WINDOW
    layout: Layout = Layout()

    @property
    def lesion_labels(self) -> list[int]:
        return list((self.lesions or lesions_of(self.labels, {})).values())

    @property
    def ignore(self) -> int | None:
        return ignored_of(self.labels)

    @property
    def classes(self) -> dict[str, int]:
        """The labels that are learnt."""
        return {name: value for name, value in self.labels.items() if value != self.ignore}

    @property
    def label_values(self) -> list[int]:
        """All values that a label map may hold."""
        return [0, *self.labels.values()]


def check_labels(labels: Mapping[str, int]) -> None:
    """Raises ValueError unless the labels (without background) are 1, 2, ... n, which nnU-Net demands, and
    one of them is a lesion."""
    if sorted(labels.values()) != list(range(1, len(labels) + 1)):
        listed = " ".join(f"{name}={value}" for name, value in labels.items())
        raise UserError(f"--labels {listed}: the values must be 1, 2, 3, ... without a gap, as nnU-Net asks")
    if ignored_of(labels) not in (None, len(labels)):
        raise UserError(f"--labels {' '.join(labels)}: {IGNORE} must have the highest value, as nnU-Net asks")
    if not lesions_of(labels, {}):
        raise UserError(f"--labels {' '.join(labels)}: all are anatomy; name at least one lesion")


def file_names(case: str) -> tuple[str, str]:
    """The names of a case's image and label map."""
    return f"{case}{CHANNEL_SUFFIX}{FILE_ENDING}", f"{case}{FILE_ENDING}"


def own_settings(kind: DataType, named: bool = True) -> dict:
    """What dataset.json says besides nnU-Net's words. named: whether labels have the data type's names."""
    lesions = list(kind.layout.lesion_labels)
    found = {"lesion_labels": lesions} if named else {}
    if named and lesions == list(lesions_of(kind.label_names, {}).values()):
        found = {}
    if kind.modality == "CT" and kind.fixed_window not in (None, CT_WINDOW):
        found["window"] = list(kind.fixed_window)
    parts = [list(pair) for pair in kind.layout.mask_names if pair[0] != CHANNEL_SUFFIX]
    if parts and kind.layout.mask_names != Layout().mask_names:
        found |= {"mask_names": parts, "output_mask_infix": kind.layout.output_mask_infix}
    return found


def description(
    channel_name: str, labels: Mapping[str, int], num_training: int, own: Mapping | None = None
) -> dict:
    """The content of dataset.json. own: see own_settings."""
    ordered = dict(sorted(labels.items(), key=lambda item: item[1]))
    return {
        "channel_names": {"0": channel_name},
        "labels": {"background": 0, **ordered},
        "numTraining": num_training,
        "file_ending": FILE_ENDING,
        **({OWN: dict(own)} if own else {}),
    }


def write_description(folder: Path, content: Mapping) -> None:
    write_json(folder / DESCRIPTION, content)


def read_dataset(folder: Path) -> RealDataset:
    """The data set that prepare_real_dataset.py wrote, or another in nnU-Net's raw layout with one channel.

    Raises FileNotFoundError for missing folders or files, ValueError for a damaged dataset.json, several
    channels, a number of cases other than it says, and cases without image or label.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; make the data set with prepare_real_dataset.py")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        channels = content["channel_names"]
        labels = {str(name): int(value) for name, value in content["labels"].items() if name != "background"}
        num_training, ending = int(content["numTraining"]), content["file_ending"]
        own = content.get(OWN, {})
        lesions = lesions_of(labels, own)
        low, high = own.get("window", CT_WINDOW)
        names = {key: own[key] for key in ("mask_names", "output_mask_infix") if key in own}
        more = lesions, (float(low), float(high)), Layout(**names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: is no dataset.json of nnU-Net v2 ({error!r}); make it with prepare_real_dataset.py"
        ) from None
    if len(channels) != 1 or ending != FILE_ENDING:
        raise UserError(
            f"{path}: has {len(channels)} channels of {ending} files; one channel of {FILE_ENDING} is read"
        )
    try:
        check_labels(labels)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    train = _cases(folder, "train")
    if len(train) != num_training or not train:
        raise UserError(
            f"{path}: says numTraining {num_training} but imagesTr has {len(train)}; the data set is "
            "incomplete or was changed, run prepare_real_dataset.py again"
        )
    test = _cases(folder, "test") if (folder / SPLITS["test"][0]).is_dir() else []
    modality = "CT" if next(iter(channels.values())).upper() == "CT" else "MR"  # as in nnU-Net
    return RealDataset(folder, modality, labels, train, test, *more)


def _cases(folder: Path, split: str) -> list[LabelledImage]:
    image_dir, label_dir = (folder / name for name in SPLITS[split])
    for needed in (image_dir, label_dir):
        if not needed.is_dir():
            raise MissingFileError(f"{needed}: no such folder; prepare_real_dataset.py makes it")
    images = {case_name(path): path for path in _files(image_dir)}
    labels = {case_name(path): path for path in _files(label_dir)}
    for path in images.values():
        if not path.name.endswith(CHANNEL_SUFFIX + FILE_ENDING):
            raise UserError(f"{path}: must be called <case>{CHANNEL_SUFFIX}{FILE_ENDING}, as nnU-Net asks")
    for name in sorted(images.keys() ^ labels.keys()):
        lone, missing = (images[name], label_dir) if name in images else (labels[name], image_dir)
        raise MissingFileError(f"{lone}: has no counterpart in {missing}; every image needs its label map")
    return [LabelledImage(name, images[name], labels[name]) for name in sorted(images)]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"*{FILE_ENDING}") if not path.name.startswith(".")]
