"""Deaths of a process at its worst moments, for a child process that is forked to die."""

import builtins
import os
from collections.abc import Callable, Iterator
from pathlib import Path

DEAD = 77  # exit code


def each_resumed(
    moments: dict[str, Callable[[], None]],
    start: Callable[[Path], object],
    root: Path,
    in_child: Callable[[Callable[[], None]], int],
) -> Iterator[tuple[str, Path]]:
    """Runs into folders of their own, each killed at one of the moments and started again: (moment, folder).

    start: runs in a folder, and raises where it fails.
    """
    for number, (moment, die) in enumerate(moments.items()):
        folder = root / str(number)

        def child(die=die, folder=folder):
            die()
            start(folder)

        assert in_child(child) == DEAD, moment
        start(folder)
        yield moment, folder


def at_rename(name: str, after: bool = False) -> None:
    """This process ends when a file or folder whose name holds `name` is to be renamed, or just was."""
    rename = os.replace

    def replace(source, target):
        if name in Path(target).name and not after:
            os._exit(DEAD)
        rename(source, target)
        if name in Path(target).name:
            os._exit(DEAD)

    os.replace = replace


def half_way_through(name: str) -> None:
    """This process ends when half of what is written to a file whose name holds `name` is there."""
    real = builtins.open

    def torn_open(file, mode="r", *arguments, **keywords):
        opened = real(file, mode, *arguments, **keywords)
        if not (isinstance(file, str | os.PathLike) and name in Path(file).name and set(mode) & set("wax")):
            return opened

        def write(content):
            with real(file, "ab" if isinstance(content, bytes) else "a") as half:
                half.write(content[: len(content) // 2])
            os._exit(DEAD)

        class Torn:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                opened.close()

            def write(self, content):
                return write(content) if len(content) > 1 else opened.write(content)

            def writelines(self, lines):
                write("".join(lines))

        return Torn()

    builtins.open = torn_open


def half_saved(name: str) -> None:
    """The same for what torch.save writes."""
    import io

    import torch

    save = torch.save

    def half(content, path):
        if name not in Path(path).name:
            return save(content, path)
        whole = io.BytesIO()
        save(content, whole)
        Path(path).write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
        os._exit(DEAD)

    torch.save = half
