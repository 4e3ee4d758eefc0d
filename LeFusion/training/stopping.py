"""Stop signals, and what processes tell each other: all stop after the same step, which is saved."""

import signal
import time

import torch
from accelerate import Accelerator
from torch import Tensor

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SECONDS_APART = 1.0  # of two fetches


class Stopped(SystemExit):
    """Raised after a stop signal, when the run has been saved; exits with 128 + the signal."""


class StopSignal:
    """Remembers a stop signal while the loop runs, so that the step in progress is finished and saved."""

    received = 0

    def __enter__(self):
        self.previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number, _frame):
        self.received = number


class Fetcher:
    """Losses from the device and stop signals from all processes, about once a second: the host waits for
    the device, and processes for each other. Steps of a second or more are fetched
    one by one; one process alone sees its own signal after each step."""

    def __init__(self, accelerator: Accelerator, stop: StopSignal, step: int):
        self.accelerator, self.stop = accelerator, stop
        self.losses: list[Tensor] = []
        self.due, self.start = step + 1, time.perf_counter()

    def __call__(self, step: int, loss: Tensor, now: bool) -> tuple[list[float], int]:
        """-> the mean losses, over the processes, of the steps up to this one that were not returned before;
        and the signal received by any process, or 0. Nothing and 0 unless it is time, or `now`."""
        self.losses.append(loss)
        alone = self.accelerator.num_processes == 1
        if not (now or step >= self.due or (alone and self.stop.received)):
            return [], 0
        told = (float(self.stop.received), time.perf_counter() - self.start)
        told = torch.tensor(told, device=loss.device, dtype=loss.dtype)
        # The same on every process, and so is when they meet next: at most twice as many steps later
        rows = self.accelerator.gather(torch.cat([torch.stack(self.losses), told])[None])
        *losses, received, seconds = [*rows[:, :-2].mean(dim=0).tolist(), *rows[:, -2:].amax(dim=0).tolist()]
        steps = min(2 * len(losses), int(len(losses) * SECONDS_APART / max(seconds, 1e-6)))
        self.losses, self.due, self.start = [], step + max(1, steps), time.perf_counter()
        return losses, int(received)
