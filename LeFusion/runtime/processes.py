"""Which share of the cases this process does: processes of one launch (torchrun) and jobs of an array."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from LeFusion.errors import UserError
from LeFusion.runtime.commandline import stays_on_cpu

Item = TypeVar("Item")
LONGEST_WAIT = timedelta(days=30)  # for the slowest process of a launch


@dataclass(frozen=True)
class Share:
    """Share `index` of `count`. A share is dealt from the whole list of cases, never from what is left to do,
    so that processes that start at different times, or again, still do each case once.

    rank, processes: of this launch; the launch is share `job` of `jobs` of an array.
    """

    rank: int = 0
    processes: int = 1
    job: int = 0
    jobs: int = 1

    def __post_init__(self):
        if self.jobs < 1 or not 0 <= self.job < self.jobs:
            raise UserError(
                f"shard={self.job} must be one of 0 to shards - 1, and shards={self.jobs} above 0"
            )

    @property
    def index(self) -> int:
        return self.job * self.processes + self.rank

    @property
    def count(self) -> int:
        return self.jobs * self.processes

    @property
    def main(self) -> bool:
        """Whether this process reports for its launch."""
        return self.rank == 0

    @property
    def joins(self) -> bool:
        """Whether the launch sees everything at its end, and so joins tables and draws pictures."""
        return self.jobs == 1

    def of(self, cases: Sequence[Item]) -> list[Item]:
        return list(cases[self.index :: self.count])

    def gather(self, values: list) -> list:
        """The lists of all processes of the launch, one after the other; every process must call it."""
        if self.processes == 1:
            return values
        from accelerate.utils import gather_object

        return gather_object(values)

    def together(self, work: Callable[[], Item]) -> Item:
        """What `work` returns, once it has ended in all processes of the launch; each must call this.

        Where it raises a UserError in one, all raise one, so that none waits for another that has ended.
        """
        error = result = None
        try:
            result = work()
        except UserError as found:
            error = found
        failed = [rank for rank in self.gather([None if error is None else self.rank]) if rank is not None]
        if error is not None:
            raise error
        if failed:
            raise UserError(f"stopped, as process {failed[0]} has met an error")
        return result


def refuse_nothing_usable(share: Share, usable: Sequence, skipped: Sequence[str] | None, what: str) -> None:
    """Raises UserError, in every process of the launch, where none of them has a usable case (`what`) and all
    shares are done here. skipped: why this process has passed cases over. Every process must call it."""
    if share.joins and not any(share.gather([len(usable)])):
        raise UserError(f"no usable {what}: {share.gather(list(skipped or []))[0]}")


def find_share(shard: int = 0, shards: int = 1, device: str = "auto") -> Share:
    """The share of this process; joins the other processes where torchrun or accelerate launch started it."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        return Share(job=shard, jobs=shards)
    share = Share(int(os.environ["RANK"]), processes, shard, shards)
    from accelerate import PartialState  # here: it takes a second, and most launches have one process

    state = PartialState(cpu=stays_on_cpu(device), timeout=LONGEST_WAIT)
    assert (state.process_index, state.num_processes) == (share.rank, share.processes)
    return share
