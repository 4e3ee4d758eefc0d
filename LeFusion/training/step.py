"""The gradients of one step, whatever fits into memory at once."""

import contextlib
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from LeFusion.errors import UserError
from LeFusion.runtime.memory import free_memory, is_out_of_memory
from LeFusion.training.settings import TrainingSettings


class Backward:
    """Gradients of one step: forward and backward over its batches, in smaller parts once memory ran out.

    A part counts by its samples, and gradients are added up, so that the update is the same.
    """

    def __init__(self, model, loss_fn, optimizer, settings: TrainingSettings, accelerator: Accelerator):
        self.model, self.loss_fn, self.optimizer = model, loss_fn, optimizer
        self.settings, self.accelerator = settings, accelerator
        self.at_once = settings.batch_size

    def __call__(self, batches: list[dict]) -> Tensor:
        """-> the mean loss of the batches, a scalar on the device."""
        while True:
            try:
                return self._add_up(batches)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).strip().split("\n")[0][:160]
            # Outside of the except block, whose traceback holds on to the tensors of the failed step
            self.optimizer.zero_grad()
            free_memory()
            self._shrink(reason)

    def _add_up(self, batches: list[dict]) -> Tensor:
        parts = [part for batch in batches for part in _parts(batch, self.at_once)]
        samples = sum(len(part["draw"]) for part in parts)
        total = torch.zeros((), device=self.accelerator.device)
        for number, part in enumerate(parts):
            # Processes exchange gradients once a step, with those of the last part
            waits = (
                contextlib.nullcontext() if number == len(parts) - 1 else self.accelerator.no_sync(self.model)
            )
            with waits:
                with self.accelerator.autocast():
                    loss = self.loss_fn(self.model, part) * (len(part["draw"]) / samples)
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _shrink(self, reason: str) -> None:
        settings, size = self.settings, self.at_once
        if self.accelerator.num_processes > 1 and size > 1:
            # One process alone must not go on with more parts: the others wait for its gradients
            raise UserError(
                f"out of memory with {size} samples at once ({reason}); batch_size={size // 2} "
                f"gradient_accumulate_every={settings.gradient_accumulate_every * 2} makes the same updates "
                "with half of the memory"
            )
        if size == 1:
            smaller = [
                f"trainer.{name}={value}"
                for name, value, now in (
                    ("precision", "bf16", settings.precision),
                    ("gradient_checkpointing", "true", str(settings.gradient_checkpointing).lower()),
                )
                if value != now
            ]
            raise UserError(
                f"out of memory with one sample at a time ({reason}); try "
                f"{' '.join([*smaller, 'a smaller crop_size or model.dim'])}"
            )
        self.at_once = (size + 1) // 2
        tqdm.write(
            f"out of memory with {size} samples at once; going on with {self.at_once}, the same updates"
        )


def _parts(batch: dict, size: int) -> Iterator[dict]:
    """The batch in parts of at most `size` samples."""
    for start in range(0, len(batch["draw"]), size):
        yield {key: value[start : start + size] for key, value in batch.items()}
