"""A step whose memory runs out, or is saved, updates as any other."""

import pytest
import torch
from training_runs import LOSS_FN, assert_equal, state_of

from LeFusion.diffusion import UNet3D


def test_memory_that_runs_out_changes_no_update(start, tmp_path, capsys):
    sizes = []

    def full(network, batch):
        sizes.append(len(batch["draw"]))
        if len(batch["draw"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return LOSS_FN(network, batch)

    doubles = {"dtype": torch.float64, "batch_size": 5, "gradient_accumulate_every": 2, "train_num_steps": 3}
    start(tmp_path / "one", **doubles)
    start(tmp_path / "parts", full, **doubles)
    assert sizes == [5, 3] + [2, 2, 1] * 6
    said = capsys.readouterr()
    assert "out of memory with 5 samples at once; going on with 3, the same updates" in said.out + said.err
    one, parts = state_of(tmp_path / "one")["model"], state_of(tmp_path / "parts")["model"]
    assert all((one[name] - parts[name]).abs().max() < 1e-6 for name in one)


def test_one_sample_too_much_says_what_to_set(start, tmp_path):
    def full(network, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ValueError, match="one sample.*trainer.precision=bf16 trainer.gradient_checkpointing"):
        start(tmp_path, full, batch_size=2)


def test_other_errors_of_the_loss_pass(start, tmp_path):
    def broken(network, batch):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        start(tmp_path, broken)


def test_checkpointing_changes_nothing_and_a_run_may_switch_to_it(start, tmp_path, monkeypatch):
    start(tmp_path / "plain", train_num_steps=4)
    start(tmp_path / "changed", train_num_steps=2)
    recomputed = []
    again = UNet3D._recomputed
    monkeypatch.setattr(
        UNet3D, "_recomputed", staticmethod(lambda *layer: recomputed.append(layer) or again(*layer))
    )
    start(tmp_path / "changed", train_num_steps=4, gradient_checkpointing=True)
    assert recomputed
    assert_equal(state_of(tmp_path / "plain")["model"], state_of(tmp_path / "changed")["model"])
