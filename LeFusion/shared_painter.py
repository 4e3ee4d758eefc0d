"""A painter in a process of its own, which the workers of a loader share; it keeps what was painted."""

import multiprocessing
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields
from multiprocessing.connection import wait
from typing import Any

import torch
from torch import Tensor

from LeFusion.diffusion import address_seed
from LeFusion.errors import UserError, check_whole
from LeFusion.painter import Painter
from LeFusion.painter_process import Address, ask, serve
from LeFusion.prepared import Prepared
from LeFusion.runtime.memory import LARGEST_BATCH, BatchSize

ENDS_WITHIN_S = 30  # else the process is killed


@dataclass(frozen=True, eq=False)
class SharedPainter(Painter):
    """A Painter whose network is in another process; `SharedPainter.load` makes one.

    Loaders' workers, forked or started anew, and threads may share it: they prepare what is around a lesion,
    the process paints what waits, boxes of one size together. On a CPU the voxels are those of Painter.load.

    RandPaintLesiond and RandInsertLesiond draw by address with it: what an image gets depends on the seed,
    the image and the epoch, not on workers, order or ranks. So tell it the epoch: `set_epoch`.

    Use it as a context, or `close` it; the process ends with the one that made it, too. Scripts need
    `if __name__ == "__main__":`, as the process is started anew.
    """

    address: Address | None = None
    on: str = "cpu"
    every: int = 1
    seed: int = 0

    @classmethod
    def load(
        cls,
        weights: str | os.PathLike = "lidc",
        *,
        device: str = "auto",
        every: int = 1,
        seed: int = 0,
        threads: int = 1,
        keep_mb: int = 512,
        **settings: Any,
    ) -> "SharedPainter":
        """Starts the process.

        Args:
            weights, device, settings: see Painter.load; the device is the process's.
            every: epochs after which RandPaintLesiond paints an image anew; until then it takes what was
                painted before. A share of 1 / every of the images is painted in an epoch.
            seed: of everything that is drawn.
            threads: of the process, on a CPU.
            keep_mb: memory for what was painted; what was not used for longest is painted again.

        Raises:
            UserError: as Painter.load does.
        """
        numbers = {"every": (every, 1), "seed": (seed, 0), "threads": (threads, 1), "keep_mb": (keep_mb, 0)}
        checked = {name: check_whole(name, value, least) for name, (value, least) in numbers.items()}
        here = Painter.load(weights, device="cpu", **settings | {"compile": False, "precision": "no"})
        context = multiprocessing.get_context("spawn")
        ready, tells = context.Pipe(duplex=False)
        key = os.urandom(32)
        process = context.Process(
            target=serve,
            args=(tells, key, os.fspath(weights), settings | {"device": device}),
            kwargs={"threads": checked["threads"], "keep_bytes": checked["keep_mb"] * 2**20},
            name="lefusion-painter",
            daemon=True,
        )
        process.start()
        tells.close()  # so that the end of the process is the end of the pipe
        # The end of the pipe alone would not do: a process that was forked meanwhile may hold it open
        wait([ready, process.sentinel])
        try:
            started = ready.recv() if ready.poll() else None
        except EOFError:
            started = None
        if started is None:
            process.join()
            raise UserError("the painter's process ended before it was ready; see its messages above")
        if "error" in started:
            process.join()
            raise UserError(started["error"])
        painter = cls(
            **{field.name: getattr(here, field.name) for field in fields(Painter)},
            address=Address(started["place"], key),
            on=started["device"],
            every=checked["every"],
            seed=checked["seed"],
        )
        painter.__dict__["_end"] = weakref.finalize(painter, _end, process, os.getpid())
        return painter

    def __getstate__(self) -> dict[str, Any]:
        """For other processes, which do not end the painter's."""
        return {key: value for key, value in self.__dict__.items() if key != "_end"}

    def __enter__(self) -> "SharedPainter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        if "_end" in self.__dict__:
            self.__dict__["_end"]()

    @property
    def device(self) -> torch.device:
        return torch.device(self.on)

    def batch_size(self, boxes: Any, task: Any) -> BatchSize:
        """All that is asked for goes to the process, which sees how many its memory holds."""
        return BatchSize(LARGEST_BATCH, "give fewer images at once")

    def run(self, prepared: Sequence[Prepared]) -> Tensor:
        """Paints in the process -> (B, 1, D, H, W). Raises UserError when it has ended."""
        return self._ask("paint", boxes=[box.as_dict() for box in prepared])["painted"]

    def set_epoch(self, epoch: int) -> None:
        """Before each epoch of a training: its number."""
        self._ask("set_epoch", epoch=check_whole("epoch", epoch))

    def seed_of(self, content: str) -> int:
        """What is drawn for an image now, by what it holds; another after `every` epochs."""
        epoch = self._ask("epoch")["epoch"]
        if epoch is None:
            raise UserError("the painter does not know the epoch; call set_epoch(epoch) before each")
        turn = (epoch + address_seed(content) % self.every) // self.every  # not all images in one epoch
        return address_seed(self.seed, "shared painter", content, turn)

    def kept(self, key: str) -> dict[str, Any] | None:
        """What was kept under a key, if it is there still."""
        return self._ask("kept", key=key)["kept"]

    def keep(self, key: str, value: dict[str, Any]) -> None:
        """Keeps tensors, numbers and lists of them for all who share this painter."""
        self._ask("keep", key=key, value=value)

    def _ask(self, what: str, **request: Any) -> dict[str, Any]:
        assert self.address is not None
        return ask(self.address, what, request)


def _end(process: Any, owner: int) -> None:
    if os.getpid() != owner:  # a forked worker, which gives up its copy of the painter
        return
    process.terminate()
    process.join(ENDS_WITHIN_S)
    if process.is_alive():
        process.kill()
        process.join()
