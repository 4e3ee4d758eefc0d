"""What every command shares: errors in one line, paths, the git commit."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    import torch

PROJECT_ROOT = Path(__file__).resolve().parents[1]

# Defaults in configs/ lie in the project's folder; paths that the user gives, where the command starts.
OmegaConf.register_new_resolver("project", lambda path: str(PROJECT_ROOT / path), replace=True)


def run_command(command: Callable[[], None]) -> None:
    """Runs a command; the user's mistakes and a full disk become one line on stderr and exit code 1."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        command()
    except (ValueError, OSError) as error:
        if os.environ.get("LEFUSION_TRACEBACK"):
            raise
        rank = os.environ.get("RANK", "0")
        where = "" if rank == "0" else f" (process {rank})"
        print(f"error{where}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def given_path(value: str | None) -> Path | None:
    """A path of the configuration, absolute; None stays None."""
    return Path(value).expanduser().absolute() if value else None


def required_path(config: dict, key: str) -> Path:
    """The path under a key of the configuration, absolute; empty or null is a ValueError."""
    if not config[key]:
        raise ValueError(f"give a path for {key}")
    return given_path(config[key])


def output_folder(config: dict, key: str) -> Path:
    """required_path, after a check that files can be written below it."""
    folder = required_path(config, key)
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        reason = "no permission" if existing.is_dir() else "not a folder"
        raise ValueError(f"{key}={folder} cannot be written to: {existing} is {reason}")
    return folder


def check_whole_numbers(config: dict, **least: int) -> None:
    """A ValueError that names the first of these keys whose value is no whole number of at least this."""
    for key, smallest in least.items():
        if not isinstance(config[key], int) or config[key] < smallest:
            raise ValueError(f"{key}={config[key]} must be a whole number of at least {smallest}")


def choose_device(name: str) -> "torch.device":
    """The device of a name, or the best there is for "auto". ValueError when it cannot be used."""
    import torch  # here: it takes seconds, and commands check their paths first

    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # a GPU for each process
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"device={name!r} cannot be used ({reason}); try auto, cpu or cuda:0") from None
    return device


def plain(config: DictConfig) -> dict:
    """A DictConfig as plain Python; a missing value (???) is a ValueError that names it."""
    missing = OmegaConf.missing_keys(config)
    if missing:
        raise ValueError(f"give a value for {', '.join(sorted(missing))}")
    return OmegaConf.to_container(config, resolve=True)


def git_commit() -> str | None:
    """The commit that the project is at, None outside a checkout."""
    command = ["git", "-C", str(PROJECT_ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
