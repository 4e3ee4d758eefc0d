"""What a command tells the user in one line. All other errors are bugs of ours and show a traceback."""


class UserError(ValueError):
    """A mistake that the user can mend: the message is one line that names the file or key, and the fix."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named, or that has to be there, is not."""


class StorageError(UserError, OSError):
    """A file cannot be written: the disk is full, or the folder may not be written to."""


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name}={value!r} must be one of {', '.join(choices)}")
