"""The process of a SharedPainter from within: who may ask, what is kept, whose mistake is whose."""

import socket
import threading
from contextlib import contextmanager
from multiprocessing import AuthenticationError, Pipe
from multiprocessing.connection import Client, Listener
from queue import Queue

import pytest
import torch
from waiting import in_time

from LeFusion.errors import UserError
from LeFusion.guidance import Guide
from LeFusion.painter_process import Address, Shelf, _accept, _packed, _unpacked, ask, paint_all
from LeFusion.prepared import Prepared
from LeFusion.runtime.memory import BatchSize


def box(value: float, size: int = 3) -> Prepared:
    lesions = torch.ones((1, size, 2, 2), dtype=torch.bool)
    guide = Guide.whole(lesions[None], torch.ones(1, 4))
    return Prepared(torch.full((1, size, 2, 2), value), lesions, lesions, (1, "a", 1), torch.ones(4), guide)


class Doubles:
    """A painter that doubles, and refuses 13."""

    def __init__(self):
        self.batches = []

    def run(self, prepared):
        self.batches.append(len(prepared))
        if any((one.image == 13).any() for one in prepared):
            raise UserError("13 is refused")
        return torch.stack([one.image * 2 for one in prepared])


def asked(*boxes: Prepared):
    ours, theirs = Pipe()
    return ours, (theirs, {"what": "paint", "boxes": [_unpacked(_packed(one.as_dict())) for one in boxes]})


def answer_of(connection) -> dict:
    return _unpacked(connection.recv_bytes())


def test_boxes_of_one_size_are_painted_together_and_a_mistake_stays_with_whom_it_is():
    painter = Doubles()
    first, second, third = asked(box(1), box(2)), asked(box(13)), asked(box(3), box(4))
    other = asked(box(5, size=4))
    paint_all(painter, BatchSize(8, ""), [one[1] for one in (first, second, other)])
    assert painter.batches == [3, 1, 1, 1, 1]  # together; each alone, as one was refused; the other size
    assert answer_of(first[0])["painted"].unique().tolist() == [2, 4]
    assert answer_of(second[0]) == {"error": "13 is refused", "mistake": True}
    assert answer_of(other[0])["painted"].shape == (1, 1, 4, 2, 2)
    first[0].close()
    paint_all(painter, BatchSize(8, ""), [third[1], asked(box(1))[1]])  # nobody waits for the second
    assert painter.batches[5:] == [3] and answer_of(third[0])["painted"].unique().tolist() == [6, 8]


def test_a_box_is_the_same_on_the_other_side():
    image = torch.arange(48.0).reshape(1, 3, 4, 4)[:, :, :2, :2]
    sent = box(0)
    message = _packed(Prepared(image, sent.lesions, sent.edit, sent.address, None, None).as_dict())
    got = Prepared.from_dict(_unpacked(message))
    assert torch.equal(got.image, image) and got.address == sent.address and got.guide is None
    got = Prepared.from_dict(_unpacked(_packed(sent.as_dict())))
    assert torch.equal(got.guide.layers, sent.guide.layers)
    assert torch.equal(got.guide.histograms[0], sent.guide.histograms[0])


def test_the_shelf_holds_no_more_than_it_may():
    value = {"box": torch.zeros(1000)}
    size = len(_packed(value))
    shelf = Shelf(2 * size)
    for key in "abc":
        shelf.answer({"what": "keep", "key": key, "value": value})
        shelf.answer({"what": "kept", "key": "a"})  # a is used, b is not
    found = {key: shelf.answer({"what": "kept", "key": key})["kept"] is not None for key in "abc"}
    assert found == {"a": True, "b": False, "c": True} and shelf.used == 2 * size
    shelf.answer({"what": "keep", "key": "a", "value": value})
    assert shelf.used == 2 * size


@contextmanager
def listening(requests=None):
    """A listener whose requests are accepted."""
    with Listener() as listener:
        arguments = (listener, b"key", Shelf(0), requests or Queue())
        threading.Thread(target=_accept, args=arguments, daemon=True).start()
        yield listener


def test_who_stops_in_the_middle_of_a_greeting_holds_nobody_up():
    with listening() as listener, socket.socket(socket.AF_UNIX) as silent:
        silent.connect(listener.address)
        assert (
            in_time(lambda: ask(Address(listener.address, b"key"), "set_epoch", {"epoch": 4}))["epoch"] == 4
        )


def test_accepting_goes_on_where_there_is_no_thread_left(monkeypatch):
    class Refused(threading.Thread):
        failed = 0

        def start(self):
            if self._target.__name__ == "_receive" and Refused.failed < 2:
                Refused.failed += 1
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(threading, "Thread", Refused)
    with listening() as listener:
        address = Address(listener.address, b"key")
        for _ in range(2):
            with pytest.raises(UserError, match="process has ended"):
                in_time(lambda: ask(address, "epoch", {}))
        assert in_time(lambda: ask(address, "epoch", {})) == {"epoch": None}


def test_who_asks_something_odd_is_told():
    with listening() as listener, pytest.raises(RuntimeError, match="in the painter's process: KeyError"):
        ask(Address(listener.address, b"key"), "keep", {})


def test_only_who_has_the_key_may_ask():
    with listening() as listener:
        with pytest.raises(AuthenticationError):
            Client(listener.address, authkey=b"other")
        Client(listener.address, authkey=b"key").close()  # asks nothing
        address = Address(listener.address, b"key")
        assert ask(address, "set_epoch", {"epoch": 4}) == {"epoch": 4}
        assert ask(address, "epoch", {}) == {"epoch": 4}
