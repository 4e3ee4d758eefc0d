"""The batches of a run, each addressed by its number in it: where a run begins changes none of them."""

import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from LeFusion.dataset.dataset import collate
from LeFusion.diffusion import drawn
from LeFusion.training.settings import TrainingSettings


class DrawSampler:
    """Batches of (index, draw) for one process: draw n of the run goes through all items once an epoch, in an
    order addressed by (seed, epoch). Yields the batches from optimiser step `first_step` on, without end."""

    def __init__(self, items: int, settings: TrainingSettings, first_step: int, process: int, processes: int):
        self.items, self.seed, self.batch_size = items, settings.seed, settings.batch_size
        self.batch_number = first_step * settings.gradient_accumulate_every
        self.process, self.processes = process, processes
        self.epoch, self.order = -1, None

    def __iter__(self):
        number = self.batch_number
        while True:
            first = (number * self.processes + self.process) * self.batch_size
            yield [(self.item(draw), draw) for draw in range(first, first + self.batch_size)]
            number += 1

    def item(self, draw: int) -> int:
        epoch, position = divmod(draw, self.items)
        if epoch != self.epoch:  # drawn once an epoch: with 100,000 items it takes milliseconds
            self.order = np.random.default_rng((self.seed, epoch)).permutation(self.items)
            self.epoch = epoch
        return int(self.order[position])


class _WithDraw(torch.utils.data.Dataset):
    """The dataset's items with the number of their draw, which addresses the noise of the loss."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, address: tuple[int, int]) -> dict:
        return self.dataset[address] | {"draw": address[1]}


class _Collate:
    """Items -> batch, with the noise of the loss."""

    def __init__(self, draw: Callable[[dict], dict] | None):
        self.draw = draw

    def __call__(self, items: list[dict]) -> dict:
        batch = collate(items)
        return batch if self.draw is None else drawn(batch, self.draw)


def run_batches(
    dataset, settings: TrainingSettings, step: int, accelerator: Accelerator, draw
) -> Iterator[dict]:
    """The batches from `step` on, on the device, without end. Closing it ends the loader's workers."""
    sampler = DrawSampler(len(dataset), settings, step, accelerator.process_index, accelerator.num_processes)
    loader = DataLoader(
        _WithDraw(dataset),
        batch_sampler=sampler,
        num_workers=settings.num_workers,
        collate_fn=_Collate(draw),
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=_outlive_stop_signals,
    )
    for batch in loader:
        yield _to_device(batch, accelerator.device)


class TimedIterator:
    """The items of an iterator; `seconds` is how long the caller has waited for them so far."""

    def __init__(self, items: Iterator):
        self.items, self.seconds = items, 0.0

    def __iter__(self):
        return self

    def __next__(self):
        start = time.perf_counter()
        try:
            return next(self.items)
        finally:
            self.seconds += time.perf_counter() - start


def _outlive_stop_signals(_worker: int) -> None:
    """Ctrl-C and batch systems signal the workers too, which are needed for the rest of the step.

    A second SIGTERM, which is how Python ends workers that are left over, does end them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _frame: signal.signal(number, signal.SIG_DFL))


def _to_device(batch: dict, device: torch.device) -> dict:
    """But for the levels: the schedule looks its coefficients up on the CPU."""
    return {
        k: v.to(device, non_blocking=True) if torch.is_tensor(v) and k != "level" else v
        for k, v in batch.items()
    }
