"""A run is the same broken off or not, in one process or two, and leaves nothing half-written."""

import csv
import math
import os
import resource
import signal
import socket
import time

import numpy as np
import pytest
import torch

from LeFusion.diffusion import NoiseSchedule, UNet3D, load_checkpoint
from LeFusion.losses import LesionLoss
from LeFusion.runtime.commandline import run_command
from LeFusion.training import state as saving
from LeFusion.training import stopping
from LeFusion.training.batches import DrawSampler
from LeFusion.training.log import BEST_FILE, Log
from LeFusion.training.settings import TrainingSettings
from LeFusion.training.state import STATE_FILE
from LeFusion.training.stopping import Stopped
from LeFusion.training.trainer import train

pytestmark = pytest.mark.usefixtures("fresh_process_state")

SCHEDULE = NoiseSchedule.cosine(10)
METADATA = {"data_type": "lidc", "schedule": {"kind": "cosine", "num_steps": 10}, "git_commit": "abc"}
LOSS_FN = LesionLoss(SCHEDULE, seed=0, cond_dropout=0.3)


class Noise(torch.utils.data.Dataset):
    """Five items whose content depends on their index and on the draw."""

    def __len__(self):
        return 5

    def __getitem__(self, address):
        index, draw = address
        rng = np.random.default_rng((index, draw))
        lesions = torch.zeros(1, 4, 8, 8, dtype=torch.bool)
        lesions[:, 1:3, 2:7, index : index + 3] = True
        return {
            "image": torch.from_numpy(rng.uniform(-1, 1, (1, 4, 8, 8)).astype(np.float32)),
            "lesions": lesions,
            "histogram": torch.from_numpy(rng.dirichlet(np.ones(16)).astype(np.float32)),
            "name": f"item {index}",
        }


@pytest.fixture
def start(tiny_model):
    """-> start(folder, **settings): trains a new network of fixed initial weights in a folder."""

    def call(
        folder,
        loss_fn=LOSS_FN,
        metadata=METADATA,
        sample_sheet=None,
        dim=8,
        validate=None,
        dtype=torch.float32,
        dataset=None,
        **settings,
    ):
        defaults = {
            "train_num_steps": 6,
            "batch_size": 2,
            "gradient_accumulate_every": 1,
            "train_lr": 1e-3,
            "save_and_sample_every": 100,
            "num_workers": 0,
            "device": "cpu",
        }
        torch.manual_seed(1)
        network = UNet3D(in_channels=1, cond_dim=16, **tiny_model | {"dim": dim}).to(dtype)
        settings = TrainingSettings(**defaults | settings)
        return train(network, loss_fn, dataset or Noise(), settings, folder, metadata, sample_sheet, validate)

    return call


def at_call(number, action, loss_fn=LOSS_FN):
    """loss_fn, with an action before call `number` (from 1)."""
    calls = 0

    def counting(network, batch):
        nonlocal calls
        calls += 1
        if calls == number:
            action()
        return loss_fn(network, batch)

    return counting


def send(number):
    return lambda: os.kill(os.getpid(), number)


def state_of(folder):
    return torch.load(folder / STATE_FILE, weights_only=True)


def rows_of(folder):
    with open(folder / "loss.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_equal(first, second, where=""):
    """Bit-equal, at any depth of dicts and lists."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for i, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_equal(one, other, f"{where}/{i}")
    else:
        assert torch.equal(first, second) if torch.is_tensor(first) else first == second, where


def assert_same_run(first, second):
    """Weights, moving average, optimizer, and the losses on the way are those of the other folder."""
    assert_equal(state_of(first), state_of(second))
    losses = [
        [(row["step"], row["loss"], row["learning_rate"]) for row in rows_of(f)] for f in (first, second)
    ]
    assert losses[0] == losses[1]
    assert [int(row["step"]) for row in rows_of(first)] == list(range(1, 1 + state_of(first)["step"]))


VARIANTS = {
    "plain": {},
    "accumulated": {
        "gradient_accumulate_every": 2,
        "lr_schedule": "cosine",
        "warmup_steps": 3,
        "max_grad_norm": 0.1,
    },
    "workers": {"gradient_accumulate_every": 2, "num_workers": 2},
}


@pytest.mark.parametrize(
    "variant, number, code",
    [
        ("plain", signal.SIGTERM, 143),
        ("plain", signal.SIGINT, 130),
        ("accumulated", signal.SIGTERM, 143),
        ("workers", signal.SIGTERM, 143),
    ],
)
def test_a_stopped_run_goes_on_as_if_unbroken(start, tmp_path, variant, number, code):
    settings = VARIANTS[variant]
    start(tmp_path / "unbroken", **settings | {"num_workers": 0})
    with pytest.raises(Stopped) as stopped:
        start(tmp_path / "broken", at_call(4, send(number)), **settings)
    assert stopped.value.code == code
    assert state_of(tmp_path / "broken")["step"] == (4 if variant == "plain" else 2)
    path = start(tmp_path / "broken", **settings)
    assert path == tmp_path / "broken" / "model-000006.safetensors" and path.exists()
    assert_same_run(tmp_path / "broken", tmp_path / "unbroken")


def test_more_steps_later_are_the_same_as_all_at_once(start, tmp_path):
    start(tmp_path / "once", train_num_steps=5)
    start(tmp_path / "twice", train_num_steps=2)
    start(tmp_path / "twice", train_num_steps=5, save_and_sample_every=2, keep_checkpoints=1)
    assert_same_run(tmp_path / "once", tmp_path / "twice")


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_whole_group_is_saved_too(start, tmp_path, in_child, number, code):
    """Ctrl-C and batch systems signal the data loader's workers as well."""

    def child():
        os.setpgrp()
        signal_group = at_call(3, lambda: os.killpg(os.getpgrp(), number))
        start(tmp_path / "broken", signal_group, gradient_accumulate_every=2, num_workers=2, batch_size=8)

    assert in_child(child) == code
    assert state_of(tmp_path / "broken")["step"] == 2


def test_a_killed_run_goes_on_from_its_last_save(start, tmp_path, in_child):
    start(tmp_path / "unbroken")
    broken = tmp_path / "broken"
    for call in (4, 2):  # in step 4, then resumed in step 5
        death = at_call(call, send(signal.SIGKILL))
        assert in_child(lambda death=death: start(broken, death, save_and_sample_every=3)) == -signal.SIGKILL
        assert state_of(broken)["step"] == 3
    start(broken)
    assert_same_run(broken, tmp_path / "unbroken")


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


def test_a_stop_in_the_last_step_finishes_the_run(start, tmp_path):
    path = start(tmp_path, at_call(6, send(signal.SIGTERM)))
    assert path.exists() and (tmp_path / "loss.png").exists()


def test_a_finished_run_is_left_alone(start, tmp_path, capsys, files):
    path = start(tmp_path, train_num_steps=1)
    before = files(tmp_path)
    assert start(tmp_path, loss_fn=None, train_num_steps=1) == path
    assert "nothing to do" in capsys.readouterr().out and files(tmp_path) == before


@pytest.mark.parametrize(
    "change, named",
    [
        ({"batch_size": 3}, "batch_size was 2, is 3"),
        ({"train_lr": 2e-3}, "train_lr was 0.001, is 0.002"),
        ({"seed": 5}, "seed was 0, is 5"),
        ({"lr_schedule": "cosine"}, "lr_schedule was 'constant', is 'cosine'"),
        ({"metadata": METADATA | {"augment": True}}, "augment was None, is True"),
        ({"dim": 16}, "network was"),
    ],
)
def test_another_run_in_the_same_folder_is_refused_by_name(start, tmp_path, change, named, files):
    start(tmp_path, train_num_steps=1)
    before = files(tmp_path)
    with pytest.raises(ValueError, match="other settings") as refused:
        start(tmp_path, **change)
    assert named in str(refused.value) and str(tmp_path) in str(refused.value)
    assert files(tmp_path) == before


def test_what_does_not_change_the_result_may_change(start, tmp_path):
    start(tmp_path, train_num_steps=1)
    metadata = METADATA | {"git_commit": "def"}
    start(tmp_path, metadata=metadata, train_num_steps=2, save_and_sample_every=7, keep_checkpoints=4)
    assert state_of(tmp_path)["step"] == 2


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "foreign"])
def test_a_damaged_state_is_named(start, tmp_path, damage):
    start(tmp_path, train_num_steps=1)
    path = tmp_path / STATE_FILE
    if damage == "foreign":
        torch.save({"step": 1}, path)
    else:
        content = path.read_bytes()
        damaged = {"cut": content[: len(content) // 2], "garbage": b"x" * 1000, "empty": b""}
        path.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match="is damaged") as refused:
        start(tmp_path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_only_the_newest_checkpoints_are_kept(start, tmp_path):
    start(tmp_path, train_num_steps=5, save_and_sample_every=1, keep_checkpoints=2)
    found = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert found == ["model-000004.safetensors", "model-000005.safetensors"]


@pytest.mark.parametrize("writer", ["checkpoint", "state"])
def test_a_failed_write_leaves_the_last_save_whole(start, tmp_path, monkeypatch, writer, files):
    start(tmp_path, train_num_steps=2)
    before = files(tmp_path)

    def half(*arguments, **_):
        path = next(a for a in arguments if hasattr(a, "write_bytes"))
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    target = (saving, "save_checkpoint") if writer == "checkpoint" else (torch, "save")
    with monkeypatch.context() as patch:
        patch.setattr(*target, half)
        with pytest.raises(OSError, match="No space left"):
            start(tmp_path)
    after = files(tmp_path)
    assert {name: after[name] for name in before if name.startswith(("model", "training"))} == {
        name: content for name, content in before.items() if name.startswith(("model", "training"))
    }
    assert not [name for name, content in after.items() if content == b"half"]
    start(tmp_path)
    start(tmp_path.with_name("unbroken"))
    assert_same_run(tmp_path, tmp_path.with_name("unbroken"))


def test_a_full_disk_is_one_line(start, tmp_path, in_child, capfd):
    def child():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        run_command(lambda: start(tmp_path, train_num_steps=1))

    assert in_child(child) == 1
    error = capfd.readouterr().err
    assert error.count("error: cannot write") == 1 and "Traceback" not in error, error
    assert not [path for path in tmp_path.iterdir() if "model" in path.name or "state" in path.name]


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


def test_a_checkpoint_tells_its_network(start, tmp_path):
    path = start(tmp_path, train_num_steps=3)
    state = state_of(tmp_path)
    for weights in ("model", "ema"):
        checkpoint = load_checkpoint(path, weights)
        assert_equal(dict(checkpoint.network.state_dict()), dict(state[weights]))
        assert checkpoint.metadata["step"] == 3 and checkpoint.metadata["data_type"] == "lidc"
        assert checkpoint.metadata["schedule"] == {"kind": "cosine", "num_steps": 10}
        assert checkpoint.metadata["git_commit"] == "abc"
        assert checkpoint.metadata["batch_size"] == 2 and checkpoint.metadata["network"]["dim"] == 8
    assert not torch.equal(state["model"]["init_conv.weight"], state["ema"]["init_conv.weight"])


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


def test_learning_rate_by_hand():
    constant = TrainingSettings(train_lr=2.0, warmup_steps=4)
    assert [constant.learning_rate(step) for step in (0, 1, 3, 4, 100)] == [0.5, 1.0, 2.0, 2.0, 2.0]
    cosine = TrainingSettings(train_lr=2.0, lr_schedule="cosine", train_num_steps=12)
    assert [cosine.learning_rate(step) for step in (0, 4, 6, 8, 12)] == pytest.approx([2, 1.5, 1, 0.5, 0])


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


@pytest.mark.parametrize(
    "name, value",
    [
        ("train_num_steps", 0),
        ("train_num_steps", "many"),
        ("batch_size", 2.5),
        ("gradient_accumulate_every", 0),
        ("save_and_sample_every", -1),
        ("keep_checkpoints", 0),
        ("keep_checkpoints", -1),
        ("num_workers", -1),
        ("warmup_steps", -1),
        ("train_lr", "fast"),
        ("train_lr", math.nan),
        ("max_grad_norm", -1.0),
        ("lr_schedule", "linear"),
        ("ema_decay", 1.0),
        ("ema_decay", None),
        ("precision", "fp8"),
        ("device", "nonsense"),
        ("seed", "x"),
    ],
)
def test_a_bad_setting_is_named(name, value):
    with pytest.raises(ValueError, match=name) as refused:
        TrainingSettings(**{name: value})
    assert repr(value) in str(refused.value) or str(value) in str(refused.value)


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


class Slow(Noise):
    """Every item takes 50 ms."""

    def __getitem__(self, address):
        time.sleep(0.05)
        return super().__getitem__(address)


def waiting(folder):
    """Share of the time after the first step that went into waiting for data, from loss.csv."""
    first, *_, last = rows_of(folder)
    spent, waited = (float(last[name]) - float(first[name]) for name in ("seconds", "waiting"))
    return waited / spent


def test_waiting_for_data_is_told(start, tmp_path, capsys):
    start(tmp_path / "slow", dataset=Slow(), batch_size=5, train_num_steps=3)
    said = capsys.readouterr().out
    assert "trained 3 steps: " in said and " samples/s, " in said and "a larger num_workers may help" in said
    start(tmp_path / "quick", batch_size=5, train_num_steps=3)
    assert 0 < waiting(tmp_path / "quick") < waiting(tmp_path / "slow") < 1
    assert waiting(tmp_path / "slow") > 0.5
    before = rows_of(tmp_path / "slow")
    start(tmp_path / "slow", batch_size=5, train_num_steps=4)
    *kept, last = rows_of(tmp_path / "slow")
    assert kept == before and float(last["waiting"]) >= float(before[-1]["waiting"]) > 0.5


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


def test_the_state_of_a_resumed_optimizer_is_where_its_parameters_are(start, tmp_path, monkeypatch):
    """On a GPU, fused Adam also wants its step counts there; the state is read on the CPU."""
    seen = []
    load = torch.optim.Adam.load_state_dict

    def looking(optimizer, state):
        load(optimizer, state)
        seen.extend((p.device, s["step"].device) for p, s in optimizer.state.items())

    start(tmp_path, train_num_steps=1, device="auto")
    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", looking)
    start(tmp_path, train_num_steps=2, device="auto")
    expected = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    assert seen and {device for pair in seen for device in pair} == {expected}


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
