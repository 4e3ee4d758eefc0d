"""A run trains, validates and keeps its best weights, in one process or two."""

import csv
import math
import os
import signal
import socket

import pytest
import torch
from training_runs import LOSS_FN, assert_equal, assert_same_run, at_call, rows_of, send, state_of

from LeFusion.diffusion import load_checkpoint
from LeFusion.training import stopping
from LeFusion.training.log import BEST_FILE
from LeFusion.training.settings import TrainingSettings
from LeFusion.training.stopping import Stopped


def test_a_loss_that_is_no_number_stops_the_run(start, tmp_path):
    start(tmp_path, train_num_steps=2)
    good = state_of(tmp_path)
    scale = [1.0]
    broken = at_call(2, lambda: scale.append(math.nan), lambda *args: LOSS_FN(*args) * scale[-1])
    with pytest.raises(ValueError, match="loss became nan at step 4") as stopped:
        start(tmp_path, broken)
    assert str(tmp_path) in str(stopped.value) and "train_lr" in str(stopped.value)
    assert_equal(state_of(tmp_path), good)


def test_the_moving_average_by_hand(start, tmp_path):
    seen = []

    def watching(network, batch):
        seen.append({name: value.detach().clone() for name, value in network.named_parameters()})
        return LOSS_FN(network, batch)

    start(tmp_path, watching, train_num_steps=4, ema_decay=0.2, train_lr=1e-2)
    state = state_of(tmp_path)
    weights = [*seen, state["model"]]
    for name in seen[0]:
        average = weights[0][name]
        for step, decay in enumerate((1 / 10, 2 / 11, 0.2, 0.2)):  # (1 + step) / (10 + step), at most 0.2
            average = decay * average + (1 - decay) * weights[step + 1][name]
        torch.testing.assert_close(state["ema"][name], average, rtol=1e-5, atol=1e-6)
    assert not torch.equal(seen[0]["init_conv.weight"], state["model"]["init_conv.weight"])


def test_bfloat16_trains_on_the_cpu_with_float32_weights(start, tmp_path):
    dtypes = set()

    def watching(network, batch):
        layer = network.init_conv
        handle = layer.register_forward_hook(lambda *values: dtypes.add(values[-1].dtype))
        loss = LOSS_FN(network, batch)
        handle.remove()
        return loss

    start(tmp_path, watching, train_num_steps=2, precision="bf16")
    assert dtypes == {torch.bfloat16}
    weights = state_of(tmp_path)["model"].values()
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights)


def test_samples_are_drawn_from_the_average_at_every_save(start, tmp_path):
    drawn = []

    def sheet(network, path):
        drawn.append(path.name)
        assert_equal(dict(network.state_dict()), dict(state_of(tmp_path)["ema"]))
        assert not network.training

    start(tmp_path, sample_sheet=sheet, train_num_steps=5, save_and_sample_every=2)
    assert drawn == ["samples-000002.png", "samples-000004.png", "samples-000005.png"]


def test_the_learning_rate_is_used_and_logged(start, tmp_path):
    settings = {"lr_schedule": "cosine", "warmup_steps": 2, "train_lr": 1e-2}
    start(tmp_path, **settings)
    expected = [TrainingSettings(train_num_steps=6, **settings).learning_rate(step) for step in range(6)]
    assert [float(row["learning_rate"]) for row in rows_of(tmp_path)] == pytest.approx(expected, rel=1e-3)
    assert state_of(tmp_path)["optimizer"]["param_groups"][0]["lr"] == expected[-1]


def scores_of(folder):
    with open(folder / "validation.csv", newline="") as file:
        return {int(row["step"]): float(row["score"]) for row in csv.DictReader(file)}


class Scores:
    """A validation that gives these scores one after the other."""

    def __init__(self, *scores):
        self.scores, self.networks = list(scores), []

    def __call__(self, network):
        self.networks.append({name: value.clone() for name, value in network.state_dict().items()})
        return {"score": self.scores.pop(0), "other": 7.0}


def test_the_checkpoint_with_the_best_score_is_kept(start, tmp_path):
    validate = Scores(3.0, 1.0, 2.0)
    start(tmp_path, validate=validate, save_and_sample_every=2, keep_checkpoints=1)
    assert scores_of(tmp_path) == {2: 3, 4: 1, 6: 2}
    best = load_checkpoint(tmp_path / BEST_FILE)
    assert best.metadata["step"] == 4
    assert_equal(dict(best.network.state_dict()), validate.networks[1])  # of the moving average
    assert [path.name for path in tmp_path.glob("model-*")] == ["model-000006.safetensors"]
    start(tmp_path, validate=Scores(1.5), train_num_steps=8, save_and_sample_every=2)
    assert load_checkpoint(tmp_path / BEST_FILE).metadata["step"] == 4  # the best of both runs
    start(tmp_path, validate=Scores(0.5), train_num_steps=9, save_and_sample_every=20)
    assert load_checkpoint(tmp_path / BEST_FILE).metadata["step"] == 9
    assert scores_of(tmp_path) == {2: 3, 4: 1, 6: 2, 8: 1.5, 9: 0.5}


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"half")])
def test_best_weights_that_are_lost_or_damaged_are_replaced(start, tmp_path, capsys, damage):
    start(tmp_path, validate=Scores(1.0), train_num_steps=1)
    damage(tmp_path / BEST_FILE)
    start(tmp_path, validate=Scores(2.0), train_num_steps=2)
    assert load_checkpoint(tmp_path / BEST_FILE).metadata["step"] == 2
    said = capsys.readouterr().out
    assert "the best of the validations from now on is kept: " in said and str(tmp_path / BEST_FILE) in said


def test_a_score_that_is_no_number_is_not_the_best(start, tmp_path):
    start(tmp_path, validate=Scores(math.nan, 5.0, math.nan), save_and_sample_every=2)
    assert load_checkpoint(tmp_path / BEST_FILE).metadata["step"] == 4
    start(tmp_path, validate=Scores(4.0), train_num_steps=7)  # nor on going on
    assert load_checkpoint(tmp_path / BEST_FILE).metadata["step"] == 7


def test_validation_changes_nothing_of_the_training(start, tmp_path):
    start(tmp_path / "without", save_and_sample_every=2)
    start(tmp_path / "with", validate=Scores(3.0, 1.0, 2.0), save_and_sample_every=2)
    assert_same_run(tmp_path / "with", tmp_path / "without")


def test_a_validation_that_was_stopped_is_made_up_for(start, tmp_path, in_child):
    """Killed in it, or told to stop in the step before; the scores are those of an unbroken run."""

    def killed(_network):
        os.kill(os.getpid(), signal.SIGKILL)

    broken = {"save_and_sample_every": 2, "train_num_steps": 4}
    assert in_child(lambda: start(tmp_path, validate=killed, **broken)) == -signal.SIGKILL
    assert state_of(tmp_path)["step"] == 2 and not (tmp_path / "validation.csv").exists()
    with pytest.raises(Stopped):
        start(tmp_path, at_call(1, send(signal.SIGTERM)), validate=Scores(3.0), **broken)
    assert scores_of(tmp_path) == {2: 3} and state_of(tmp_path)["step"] == 3
    start(tmp_path, validate=Scores(1.0), **broken)
    assert scores_of(tmp_path) == {2: 3, 4: 1}
    assert load_checkpoint(tmp_path / BEST_FILE).metadata["step"] == 4


@pytest.mark.parametrize("apart, stopped_at", [(0.0, 2), (1e9, 3)])
def test_two_processes_train_like_one_of_twice_the_batch(
    start, tmp_path, in_child, monkeypatch, apart, stopped_at
):
    """Signals are exchanged at each step, or with the losses at steps 1, 3, 7, ..."""
    monkeypatch.setattr(stopping, "SECONDS_APART", apart)
    doubles = {"dtype": torch.float64, "gradient_accumulate_every": 2}
    start(tmp_path / "one", batch_size=4, train_num_steps=4, **doubles)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setenv("WORLD_SIZE", "2")

    def process(rank, steps, loss_fn=LOSS_FN):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        start(tmp_path / "two", loss_fn, batch_size=2, train_num_steps=steps, device="auto", **doubles)

    def both(first, second):
        helper = os.fork()
        if helper == 0:
            os._exit(in_child(second))
        code = in_child(first)
        return code, os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])

    fresh_states()
    stop = at_call(3, send(signal.SIGTERM))  # only one process is told
    assert both(lambda: process(0, 4), lambda: process(1, 4, stop)) == (143, 143)
    assert state_of(tmp_path / "two")["step"] == stopped_at
    assert both(lambda: process(0, 4), lambda: process(1, 4)) == (0, 0)
    one, two = state_of(tmp_path / "one"), state_of(tmp_path / "two")
    assert two["step"] == 4 and two["run"]["processes"] == 2
    # In float64: Adam turns float32's rounding of gradients near 0 into steps of up to 1e-3
    far = [(one["model"][name] - two["model"][name]).abs().max() for name in one["model"]]
    assert max(far) < 1e-5
    losses = [[float(row["loss"]) for row in rows_of(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def fresh_states():
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
