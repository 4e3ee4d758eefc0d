"""The log goes on where the saved run does, and tells the waiting for data."""

import signal
import time

import pytest
from training_runs import LOSS_FN, Noise, at_call, rows_of, send

from LeFusion.training.log import Log


def test_a_kill_right_after_resuming_keeps_the_log(start, tmp_path, in_child):
    start(tmp_path, train_num_steps=3)
    assert in_child(lambda: start(tmp_path, at_call(1, send(signal.SIGKILL)))) == -signal.SIGKILL
    assert [int(row["step"]) for row in rows_of(tmp_path)] == [1, 2, 3]
    start(tmp_path)
    assert [int(row["step"]) for row in rows_of(tmp_path)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("tail", ["1", "4,9,0.001,9.9\n5,9,0.001,9.9\n"])
def test_rows_of_the_log_that_were_not_saved_are_dropped(start, tmp_path, tail):
    """Torn by a kill (the 1 of a step 12), or of steps after the last save."""
    start(tmp_path, train_num_steps=3)
    with open(tmp_path / "loss.csv", "a") as file:
        file.write(tail)
    start(tmp_path)
    assert [int(row["step"]) for row in rows_of(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert all(float(row["loss"]) < 9 for row in rows_of(tmp_path))


class Clock(Noise):
    """Time that passes only where data is read (2 s an item) and losses are computed (1 s a batch)."""

    now = 0.0

    def __getitem__(self, address):
        self.now += 2
        return super().__getitem__(address)

    def loss(self, network, batch):
        self.now += 1
        return LOSS_FN(network, batch)


def test_waiting_for_data_is_told(start, tmp_path, capsys, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    start(tmp_path, clock.loss, dataset=clock, batch_size=2, train_num_steps=3)
    said = capsys.readouterr().out
    assert "trained 3 steps: 0.4 samples/s, 80.0% of the time" in said and "larger num_workers may" in said
    before = rows_of(tmp_path)
    assert [(float(row["seconds"]), float(row["waiting"])) for row in before] == [(5, 4), (10, 8), (15, 12)]
    start(tmp_path, clock.loss, dataset=clock, batch_size=2, train_num_steps=4)
    *kept, last = rows_of(tmp_path)
    assert kept == before and (float(last["seconds"]), float(last["waiting"])) == (20, 16)


def test_a_log_of_a_run_that_did_not_tell_its_waiting_is_continued(start, tmp_path):
    start(tmp_path, train_num_steps=2)
    lines = (tmp_path / "loss.csv").read_text().splitlines()
    (tmp_path / "loss.csv").write_text("".join(line.rsplit(",", 1)[0] + "\n" for line in lines))
    start(tmp_path, train_num_steps=3)
    assert [row["waiting"] == "" for row in rows_of(tmp_path)] == [True, True, False]


def test_pace_by_hand(tmp_path):
    """Without the first step: two steps of 6 samples in 4 s, a quarter of it waiting."""
    log = Log(tmp_path, 0)
    for step, (seconds, waited) in enumerate([(90.0, 80.0), (1.0, 0.0), (3.0, 1.0)], start=1):
        log.add(step, 1e-3, seconds, waited)
    log.write([0.5, 0.25, 0.125])
    log.close()
    assert log.pace(6) == (
        "trained 3 steps: 3 samples/s, 25.0% of the time waiting for data; a larger num_workers may help"
    )
    log.steps = [(2.0, 0.05)]
    assert log.pace(6) == "trained 1 step: 3 samples/s, 2.5% of the time waiting for data"
    assert [row["waiting"] for row in rows_of(tmp_path)] == ["80.000", "80.000", "81.000"]
    assert [row["loss"] for row in rows_of(tmp_path)] == ["0.5", "0.25", "0.125"]
