"""Going on when memory runs out: the same work in smaller batches."""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from LeFusion.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

USED = 0.85  # of the free memory of a GPU; the rest is for fragments
LARGEST_BATCH = 256


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU or the machine had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    from accelerate.utils.memory import should_reduce_batch_size  # here: importing it takes a second

    return isinstance(error, RuntimeError) and should_reduce_batch_size(error)


def free_memory() -> None:
    """Gives back what failed work still holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class BatchSize:
    """How many samples are worked on at once; halved whenever memory runs out.

    advice: said when a single sample is too much, e.g. "try precision=bf16". say: prints a line.
    """

    def __init__(self, size: int, advice: str, say: Callable[[str], None] = print):
        self.size, self.advice, self.say = size, advice, say

    def run(
        self, items: Sequence[Item], work: Callable[[Sequence[Item]], Result]
    ) -> Iterator[tuple[Sequence[Item], Result]]:
        """-> (some of the items, work(those)), in order, at most `size` at once.

        `work` is called again with fewer items when memory runs out; it must leave nothing behind then.
        Raises ValueError when one item is too much.
        """
        start = 0
        while start < len(items):
            piece = items[start : start + self.size]
            try:
                result = work(piece)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).strip().split("\n")[0][:160]
            else:
                yield piece, result
                start += len(piece)
                continue
            # Outside of the except block, whose traceback holds on to the tensors of the failed work
            free_memory()
            if len(piece) == 1:
                raise UserError(f"out of memory with one sample at a time ({reason}); {self.advice}")
            self.size = (len(piece) + 1) // 2
            self.say(f"out of memory with {len(piece)} samples at once; going on with {self.size}")


def largest_batch(one: Callable[[], object], device: torch.device) -> int:
    """How many times what `one()` needs at its peak fits into the free memory of a GPU; 1 elsewhere."""
    if device.type != "cuda":
        return 1
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    one()
    torch.cuda.synchronize(device)
    needed = max(1, torch.cuda.max_memory_allocated(device) - before)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(LARGEST_BATCH, int(USED * free / needed)))


def needs_less_memory(precision: str, region: str, guidance_scale: float) -> str:
    """What to try when one box is too much for a GPU, given the settings of now."""
    smaller = [
        f"{key}={value}"
        for key, value, now in (
            ("precision", "bf16", precision),
            ("region", "lesion", region),
            ("guidance_scale", 1, guidance_scale),
        )
        if value != now
    ]
    if not smaller:
        return "no setting needs less; use a GPU with more memory, device=cpu, or smaller lesions"
    return f"try {' '.join(smaller)}, which needs least, or device=cpu"
