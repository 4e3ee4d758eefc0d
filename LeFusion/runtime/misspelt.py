"""What Hydra cannot compose, in one line: which key or name is misspelt, and which may be meant."""

import difflib
import re
from collections.abc import Iterator

import yaml
from hydra.errors import HydraException, MissingConfigException

from LeFusion.runtime.commandline import CONFIGS


def in_one_line(error: HydraException) -> str:
    """Of an error while a configuration is composed."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        return f"there is no {group}={name}; choose one of {', '.join(sorted(error.options))}"
    if found := re.match(r"Could not override '([^']+)'", text):
        key = found[1]
        given = re.search(r"use \+(.*)", text)
        # A key of another command is no help
        near = difflib.get_close_matches(key, sorted(set(_keys()) - {key}), n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        return f"{given[1] if given else key}: there is no key {key}; {meant}--help lists all keys"
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _keys() -> Iterator[str]:
    """All keys of all configurations, the inner ones with those that they are in."""

    def inner(value: object, before: str) -> Iterator[str]:
        if isinstance(value, dict):
            for key, held in value.items():
                yield f"{before}{key}"
                yield from inner(held, f"{before}{key}.")

    for path in CONFIGS.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        group = path.parent.relative_to(CONFIGS).as_posix()
        here = "" if group == "." or "@package _global_" in text else group.replace("/", ".") + "."
        yield from inner(yaml.safe_load(text), here)
