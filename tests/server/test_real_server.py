"""A real uvicorn on a port: many clients at once, slow ones, and ones that go away."""

import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

httpx = pytest.importorskip("httpx")
TOKEN = "a token of the tests"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def test_100_requests_at_once(listening, wait, engine, pack, region):
    """Those that the queue holds are taken, the others told to come back; the server stays well."""
    content = pack(**region)
    engine.gate.clear()
    with listening(waiting=8) as (address, app):

        def ask(_):
            return httpx.post(f"{address}/v1/jobs", content=content, headers=HEADERS, timeout=60)

        with ThreadPoolExecutor(100) as pool:
            answers = list(pool.map(ask, range(100)))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {202, 503} and 8 <= codes.count(202) <= 9
        assert httpx.get(f"{address}/health").json()["status"] == "ok"
        engine.gate.set()
        wait(lambda: app.state.service.queue.counts() == {"waiting": 0, "running": 0})
        names = [answer.json()["id"] for answer in answers if answer.status_code == 202]
        for name in names:
            assert httpx.get(f"{address}/v1/jobs/{name}", headers=HEADERS).json()["status"] == "done"
            httpx.delete(f"{address}/v1/jobs/{name}", headers=HEADERS)
        assert app.state.service.queue._jobs == {}


def test_the_answer_to_an_oversize_upload_arrives(listening, wait):
    with listening(upload_bytes=1_000_000) as (address, _):
        answer = httpx.post(f"{address}/v1/jobs", content=bytes(3_000_000), headers=HEADERS)
        assert answer.status_code == 413 and "larger than 1 MB" in answer.json()["detail"]


def open_upload(address, length) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(
        f"POST /v1/jobs HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {length}\r\n\r\n".encode()
    )
    return connection


def test_a_slow_client_is_408_and_frees_its_place(listening, wait, pack, region):
    with listening(upload_seconds=0.3, waiting=1) as (address, app):
        with open_upload(address, 1000) as slow:
            slow.sendall(b"a few")
            wait(lambda: app.state.service.queue._reserved == 1)
            refused = httpx.post(f"{address}/v1/jobs", content=pack(**region), headers=HEADERS)
            assert refused.status_code == 503
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        wait(lambda: app.state.service.queue._reserved == 0)
        taken = httpx.post(f"{address}/v1/jobs", content=pack(**region), headers=HEADERS)
        assert taken.status_code == 202


def test_a_client_that_goes_away_in_its_upload_leaves_nothing(listening, wait, engine, capsys):
    with listening() as (address, app):
        with open_upload(address, 1000) as connection:
            connection.sendall(b"a few")
            wait(lambda: app.state.service.queue._reserved == 1)
        wait(lambda: app.state.service.queue._reserved == 0)
        assert app.state.service.queue._jobs == {} and engine.calls == []
        assert httpx.get(f"{address}/health").json()["status"] == "ok"
    assert capsys.readouterr().err == ""  # no traceback


def test_a_run_ends_with_its_client(listening, wait, engine, pack):
    """The client lefusion-slicer waits in one request; when it goes away, its job stops."""
    crop = pack(data=np.zeros((8, 8, 8), np.int16), histogram=1, boxes_numpy=[0, 8, 0, 8, 0, 8])
    engine.gate.clear()
    with listening() as (address, app):
        assert httpx.post(f"{address}/upload", files={"file": ("a.npz", crop)}).status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/run_script", data={"input": ["a.npz"]}, timeout=0.5)
        wait(lambda: app.state.service.queue.counts() == {"waiting": 0, "running": 0})
        (session,) = app.state.sessions._sessions.values()
        wait(lambda: not session.busy)
        assert session.results == {} and app.state.service.queue._jobs == {}


def test_while_a_run_goes_on_its_session_takes_no_other(listening, wait, engine, pack):
    crop = pack(data=np.zeros((8, 8, 8), np.int16), histogram=1, boxes_numpy=[0, 8, 0, 8, 0, 8])
    engine.gate.clear()
    with listening() as (address, _):
        httpx.post(f"{address}/upload", files={"file": ("a.npz", crop)})
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(httpx.post, f"{address}/run_script", data={"input": ["a.npz"]}, timeout=30)
            assert engine.painting.wait(10)
            assert httpx.post(f"{address}/upload", files={"file": ("a.npz", crop)}).status_code == 409
            second = httpx.post(f"{address}/run_script", data={"input": ["a.npz"]})
            assert second.status_code == 409 and second.text.startswith("Error: ")
            engine.gate.set()
            assert first.result().text.startswith("Success")
