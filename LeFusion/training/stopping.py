"""Stop signals: the step in progress is finished and saved, by all processes."""

import signal

import torch
from accelerate import Accelerator

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


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

    def agreed(self, accelerator: Accelerator) -> bool:
        """True on every process once any process has received a signal."""
        if accelerator.num_processes == 1:
            return self.received > 0
        received = torch.tensor(self.received, device=accelerator.device)
        self.received = int(accelerator.gather(received).max())
        return self.received > 0
