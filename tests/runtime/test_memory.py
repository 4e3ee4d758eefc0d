"""Work goes on in smaller batches when memory runs out, and a single sample too much is said clearly."""

import pytest
import torch

from LeFusion.runtime.memory import BatchSize, is_out_of_memory, largest_batch

FULL = "CUDA out of memory. Tried to allocate 2 GiB"


def fits(most, done):
    def work(items):
        if len(items) > most:
            raise torch.OutOfMemoryError(FULL)
        done.append(list(items))
        return [10 * item for item in items]

    return work


def test_batches_are_halved_and_every_item_is_done_once_in_order():
    said, done = [], []
    size = BatchSize(8, "", said.append)
    results = [result for _, made in size.run(range(11), fits(3, done)) for result in made]
    assert results == [10 * item for item in range(11)] and sum(done, []) == list(range(11))
    assert size.size == 2 and max(map(len, done)) == 2
    assert said == [
        "out of memory with 8 samples at once; going on with 4",
        "out of memory with 4 samples at once; going on with 2",
    ]
    assert [len(piece) for piece, _ in size.run(range(3), fits(3, done))] == [2, 1]  # it stays small


def test_one_sample_too_much_is_an_error_that_says_what_to_set():
    with pytest.raises(ValueError, match="out of memory with one sample.*2 GiB.*try precision=bf16"):
        list(BatchSize(2, "try precision=bf16", lambda _: None).run([1, 2], fits(0, [])))


def test_other_errors_pass():
    def broken(items):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(BatchSize(2, "").run([1, 2], broken))


@pytest.mark.parametrize(
    "error, is_one",
    [
        (torch.OutOfMemoryError(FULL), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA out of memory."), False),
    ],
)
def test_what_counts_as_out_of_memory(error, is_one):
    assert is_out_of_memory(error) == is_one


def test_a_real_failed_allocation_counts():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)


def test_the_cpu_takes_one_sample_at_a_time():
    assert largest_batch(lambda: pytest.fail("not tried"), torch.device("cpu")) == 1
