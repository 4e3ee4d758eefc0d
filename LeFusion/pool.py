"""Items that are painted ahead of their use, by processes, and a share of them again every epoch."""

import copy
import math
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from LeFusion.diffusion import address_seed
from LeFusion.errors import UserError, check_whole


class Transform(Protocol):
    """A random transform of MONAI's kind."""

    def __call__(self, data: Any) -> Any: ...
    def set_random_state(self, seed: int | None = None) -> Any: ...


_transform: Transform | None = None  # of a worker process


class PaintedPool(Dataset):
    """A data set of items that were painted ahead, so that training does not wait for painting.

    Each `next_epoch` exchanges a share of the items. While an epoch runs, processes with one thread each
    paint the next share. An item depends on the seed, its place and the number of the epoch, not on
    processes or time. Use the pool in a `with` statement, or `close` it. Processes import the script, so it
    needs `if __name__ == "__main__":`.

    Args:
        items: dictionaries, such as those of a CacheDataset: all that comes before painting.
        transform: what is done ahead: RandPaintLesiond, RandInsertLesiond, or a Compose that holds one.
        copies: how many painted versions of each item the pool holds.
        refresh: the share of the pool that an epoch exchanges, from above 0 to 1.
        workers: processes that paint; 0: `next_epoch` paints in this process.
        seed: of everything that is drawn.

    Raises:
        UserError: for a transform that is not random, and numbers out of range.
    """

    def __init__(
        self,
        items: Sequence[Mapping],
        transform: Transform,
        copies: int = 1,
        refresh: float = 0.25,
        workers: int = 1,
        seed: int = 0,
    ):
        if not 0 < refresh <= 1:
            raise UserError(f"refresh={refresh!r} must be from above 0 to 1")
        if not hasattr(transform, "set_random_state"):
            raise UserError("transform: has no set_random_state; give a random transform of MONAI's kind")
        self.items, self.transform, self.seed = items, transform, check_whole("seed", seed)
        self.size = len(items) * check_whole("copies", copies, least=1)
        self.exchanged = math.ceil(refresh * self.size)
        self.workers = check_whole("workers", workers)
        self.held: list[Mapping] = []
        self.versions = [0] * self.size
        self.next_place = 0
        self._coming: list[tuple[int, Future | None]] = []
        self._processes: ProcessPoolExecutor | None = None
        if self.workers:
            self._processes = ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("spawn"), _start, (transform,)
            )
        self._order(range(self.size))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> Mapping[str, Any]:
        if not self.held:
            raise UserError("the pool is empty before its first epoch; call next_epoch()")
        return copy.deepcopy(self.held[place])

    def next_epoch(self) -> None:
        """Takes the share that was painted, waits for it where it is not ready, and orders the next one.

        Call it before each epoch, the first included.
        """
        self.held = self.held or [{}] * self.size
        for place, future in self._coming:
            self.held[place] = self._made(place) if future is None else future.result()
        places = [(self.next_place + number) % self.size for number in range(self.exchanged)]
        self.next_place = (self.next_place + self.exchanged) % self.size
        for place in places:
            self.versions[place] += 1
        self._order(places)

    def close(self) -> None:
        """Ends the processes. What is in the pool stays there."""
        if self._processes is not None:
            self._processes.shutdown(cancel_futures=True)

    def __enter__(self) -> "PaintedPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _order(self, places: Sequence[int]) -> None:
        self._coming = [(place, None) for place in places]
        if self._processes is not None:
            self._coming = [
                (place, self._processes.submit(_make, self._item(place), self._seed(place)))
                for place in places
            ]

    def _item(self, place: int) -> Mapping:
        return self.items[place % len(self.items)]

    def _seed(self, place: int) -> int:
        return address_seed(self.seed, "pool", place, self.versions[place]) % 2**32

    def _made(self, place: int) -> Mapping:
        return made(self.transform, self._item(place), self._seed(place))


def made(transform: Transform, item: Mapping, seed: int) -> Mapping:
    """The item through the transform, with everything random from this seed."""
    transform.set_random_state(seed=seed)
    return transform(copy.deepcopy(item))


def _start(transform: Transform) -> None:
    """In a worker process, once."""
    global _transform
    torch.set_num_threads(1)
    _transform = transform


def _make(item: Mapping, seed: int) -> Mapping:
    assert _transform is not None
    return made(_transform, item, seed)
