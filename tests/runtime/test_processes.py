"""Shares cover all cases once, whatever launches and arrays they are of."""

import pytest

from LeFusion.errors import UserError
from LeFusion.runtime.processes import Share, find_share, refuse_nothing_usable


@pytest.mark.parametrize("processes, jobs", [(1, 1), (3, 1), (1, 4), (2, 3)])
def test_every_case_has_one_share(processes, jobs):
    cases = list(range(17))
    shares = [Share(rank, processes, job, jobs) for job in range(jobs) for rank in range(processes)]
    dealt = [share.of(cases) for share in shares]
    assert sorted(sum(dealt, [])) == cases
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert [share.index for share in shares] == list(range(processes * jobs))


def test_one_process_is_all_of_it(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    share = find_share()
    assert share == Share() and share.main and share.joins and share.gather([1, 2]) == [1, 2]
    assert not find_share(1, 3).joins


def test_a_share_beyond_the_last_is_refused():
    with pytest.raises(ValueError, match="shard=3 must be one of 0 to shards - 1"):
        Share(job=3, jobs=3)


class Launch(Share):
    """Of two processes, of which the other told `heard` whenever both speak."""

    def hears(self, *heard):
        object.__setattr__(self, "heard", list(heard))
        return self

    def gather(self, values):
        other = self.heard.pop(0)
        return [*values, *other] if self.rank == 0 else [*other, *values]


def test_an_error_in_one_process_is_one_in_all():
    def fails():
        raise UserError("bad file")

    assert Launch(0, 2).hears([None]).together(lambda: 5) == 5
    with pytest.raises(UserError, match="^bad file$"):
        Launch(0, 2).hears([None]).together(fails)
    with pytest.raises(UserError, match="^stopped, as process 0 has met an error$"):
        Launch(1, 2).hears([0]).together(lambda: 5)
    with pytest.raises(UserError, match="^bad file$"):
        Share().together(fails)


def test_nothing_usable_in_any_process_is_an_error_in_all():
    refuse_nothing_usable(Launch(0, 2).hears([3]), [], ["bad"], "case")  # the other has some
    refuse_nothing_usable(Share(job=1, jobs=2), [], None, "case")  # another job may have some
    for rank, first in ((0, "mine"), (1, "theirs")):
        with pytest.raises(UserError, match=f"^no usable case: {first}$"):
            refuse_nothing_usable(Launch(rank, 2).hears([0], ["theirs"]), [], ["mine"], "case")
