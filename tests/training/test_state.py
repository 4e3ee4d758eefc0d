"""A run is the same broken off or not, and leaves nothing half-written."""

import os
import resource
import signal

import pytest
import torch
from training_runs import METADATA, assert_equal, assert_same_run, at_call, send, state_of

from LeFusion.diffusion import load_checkpoint
from LeFusion.runtime.commandline import run_command
from LeFusion.training import state as saving
from LeFusion.training.state import STATE_FILE
from LeFusion.training.stopping import Stopped

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


def test_a_stop_in_the_last_step_finishes_the_run(start, tmp_path):
    path = start(tmp_path, at_call(6, send(signal.SIGTERM)))
    assert path.exists() and (tmp_path / "loss.png").exists()


def test_a_finished_run_is_left_alone(start, tmp_path, capsys, files):
    path = start(tmp_path, train_num_steps=1)
    before = files(tmp_path)
    assert start(tmp_path, loss_fn=None, train_num_steps=1) == path
    assert "nothing to do" in capsys.readouterr().out and files(tmp_path) == before


@pytest.mark.parametrize("damage", ["lost", "empty", "cut", "of another run"])
def test_weights_of_a_finished_run_that_are_damaged_are_written_again(start, tmp_path, damage, capsys):
    path = start(tmp_path / "run", train_num_steps=1)
    whole = path.read_bytes()
    if damage == "lost":
        path.unlink()
    else:
        other = start(tmp_path / "other", train_num_steps=1, seed=1).read_bytes()
        path.write_bytes({"empty": b"", "cut": whole[:-100], "of another run": other}[damage])
    assert start(tmp_path / "run", loss_fn=None, train_num_steps=1) == path
    said = capsys.readouterr().out
    assert path.read_bytes() == whole and "written again: " in said and str(path) in said


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
