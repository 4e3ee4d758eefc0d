"""What every command shares: errors in one line, paths, the git commit."""

import atexit
import math
import os
import subprocess
import sys
import warnings
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from LeFusion.errors import MissingFileError, UserError

if TYPE_CHECKING:
    import torch

PROJECT_ROOT = Path(__file__).resolve().parents[2]
ISSUES = "https://github.com/M3DV/LeFusion/issues"

# Folder of the project -> its name for data/download.py, and what it holds
RELEASED = {
    f"data/{folder}/{part}": (folder.lower(), "the released data set")
    for folder in ("LIDC", "EMIDEC")
    for part in ("Pathological", "Normal")
}
RELEASED |= {
    f"{package}/{package}_Model": ("weights", "the released weights") for package in ("LeFusion", "DiffMask")
}
OTHER_NAMES = {"LIDC": "LIDC-IDRI", "LIDC-IDRI": "LIDC"}  # the released data set goes by both
CONFIGS = (
    PROJECT_ROOT / "LeFusion" / "configs"
)  # a link to configs/ in a clone, a copy in an installed package
DEMO_DATA = PROJECT_ROOT / "LeFusion" / "demo_data"  # likewise, of data/demo
CLONE = (PROJECT_ROOT / "pyproject.toml").is_file()


def project_path(path: str) -> str:
    """Where a path of the defaults in configs/ lies: in the clone. Without one, configs, bundled weights and
    demo data are in the installed package, everything else is below the folder that the command starts in."""
    if path.startswith("configs/"):
        return str(CONFIGS.parent / path)
    if path.startswith("data/demo/") and not CLONE:
        return str(DEMO_DATA / path.removeprefix("data/demo/"))
    return str(PROJECT_ROOT / path if CLONE or (PROJECT_ROOT / path).is_file() else Path(path).absolute())


OmegaConf.register_new_resolver("project", project_path, replace=True)
if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)  # or 5,000 digits stop Hydra with a traceback; settings refuse them


def _say_what_ends(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For sys.excepthook: Ctrl-C, and a reader such as `head` that has read enough, need no traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("\nstopped; no file is half-written", file=sys.stderr)
    elif issubclass(kind, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again as it ends
        print("stopped: the program that read the output has ended", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _say_what_ends


def first_existing(*paths: str) -> str:
    """The first of these files of the project that exists; the first of all where none does."""
    places = [Path(project_path(path)) for path in paths]
    return str(next((place for place in places if place.exists()), places[0]))


OmegaConf.register_new_resolver("first_existing", first_existing, replace=True)


def needed(what: str) -> str:
    """For a key that an experiment asks to be given; a ??? there would leave the value of the primary
    configuration. what: is to be given."""
    raise UserError(f"give {what}")


OmegaConf.register_new_resolver("needed", needed, replace=True)


def run_command(command: Callable[[], None]) -> None:
    """Runs a command; the user's mistakes (UserError) and what the system refuses (OSError, such as a full
    disk) become one line on stderr and exit code 1. Everything else is a bug and shows its traceback, as does
    every error with LEFUSION_TRACEBACK=1 in the environment.

    In a sweep (--multirun) the jobs after it still run; the exit code is 1 in the end.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)
    atexit.register(_leave_processes)
    try:
        command()
    except (UserError, OSError) as error:
        if os.environ.get("LEFUSION_TRACEBACK"):
            raise
        rank = os.environ.get("RANK", "0")
        where = "" if rank == "0" else f" (process {rank})"
        line = f"error{where}: {' '.join(str(error).split())}"
        print(f"{line}\n", end="", file=sys.stderr, flush=True)  # whole, though others print at the time
        if _sweeping() and "WORLD_SIZE" not in os.environ:  # others of a launch would wait for it
            # Hydra keeps this until all jobs are through, then prints the job's overrides and the line
            raise CompactHydraException(line) from None
        atexit.unregister(_leave_processes)  # NCCL waits for the others there, which wait for this one
        sys.exit(1)
    except Exception:
        print(f"this is a bug of LeFusion; please report it with the lines below: {ISSUES}", file=sys.stderr)
        os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra cuts the traceback short
        raise
    if not _sweeping():
        _end_with_the_others()


def _sweeping() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def command_parser(description: str) -> ArgumentParser:
    """A parser of flags whose help shows the description, such as a module's docstring, line for line.

    Numbers are finite, whole ones of at most 64 bits; argparse alone takes `nan` and `inf` for numbers.
    """
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.register("type", float, _finite)
    parser.register("type", int, _whole)
    return parser


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ArgumentTypeError(f"{word} must be a finite number")
    return value


def _whole(word: str) -> int:
    value = int(word)
    if abs(value) >= 2**63:
        raise ArgumentTypeError(f"{word[:20]}... must be a whole number of at most 64 bits")
    return value


def run_with_flags(
    parser: ArgumentParser, run: Callable[[Namespace], object], argv: Sequence[str] | None = None
) -> None:
    """run_command for a command with flags, those of the command line if `argv` is None."""
    arguments = parser.parse_args(argv)
    run_command(lambda: run(arguments))


def check_same_settings(folder: Path, key: str, before: dict, now: dict) -> None:
    """A UserError where the run that is to go on in `folder`, given as `key`, had other settings."""
    other = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if other:
        listed = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in other[:3])
        raise UserError(
            f"{folder}: holds a run with other settings ({listed}); choose another {key}, or delete that one "
            "to start again"
        )


def _leave_processes() -> None:
    """Ends the connections to the other processes of a launch, if there are any."""
    if _connected():
        sys.modules["torch.distributed"].destroy_process_group()


def _connected() -> bool:
    distributed = sys.modules.get("torch.distributed")  # not imported: no other processes
    return bool(distributed and distributed.is_available() and distributed.is_initialized())


def _end_with_the_others() -> None:
    """Ends this process of a launch once all are through.

    Threads of a connection may abort an interpreter that shuts down. After a good run that is exit code 134,
    and the launcher then stops the process that still writes tables and pictures. So nobody leaves before all
    have written, and the interpreter is left without shutting it down.
    """
    if not _connected():
        return
    from accelerate import PartialState

    PartialState().wait_for_everyone()
    _leave_processes()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def say(text: str) -> None:
    """Prints, once where several processes run."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


_say_once = lru_cache(maxsize=None)(say)


def given_path(value: str | os.PathLike | None) -> Path | None:
    """A path that is read, absolute; None stays None.

    Where nothing is there, but below LIDC-IDRI instead of LIDC (or the other way round), that is taken and
    said. Raises FileNotFoundError, with the command that fetches it, where a released data set or released
    weights are not in their place.
    """
    if not value:
        return None
    path = absolute_path(value)
    if path.exists():
        return path
    for number, part in enumerate(path.parts):
        other = Path(*path.parts[:number], OTHER_NAMES.get(part, part), *path.parts[number + 1 :])
        if other.exists():
            _say_once(f"{path} is not there; reading {other}")
            return other
    for folder, (name, what) in RELEASED.items():
        place = PROJECT_ROOT / folder
        if path.is_relative_to(place) and (name == "weights" or not place.exists()):
            raise MissingFileError(
                f"{path} is not there; python data/download.py {name} fetches {what}, or give another path"
            )
    return path


def given_test_list(value: str | os.PathLike | None) -> Path | None:
    """`given_path` of test_txt_dir, whose default is that of the released data set: where that is not there,
    the message says what to do for another data set."""
    try:
        return given_path(value)
    except MissingFileError as error:
        raise MissingFileError(
            f"test_txt_dir: {error}; for a data set of your own give its list of test images, or "
            "test_txt_dir=null (to train on all: split=all, too)"
        ) from None


def absolute_path(value: str | os.PathLike) -> Path:
    """A path from where the command starts, without `..` in it."""
    path = Path(value).expanduser().absolute()
    if ".." not in path.parts:
        return path
    shortened = Path(os.path.abspath(path))  # which is elsewhere where a link stands before the `..`
    there = Path(os.path.realpath(path))
    return shortened if os.path.realpath(shortened) == str(there) else there


def output_folder(path: str | os.PathLike, key: str) -> Path:
    """The folder that the path under a key of the settings names, after a check that files can be written
    below it."""
    folder = absolute_path(path)
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        reason = f"no permission for {existing}" if existing.is_dir() else f"{existing} is not a folder"
        raise UserError(f"{key}={folder} cannot be written to: {reason}")
    return folder


def say_weights(path: Path, kind: str) -> None:
    """Says which weights a command uses. kind: the checkpoint's format, released or lefusion."""
    shipped = path.is_relative_to(PROJECT_ROOT) and path.name.endswith(
        ("_small.safetensors", "_edit.safetensors")
    )
    say(f"weights: {path} ({kind if kind == 'released' else 'bundled' if shipped else 'given'})")


def choose_device(name: str) -> "torch.device":
    """The device of a name, or the best there is for "auto". ValueError when it cannot be used."""
    import torch  # here: it takes seconds, and commands check their paths first

    rank = int(os.environ.get("LOCAL_RANK", "0"))  # a GPU for each process
    if name == "auto":
        return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device("cuda", rank) if name == "cuda" else torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"device={name!r} cannot be used ({reason}); try auto, cpu or cuda:0") from None
    return device


def stays_on_cpu(device: str) -> bool:
    """Whether Accelerate has to be told to stay on the CPU: it is asked for, or there are several processes
    and no GPU, which Accelerate would otherwise leave unconnected, each doing everything."""
    import torch

    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return device == "cpu" or (several and not torch.cuda.is_available())


def plain(config: DictConfig) -> dict:
    """A DictConfig as plain Python; a missing value (??? or `needed`) is a ValueError that names it."""
    try:
        missing = OmegaConf.missing_keys(config)
        if missing:
            raise UserError(f"give a value for {', '.join(sorted(missing))}")
        return OmegaConf.to_container(config, resolve=True)
    except InterpolationResolutionError as error:
        reason: BaseException | None = error
        while reason and not isinstance(reason, UserError):  # OmegaConf wraps it, more than once
            reason = reason.__context__
        if reason is None:
            raise
        raise UserError(f"{error.full_key}: {reason}") from None


def git_commit() -> str | None:
    """The commit that the project is at, None outside a checkout."""
    if not (PROJECT_ROOT / ".git").exists():
        return None  # an installed package; git would look in the folders above it
    command = ["git", "-C", str(PROJECT_ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
