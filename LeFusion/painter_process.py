"""The process of a SharedPainter: takes boxes from other processes over a socket, paints, answers.

A request is one connection (AF_UNIX, with a key that only this program knows), so that processes may be
forked and threads may ask at once. Messages are tensors, numbers and texts, read with weights_only: nothing
in them can run code, and none lies in shared memory.
"""

import io
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from typing import Any

import torch
from torch import Tensor

from LeFusion.errors import UserError
from LeFusion.painter import Painter
from LeFusion.prepared import Prepared
from LeFusion.runtime.memory import LARGEST_BATCH, BatchSize

BACKLOG = 128  # processes that may ask at once
LOOKS_EVERY_S = 1  # whether the process that it belongs to is there
BROKEN = (OSError, EOFError, AuthenticationError)
Request = tuple[Connection, dict[str, Any]]


@dataclass(frozen=True)
class Address:
    """Where the process listens, and the key that it wants."""

    place: str
    key: bytes


def ask(address: Address, what: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of the process. Raises UserError for mistakes, and when the process has ended."""
    message = _packed({"what": what, **request})
    try:
        with Client(address.place, authkey=address.key) as connection:
            connection.send_bytes(message)
            answer = _unpacked(connection.recv_bytes())
    except BROKEN:
        raise UserError("the painter's process has ended, or was closed; load the painter again") from None
    if "error" in answer:
        raise UserError(answer["error"]) if answer["mistake"] else RuntimeError(answer["error"])
    return answer


def serve(
    tells: Connection, key: bytes, weights: str, settings: dict[str, Any], threads: int, keep_bytes: int
) -> None:
    """The process: loads the painter, tells where it listens, and works until its parent has ended."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which ends this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    torch.set_num_threads(threads)
    try:
        painter = Painter.load(weights, **settings)
    except UserError as error:
        tells.send({"error": str(error)})
        return
    requests: queue.Queue[Request] = queue.Queue()
    with Listener(backlog=BACKLOG) as listener:
        arguments = listener, key, Shelf(keep_bytes), requests
        threading.Thread(target=_accept, args=arguments, daemon=True).start()
        tells.send({"place": listener.address, "device": str(painter.device)})
        tells.close()
        size = BatchSize(LARGEST_BATCH, "try precision=bf16, or smaller lesions")
        while os.getppid() == parent:
            try:
                waiting = [requests.get(timeout=LOOKS_EVERY_S)]
            except queue.Empty:
                continue
            while not requests.empty():
                waiting.append(requests.get())
            try:
                paint_all(painter, size, waiting)
            except Exception as error:  # of none of them alone; nobody may wait for ever
                for connection, _ in waiting:
                    _reply(connection, _failure(error))


class Shelf:
    """The epoch, and what is kept for others: at most so many bytes, what was not used for longest goes."""

    def __init__(self, most_bytes: int):
        self.most_bytes, self.used = most_bytes, 0
        self.epoch: int | None = None
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            if request["what"] == "set_epoch":
                self.epoch = request["epoch"]
            elif request["what"] == "keep":
                self._keep(request["key"], _packed(request["value"]))
            elif request["what"] == "kept":
                held = self._held.get(request["key"])
                if held is None:
                    return {"kept": None}
                self._held.move_to_end(request["key"])
                return {"kept": _unpacked(held)}
            return {"epoch": self.epoch}

    def _keep(self, key: str, value: bytes) -> None:
        self.used += len(value) - len(self._held.pop(key, b""))
        self._held[key] = value
        while self.used > self.most_bytes:
            self.used -= len(self._held.popitem(last=False)[1])


def paint_all(painter: Painter, size: BatchSize, waiting: Sequence[Request]) -> None:
    """Paints the boxes of all requests, those of one kind together, and answers."""
    boxes = [[Prepared.from_dict(box) for box in request["boxes"]] for _, request in waiting]
    alike: dict[tuple, list[tuple[int, int]]] = {}
    for number, asked in enumerate(boxes):
        for place, box in enumerate(asked):
            alike.setdefault((box.lesions.shape, box.guide is None), []).append((number, place))
    painted: dict[tuple[int, int], Tensor] = {}
    failed: dict[int, Exception] = {}

    def paint(batch: Sequence[tuple[int, int]]) -> None:
        run = size.run(batch, lambda some: painter.run([boxes[number][place] for number, place in some]))
        for some, patches in run:
            painted.update(zip(some, patches, strict=True))

    for batch in alike.values():
        try:
            paint(batch)
        except Exception:
            for one in batch:  # whose fault it is
                try:
                    paint([one])
                except Exception as error:
                    failed[one[0]] = error
    for number, (connection, _) in enumerate(waiting):
        if number in failed:
            answer: dict[str, Any] = _failure(failed[number])
        else:
            answer = {"painted": torch.stack([painted[number, place] for place in range(len(boxes[number]))])}
        _reply(connection, answer)


def _failure(error: Exception) -> dict[str, Any]:
    mistake = isinstance(error, UserError)
    if not mistake:
        traceback.print_exception(error)
    return {"error": str(error) if mistake else f"in the painter's process: {error!r}", "mistake": mistake}


def _accept(listener: Listener, key: bytes, shelf: Shelf, requests: "queue.Queue[Request]") -> None:
    """Without an end: where nobody accepts, all who ask wait for ever."""
    while True:
        connection = None
        try:
            connection = listener.accept()
            threading.Thread(target=_receive, args=(connection, key, shelf, requests), daemon=True).start()
        except Exception:  # one that gave up, or too many files or threads for now
            if connection is not None:
                connection.close()
            time.sleep(0.01)


def _receive(connection: Connection, key: bytes, shelf: Shelf, requests: "queue.Queue[Request]") -> None:
    """In a thread of its own, so that a process that stops in the middle, even of its greeting, holds nobody
    up."""
    try:
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        request = _unpacked(connection.recv_bytes())
        if request["what"] == "paint":
            requests.put((connection, request))
        else:
            _reply(connection, shelf.answer(request))
    except BROKEN:  # one that gave up, or has another key
        connection.close()
    except Exception as error:
        _reply(connection, _failure(error))


def _reply(connection: Connection, answer: Mapping[str, Any]) -> None:
    try:
        connection.send_bytes(_packed(answer))
    except BROKEN:
        pass  # who asked has ended
    finally:
        connection.close()


def _packed(message: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(dict(message), file)
    return file.getvalue()


def _unpacked(message: bytes) -> dict[str, Any]:
    return torch.load(io.BytesIO(message), weights_only=True)
