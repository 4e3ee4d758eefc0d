"""A server whose network is a simple sum, and one that a test can hold while it paints."""

import io
import socket
import threading
import time
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest

EXTRA = ("fastapi", "uvicorn", "python_multipart", "swagger_ui_bundle", "httpx")
TOKEN = "a token of the tests"


@pytest.fixture(autouse=True)
def extra():
    """Skips, with the reason, where the extra is not installed."""
    for name in EXTRA:
        pytest.importorskip(name, reason=f"{name} is missing: pip install 'lefusion[serve]' httpx")


class Adder:
    """Instead of an Engine: adds 100 HU under the mask, in four steps. gate: painting waits while it is
    closed; painting: set while a job runs."""

    textures, device = ("realistic", "mixture", "solid", "ground-glass"), "cpu"

    def __init__(self):
        self.gate, self.painting, self.calls = threading.Event(), threading.Event(), []
        self.gate.set()

    def paint(self, region, texture, seed, advance, jump=None):
        self.calls.append((texture, seed, jump, region))
        self.painting.set()
        for step in range(4):
            while not self.gate.wait(0.01):
                advance(step / 4)
            advance(step / 4)
        mask = region.mask
        if mask is None:
            mask = np.zeros(region.image.shape, np.uint8)
            mask[tuple(int(c) for c in region.centre)] = 1
        return {"image": region.image + (100 * mask.astype(int)).astype(region.image.dtype), "mask": mask}


@pytest.fixture
def engine() -> Adder:
    return Adder()


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.fixture
def pack():
    """-> pack(name=array, ...): the .npz file."""
    return npz


@pytest.fixture
def region() -> dict[str, np.ndarray]:
    """Arrays of a request."""
    image = np.random.default_rng(0).integers(-1000, 400, (9, 10, 11)).astype(np.int16)
    mask = np.zeros(image.shape, np.uint8)
    mask[3:6, 4:7, 5:8] = 1
    return {"image": image, "affine": np.diag([-0.7, -0.7, 1.25, 1.0]), "mask": mask}


@pytest.fixture
def pickled() -> bytes:
    """An .npz file that would create a file where it is unpickled."""
    file = io.BytesIO()
    np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        for name in ("image", "affine", "mask"):
            members.writestr(f"{name}.npy", file.getvalue())
    return archive.getvalue()


class Bomb:
    def __reduce__(self):
        return open, ("exploded", "w")


@pytest.fixture
def serving(engine):
    """-> serving(**limits, slicer=False): a client of the server, with the token."""
    from fastapi.testclient import TestClient

    from LeFusion.server.app import make_app
    from LeFusion.server.lefusion_slicer import add_lefusion_slicer
    from LeFusion.server.limits import Limits

    @contextmanager
    def start(slicer=False, token=TOKEN, **limits):
        app = make_app(engine, Limits(**limits), token, extra=add_lefusion_slicer if slicer else None)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with TestClient(app, "http://127.0.0.1:8888", headers=headers) as client:
            client.app = app
            yield client
        engine.gate.set()

    return start


@pytest.fixture
def wait():
    """-> wait(condition): until it is true."""

    def until(condition, seconds=20):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.02)

    return until


@pytest.fixture
def listening(engine, wait):
    """-> listening(**limits): (address, app) of a server that answers on a port of this machine."""
    uvicorn = pytest.importorskip("uvicorn")
    from LeFusion.server.app import make_app
    from LeFusion.server.lefusion_slicer import add_lefusion_slicer
    from LeFusion.server.limits import Limits

    @contextmanager
    def start(**limits):
        app = make_app(engine, Limits(**limits), TOKEN, extra=add_lefusion_slicer)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=2))
        place = socket.socket()
        place.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        try:
            wait(lambda: server.started)
            yield f"http://127.0.0.1:{place.getsockname()[1]}", app
        finally:
            engine.gate.set()
            server.should_exit = True
            thread.join()
            place.close()

    return start
