"""Losses and signals are fetched together."""

import torch

from LeFusion.training import stopping


class Fetched:
    """An accelerator of two processes whose other one tells the same losses plus 2, and a signal at last."""

    num_processes, signals = 2, []

    def gather(self, row):
        other = row + 2
        other[:, -2:] = torch.tensor([self.signals.pop(0), 0.0])
        return torch.cat([row, other])


def test_losses_and_signals_are_fetched_together_now_and_then(monkeypatch):
    monkeypatch.setattr(stopping, "SECONDS_APART", 1e9)  # then twice as many steps each time
    accelerator, stop = Fetched(), stopping.StopSignal()
    accelerator.signals = [0, 0, 0, 15, 0]
    fetch = stopping.Fetcher(accelerator, stop, step=10)
    told = {step: fetch(step, torch.tensor(float(step)), now=step == 18) for step in range(11, 21)}
    assert {step: answer for step, answer in told.items() if answer != ([], 0)} == {
        11: ([12.0], 0),
        13: ([13.0, 14.0], 0),
        17: ([15.0, 16.0, 17.0, 18.0], 0),
        18: ([19.0], 15),  # asked for; the next steps are 20, 24, ...
        20: ([20.0, 21.0], 0),
    }


def test_one_process_sees_its_own_signal_at_once():
    accelerator, stop = Fetched(), stopping.StopSignal()
    accelerator.num_processes, accelerator.gather = 1, lambda row: row
    fetch = stopping.Fetcher(accelerator, stop, step=0)
    fetch.due = 100
    assert fetch(1, torch.tensor(3.0), now=False) == ([], 0)
    stop.received = 2
    assert fetch(2, torch.tensor(4.0), now=False) == ([3.0, 4.0], 2)
