"""Shares cover all cases once, whatever launches and arrays they are of."""

import pytest

from LeFusion.runtime.processes import Share, find_share


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
