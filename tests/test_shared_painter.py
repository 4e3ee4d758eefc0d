"""A painter in a process of its own: the voxels of a painter, and an end that leaves nothing."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from waiting import in_time

from LeFusion import Painter, RandPaintLesiond, SharedPainter, UserError, shared_painter
from LeFusion.painter_process import ask
from LeFusion.runtime.commandline import PROJECT_ROOT

NETWORK = "lidc_small"
SIZES = {"diffusion_depth_size": 8, "diffusion_img_size": 16, "num_steps": 1, "device": "cpu"}


def region(number: int, shape=(12, 24, 20)) -> dict[str, torch.Tensor]:
    """A region of its own with a lesion of its own size."""
    hu = np.random.default_rng(number).integers(-1000, 300, (1, *shape)).astype(np.float32)
    mask = torch.zeros((1, *shape), dtype=torch.uint8)
    mask[0, 3:7, 8:13, 6 : 11 + number % 2] = 1
    return {"image": torch.from_numpy(hu), "lesion": mask}


@pytest.fixture(scope="module")
def shared():
    """One for all tests that do not end it, as starting it takes seconds."""
    with SharedPainter.load(NETWORK, **SIZES) as painter:
        yield painter


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def eventually(holds) -> bool:
    for _ in range(600):
        if holds():
            return True
        time.sleep(0.05)
    return False


def test_it_paints_what_a_painter_paints(shared):
    alone, painter = Painter.load(NETWORK, **SIZES), shared
    items = [region(number) for number in range(4)]
    given = [item["image"] for item in items], [item["lesion"] for item in items]
    wanted = alone.paint(*given, seed=3)
    assert all(map(torch.equal, painter.paint(*given, seed=3), wanted))
    sent = pickle.loads(pickle.dumps(painter))
    assert torch.equal(sent.paint(given[0][2], given[1][2], seed=5), wanted[2])
    with ThreadPoolExecutor(4) as pool:  # several ask at once
        assert all(map(torch.equal, pool.map(painter.paint, *given, [None] * 4, range(3, 7)), wanted))
    several = region(0)
    several["lesion"][0, 9:11, 2:5, 14:18] = 1  # parts that are painted one after the other
    assert torch.equal(*(one.paint(several["image"], several["lesion"], "own") for one in (alone, painter)))


def test_what_an_epoch_sees_does_not_depend_on_the_workers(shared):
    items = [region(number) for number in range(4)]

    def epochs(workers: int, **options) -> list[torch.Tensor]:
        painter = replace(shared, **options)
        data = Dataset(items, RandPaintLesiond("image", "lesion", painter, label_key="label", prob=0.7))
        found = []
        for epoch in range(4):
            painter.set_epoch(epoch)
            loader = DataLoader(data, batch_size=1, num_workers=workers)
            found.append(torch.cat([torch.cat([one["image"], one["label"]], dim=1) for one in loader]))
        return found

    for every, most in ((1, 3), (3, 2)):
        here = epochs(0, every=every)
        assert all(map(torch.equal, here, epochs(2, every=every)))
        assert not all(map(torch.equal, here, epochs(0, every=every, seed=1)))
        pairs = zip(here, here[1:], strict=False)
        changed = [[not torch.equal(*one) for one in zip(*pair, strict=True)] for pair in pairs]
        changes = np.sum(changed, axis=0)
        assert 0 < changes.max() <= most


def test_what_is_kept_is_not_painted_again(shared, monkeypatch):
    painter, item = replace(shared, every=2), region(9)
    paint = RandPaintLesiond("image", "lesion", painter, prob=1)
    for given in (item, {key: value.numpy() for key, value in item.items()}):
        painter.set_epoch(0)
        first = paint(given)["image"]
        with monkeypatch.context() as patch:
            patch.setattr(SharedPainter, "run", lambda *_: pytest.fail("was painted"))
            again = paint(given)["image"]
        assert type(again) is type(given["image"]) and again.dtype == first.dtype and (again == first).all()
        assert getattr(again, "meta", None) == getattr(first, "meta", None)  # the texture, too
        assert (first != given["image"]).any()
        painter.set_epoch(2)
        assert (paint(given)["image"] != first).any()
    with painter:  # a copy, which does not own the process
        pass
    painter.set_epoch(3)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"every": 0}, "every=0 must be"),
        ({"threads": 0}, "threads=0 must be"),
        ({"num_steps": -1}, "num_steps"),
        ({"device": "cuda:77"}, "cuda:77|CUDA"),
    ],
)
def test_mistakes_are_refused_and_leave_no_process(options, said):
    before = multiprocessing.active_children()
    with pytest.raises(UserError, match=said):
        SharedPainter.load(NETWORK, **SIZES | options)
    assert multiprocessing.active_children() == before


def test_mistakes_are_those_of_a_painter(shared):
    item = region(0)
    with pytest.raises(UserError, match="image: its values, .* not in HU"):
        shared.paint(item["image"] / 1000, item["lesion"])
    assert shared.paint(item["image"], item["lesion"]).shape == item["image"].shape


def test_a_request_that_makes_no_sense_is_answered_and_the_process_goes_on(shared):
    with pytest.raises(RuntimeError, match="in the painter's process: KeyError"):
        in_time(lambda: ask(shared.address, "paint", {"boxes": [{}]}))
    item = region(0)
    assert shared.paint(item["image"], item["lesion"]).shape == item["image"].shape


def test_an_epoch_that_is_not_said_a_killed_process_and_closing():
    before = set(multiprocessing.active_children())
    painter, item = SharedPainter.load(NETWORK, **SIZES), region(0)
    (process,), place = set(multiprocessing.active_children()) - before, Path(painter.address.place)
    with pytest.raises(UserError, match=r"call set_epoch\(epoch\)"):
        RandPaintLesiond("image", "lesion", painter)(item)
    os.kill(process.pid, signal.SIGSTOP)  # asked, and killed before it answers
    threading.Timer(0.5, process.kill).start()
    with pytest.raises(UserError, match="process has ended"):
        painter.paint(item["image"], item["lesion"])
    painter.close()
    assert process.exitcode == -signal.SIGKILL
    place.unlink()
    if not any(place.parent.iterdir()):  # it may also hold sockets of this process
        place.parent.rmdir()

    with SharedPainter.load(NETWORK, **SIZES) as painter:
        (process,), place = set(multiprocessing.active_children()) - before, Path(painter.address.place)
        assert place.exists()
    painter.close()
    assert process.exitcode == 0 and not place.exists()
    with pytest.raises(UserError, match="process has ended"):
        painter.set_epoch(1)


def test_one_that_ends_while_it_starts_is_noticed_though_a_fork_holds_its_pipe(monkeypatch):
    """A loader's worker that was forked meanwhile has all open that its parent had."""
    held, pipe = [], multiprocessing.Pipe

    def shared_pipe(_context, duplex=True):
        ends = pipe(duplex)
        held.append(os.dup(ends[1].fileno()))
        return ends

    monkeypatch.setattr(type(multiprocessing.get_context("spawn")), "Pipe", shared_pipe)
    monkeypatch.setattr(shared_painter, "serve", os.getpid)  # which refuses its arguments
    with pytest.raises(UserError, match="ended before it was ready"):
        in_time(lambda: SharedPainter.load(NETWORK, **SIZES))
    os.close(*held)


def test_a_forked_worker_that_drops_its_painter_does_not_end_it(shared):
    worker = os.fork()
    if worker == 0:
        try:
            shared.close()
        finally:
            os._exit(0)
    os.waitpid(worker, 0)
    item = region(0)
    assert shared.paint(item["image"], item["lesion"]).shape == item["image"].shape


PARENT = """
import os, signal, sys, time
from LeFusion import SharedPainter

if __name__ == "__main__":
    painter = SharedPainter.load(sys.argv[1], diffusion_depth_size=8, diffusion_img_size=16, device="cpu")
    import multiprocessing
    print(multiprocessing.active_children()[0].pid, painter.address.place, flush=True)
    if sys.argv[2] == "killed":
        if not os.fork():  # a worker that goes on, with all that its parent had open
            time.sleep(60)
        time.sleep(60)
"""


@pytest.mark.parametrize("ends", ["killed", "regularly"])
def test_it_ends_with_the_program_that_made_it(tmp_path, ends):
    script = tmp_path / "train.py"
    script.write_text(PARENT)
    program = subprocess.Popen(
        [sys.executable, script, NETWORK, ends],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
        start_new_session=True,
    )
    try:
        pid, place = program.stdout.readline().split()
        if ends == "killed":
            assert is_running(int(pid))
            program.kill()
        program.wait(60)
        assert eventually(lambda: not is_running(int(pid)) and not Path(place).parent.exists())
    finally:
        if ends == "killed":
            os.killpg(program.pid, signal.SIGKILL)  # the worker
