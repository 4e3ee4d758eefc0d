"""Every item comes once an epoch, whatever the processes and the start; noise is drawn ahead."""

import numpy as np
from training_runs import LOSS_FN, assert_equal, state_of

from LeFusion.training.batches import DrawSampler
from LeFusion.training.settings import TrainingSettings


def sampled(batch_size, process=0, processes=1, first_step=0, accumulate=1, items=5, batches=8):
    settings = TrainingSettings(batch_size=batch_size, gradient_accumulate_every=accumulate)
    sampler = iter(DrawSampler(items, settings, first_step, process, processes))
    return [next(sampler) for _ in range(batches)]


def test_every_item_comes_once_an_epoch_in_another_order():
    addresses = [address for batch in sampled(2, batches=10) for address in batch]
    assert [draw for _, draw in addresses] == list(range(20))
    epochs = [[index for index, _ in addresses[start : start + 5]] for start in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1


def test_an_epoch_s_order_is_drawn_once_and_is_that_of_its_address(monkeypatch):
    drawn, draw = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda address: drawn.append(address) or draw(address))
    indices = [index for batch in sampled(2, batches=10) for index, _ in batch]
    assert drawn == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert indices == [int(i) for epoch in range(4) for i in draw((0, epoch)).permutation(5)]


def test_two_processes_together_see_the_batches_of_one():
    one = sampled(4)
    two = zip(sampled(2, process=0, processes=2), sampled(2, process=1, processes=2), strict=True)
    assert one == [first + second for first, second in two]


def test_a_later_start_goes_on_in_the_sequence():
    assert sampled(2, first_step=3, accumulate=2, batches=2) == sampled(2, batches=8)[6:]


def test_workers_draw_the_noise_ahead(start, tmp_path):
    seen = []

    def looking(network, batch):
        seen.append("noise" in batch)
        return LOSS_FN(network, batch)

    looking.draw = LOSS_FN.draw
    start(tmp_path / "ahead", looking, num_workers=1, train_num_steps=2)
    start(tmp_path / "later", lambda *given: LOSS_FN(*given), num_workers=1, train_num_steps=2)
    assert seen == [True, True]
    assert_equal(state_of(tmp_path / "ahead")["model"], state_of(tmp_path / "later")["model"])
