"""What --help of a command with key=value says: its settings with the comments of the YAML files."""

import re

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from LeFusion.runtime.commandline import CONFIGS

GLOBAL = "# @package _global_\n"  # first line of a file whose keys stand beside those of the command
TAKEN = re.compile(r"^(\w+): (\$\{\S+)", re.M)  # a value that is taken from elsewhere
END = """
data_type also sets window, layout, textures and others; configs/data_type/custom.yaml explains them.
--config-dir FOLDER adds files of your own: FOLDER/data_type/mine.yaml, then data_type=mine.
--cfg job prints all settings with their values and starts nothing."""


def settings_help(_root_: DictConfig) -> str:
    """For the template of Hydra's help: the command's settings, its groups, and what the groups set. $ is
    doubled there."""
    primary = CONFIGS / f"{_root_.hydra.job.config_name}.yaml"
    defaults = OmegaConf.load(primary).defaults
    named = (str(name) for entry in defaults if not isinstance(entry, str) for name in entry)
    chosen = {name: _root_.hydra.runtime.choices[name] for name in named if " " not in name}
    text = primary.read_text(encoding="utf-8").partition("\n\n")[2].partition("\nhydra:")[0].strip()
    lines = [
        "Settings are given as key=value; a misspelt key is refused. Defaults, where ??? must be given:",
        f"\n{_with_values(text, _root_)}\n",
        "These choose several settings at once:\n",
    ]
    sets = []
    for group, choice in chosen.items():
        files = {path.stem: path for path in sorted((CONFIGS / group).glob("*.yaml"))}
        others = ", ".join(name for name in files if name != choice)
        lines.append(f"{group}: {choice or 'null'}" + (f"  # or {others}" if others else ""))
        if group != "data_type" and choice in files:
            text = files[choice].read_text(encoding="utf-8")
            where = "" if text.startswith(GLOBAL) else f", as {group}.KEY"
            sets.append(f"\n{group}={choice} sets{where}:\n\n{text.removeprefix(GLOBAL).strip()}")
    return "\n".join([*lines, *sets, END]).replace("$", "$$")


def _with_values(text: str, root: DictConfig) -> str:
    """With what ${...} stands for."""

    def value(found: re.Match) -> str:
        try:
            return f"{found[1]}: {OmegaConf.select(root, found[1])}"
        except OmegaConfBaseException:
            return found[0]

    return TAKEN.sub(value, text)


OmegaConf.register_new_resolver("settings_help", settings_help, replace=True)
