"""The arguments key=value of a command line, before Hydra reads them: a path may hold any character."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

import LeFusion.runtime.help  # noqa: F401 (what --help says)
from LeFusion.errors import UserError
from LeFusion.runtime.misspelt import in_one_line

SWEEPS = ("-m", "--multirun")  # only then a comma separates values
# Flags of Hydra that the next argument belongs to
WITH_VALUE = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--cfg", "-c")
WITH_VALUE += ("--package", "-p", "--info", "-i", "--experimental-rerun")


def any_path(main: Callable) -> Callable:
    """A Hydra command that also takes values which Hydra's grammar has no room for, see `quoted`, and says in
    one line which key is misspelt (with HYDRA_FULL_ERROR=1 by Hydra's traceback)."""

    @wraps(main)
    def run(*config):
        if not config:
            try:
                sys.argv[1:] = quoted(sys.argv[1:])
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
                sys.exit(1)
        if config or os.environ.get("HYDRA_FULL_ERROR") == "1":
            return main(*config)
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would print
        try:
            return main()
        except HydraException as error:
            print(f"error: {in_one_line(error)}", file=sys.stderr)
            sys.exit(1)
        finally:
            del os.environ["HYDRA_FULL_ERROR"]

    return run


def positional(*keys: str) -> Callable:
    """A decorator of a command: its first arguments that are no key=value of their own are values of these
    keys, in order."""

    def decorate(main: Callable) -> Callable:
        @wraps(main)
        def run(*config):
            if not config:
                sys.argv[1:] = with_keys(sys.argv[1:], keys)
            return main(*config)

        return run

    return decorate


def with_keys(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Puts key= before the first arguments, one for each of the keys, up to a flag or one that has a key.

    A path may hold a =: what stands before it is no key if it is no name.
    """
    found = list(arguments)
    for index, key in enumerate(keys[: len(found)]):
        if found[index].startswith("-") or re.match(r"[+~]*[A-Za-z_][\w.@/]*=", found[index]):
            break
        found[index] = f"{key}={found[index]}"
    return found


def quoted(arguments: Sequence[str]) -> list[str]:
    """The arguments with quotes around values that Hydra cannot read without: those with =, (, [, #, ', ...
    and, where it is no sweep, with commas.

    Raises UserError for what is no key=value.
    """
    sweep = any(argument in SWEEPS for argument in arguments)
    before = ("", *arguments)
    return [
        argument if argument.startswith("-") or flag in WITH_VALUE else _quoted(argument, sweep)
        for flag, argument in zip(before, arguments, strict=False)
    ]


def _quoted(argument: str, sweep: bool) -> str:
    if _is_read(argument, sweep):
        return argument
    key, _, value = argument.partition("=")
    # In quotes a backslash counts only before a quote
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    inside = f"{key}='{escaped}'"
    if "=" not in argument or not _is_read(inside, sweep):
        raise UserError(
            f"cannot read the argument {argument}; write key=value, and a value with special characters in "
            "two kinds of quotes: \"key='value'\""
        )
    return inside


def _is_read(argument: str, sweep: bool) -> bool:
    """Whether Hydra can read it, and as one value unless this is a sweep."""
    try:
        override = OverridesParser.create().parse_override(argument)
        return sweep or not override.is_sweep_override()
    except HydraException:
        return False
