"""What a kind of data is: names, labels, axes and intensities, from configs/data_type/<name>.yaml or a YAML
of one's own. Hydra's commands compose the same files."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from LeFusion.dataset.cases import Layout
from LeFusion.dataset.intensity import Window
from LeFusion.errors import MissingFileError, UserError, check_choice
from LeFusion.runtime.commandline import CONFIGS, plain
from LeFusion.settings import Description

FOLDER = CONFIGS / "data_type"
SAMPLER_FOLDER = CONFIGS / "sampler"
KEYS = ("layout", "window", "unit", "modality", "label_names")


@dataclass(frozen=True)
class DataType:
    """What is known of a kind of images.

    Attributes:
        name: such as lidc.
        layout: which axis is the depth, or the orientation; folders; labels.
        window: (lowest, highest) intensity that counts, in `unit`; "minmax"; or percentiles.
        unit: of intensities, such as HU.
        modality: CT or MR.
        label_names: name -> value of every label but the background.
        painted_labels: the lesions that a method paints, whatever of them a command looks at
            (layout.lesion_labels).
    """

    name: str
    layout: Layout
    window: Window
    unit: str
    modality: str
    label_names: Mapping[str, int]
    painted_labels: tuple[int, ...]

    @property
    def fixed_window(self) -> tuple[float, float] | None:
        """(lowest, highest) intensity that counts; None where each volume has a range of its own."""
        return None if isinstance(self.window, str | Mapping) else self.window


def load_data_type(name_or_path: str | os.PathLike) -> DataType:
    """Reads a data type. Without `modality` images in HU are CT, others MR; without `label_names` labels are
    called lesion and label <value>.

    Args:
        name_or_path: of configs/data_type, or a YAML file with the same keys.

    Raises:
        MissingFileError: for an unknown name.
        UserError: for a file that is no data type.
    """
    path = _path(name_or_path)
    try:
        content = OmegaConf.to_container(OmegaConf.masked_copy(_composed(path), list(KEYS)), resolve=True)
    except (YAMLError, OmegaConfBaseException, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: is no data type ({reason}); see configs/data_type/custom.yaml") from None
    try:
        given = Description.of(content)
    except UserError as error:
        raise UserError(f"{path}: {error}; see configs/data_type/custom.yaml") from None
    layout, unit = given.layout, given.unit
    window = tuple(map(float, given.window)) if isinstance(given.window, list) else given.window
    modality = given.modality or ("CT" if unit == "HU" else "MR")
    names = given.label_names or _names(layout)
    if sorted([0, *names.values()]) != sorted(layout.known_labels):
        raise UserError(
            f"{path}: label_names {names} must name lesion_labels {layout.lesion_labels} and other_labels "
            f"{layout.other_labels}"
        )
    unit = unit or "share of the range"
    return DataType(path.stem, layout, window, unit, modality, names, layout.lesion_labels)


def data_type_names() -> list[str]:
    """Of configs/data_type."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def default_settings(
    data_type: str | os.PathLike, sampler: str | None = None, command: str = "inference", **changes: Any
) -> dict[str, Any]:
    """What configs/<command>.yaml (inference or insert) says for a data type (a name, or a YAML file) with
    these keys changed, as plain values: the settings that the command would get, without Hydra and its global
    state.

    sampler: of configs/sampler; None: the default one. Raises UserError for an unknown name.
    """
    base = OmegaConf.load(CONFIGS / f"{command}.yaml")
    chosen = sampler or next(entry.sampler for entry in base.defaults if "sampler" in entry)
    check_choice("sampler", chosen, tuple(sorted(path.stem for path in SAMPLER_FOLDER.glob("*.yaml"))))
    base = OmegaConf.masked_copy(base, [key for key in base if key not in ("defaults", "hydra")])
    walk = OmegaConf.load(SAMPLER_FOLDER / f"{chosen}.yaml")
    return plain(OmegaConf.merge(_composed(_path(data_type)), walk, base, changes))


def _path(name_or_path: str | os.PathLike) -> Path:
    path = Path(name_or_path)
    return path if path.suffix in (".yaml", ".yml") else FOLDER / f"{name_or_path}.yaml"


def _composed(path: Path) -> DictConfig:
    """A YAML on top of those that its `defaults` name, as Hydra composes them."""
    if not path.is_file():
        known = ", ".join(data_type_names())
        raise MissingFileError(f"{path}: no such data type; give one of {known}, or the path of a YAML file")
    content = OmegaConf.load(path)
    if isinstance(content, ListConfig):
        raise TypeError("it holds a list")
    parents = [name for name in content.pop("defaults", []) if name != "_self_"]
    beside = [path.with_name(f"{name}.yaml") for name in parents]
    found = [near if near.is_file() else FOLDER / near.name for near in beside]
    composed = OmegaConf.merge(*map(_composed, found), content)
    if "label_names" in content:  # as a whole: names of other labels would be left over
        composed.label_names = content.label_names
    return composed


def _names(layout: Layout) -> dict[str, int]:
    lesions = layout.lesion_labels
    names = {"lesion" if len(lesions) == 1 else f"lesion {value}": value for value in lesions}
    return names | {f"label {value}": value for value in layout.other_labels}
