"""What every command shares: errors in one line, paths, the git commit."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

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
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def given_path(value: str | None) -> Path | None:
    """A path of the configuration, absolute; None stays None."""
    return Path(value).expanduser().absolute() if value else None


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
