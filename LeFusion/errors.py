"""What a command tells the user in one line. All other errors are bugs of ours and show a traceback."""

from operator import index
from typing import Any


class UserError(ValueError):
    """A mistake that the user can mend. Its message is one line that names the file, key or argument, and
    the fix."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named, or that has to be there, is not."""


class StorageError(UserError, OSError):
    """A file cannot be written: the disk is full, or the folder may not be written to."""


def pass_over(error: ValueError, skipped: list[str] | None) -> None:
    """Adds to `skipped` why a case cannot be used. Where that is None, as the user did not set
    skip_bad_cases=true, raises UserError, which names that key."""
    if skipped is None:
        kind = type(error) if isinstance(error, UserError) else UserError
        raise kind(f"{error} (skip_bad_cases=true goes on without such cases)") from None
    skipped.append(str(error))


def why_not_loaded(error: Exception) -> str:
    """Why torch.load cannot read a file, in a few words. For one that holds code, or is none of torch's, its
    own message is to load it all the same, which must not be done."""
    if isinstance(error, RuntimeError):
        return str(error).strip().split("\n")[0][:200]
    return "it is no file of torch, or holds more than tensors and numbers"


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name}={value!r} must be one of {', '.join(choices)}")


def check_whole(name: str, value: object, least: int = 0) -> int:
    """A whole number of Python's or NumPy's, as Python's."""
    try:
        number = index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < least or isinstance(value, bool):
        raise UserError(f"{name}={value!r} must be a whole number of at least {least}")
    return number


def plain_value(value: Any) -> Any:
    """Numbers and arrays of NumPy and PyTorch, and tuples, as Python's numbers and lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
