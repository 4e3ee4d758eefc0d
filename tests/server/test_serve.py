"""The command `lefusion serve`: what it refuses, and one real start."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from LeFusion.runtime.commandline import PROJECT_ROOT
from LeFusion.server import serve

httpx = pytest.importorskip("httpx")
SCRIPT = PROJECT_ROOT / "LeFusion" / "server" / "serve.py"


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--host", "0.0.0.0", "--no-token"], "--no-token: with --host=0.0.0.0 others could use"),
        (["--host", "0.0.0.0", "--lefusion-slicer"], "--lefusion-slicer: its client sends no token"),
        (["--port", "70000"], "--port=70000 must be from 0 to 65535"),
        (["--max-mb", "0"], "--max-mb=0.0 must be above 0"),
        (["--queue", "-1"], "--queue=-1 must be above 0"),
        (["--job-seconds", "-1"], "--job-seconds=-1.0 must be above 0"),
        (["--num-steps", "0"], "--num-steps=0 must be at least 1"),
        (["--weights", "nothing"], "weights='nothing' is no file and no name"),
        (["--data-type", "emidec", "--weights", "emidec"], "data_type emidec"),
    ],
)
def test_what_cannot_be_is_one_line(command_line, flags, line):
    code, out, err = command_line(serve.main, *flags)
    assert code == 1 and line in err and err.count("\n") == 1


def test_who_reads_the_address_and_calls_at_once_is_not_refused():
    with serve._listen("127.0.0.1", 0) as listening:
        socket.create_connection(listening.getsockname(), timeout=5).close()


def test_without_the_extra_it_says_how_to_get_it(command_line, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = command_line(serve.main)
    assert code == 1 and "pip install 'lefusion[serve]'" in err


@pytest.mark.slow
def test_it_starts_prints_a_token_and_stops(tmp_path):
    command = [sys.executable, SCRIPT, "--port", "0", "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        lines = []
        for line in server.stdout:
            lines.append(line)
            if line.startswith("token: "):
                break
        text = "".join(lines)
        address = re.search(r"http://127\.0\.0\.1:\d+", text)[0]
        token = re.search(r"token: (\S{20,})", text)[1]
        for _ in range(200):
            try:
                health = httpx.get(f"{address}/health")
                break
            except httpx.ConnectError:
                continue
        assert health.json()["status"] == "ok"
        assert httpx.get(f"{address}/v1/textures").status_code == 401
        answer = httpx.get(f"{address}/v1/textures", headers={"Authorization": f"Bearer {token}"})
        assert "solid" in answer.json()
        server.send_signal(signal.SIGINT)
        assert server.wait(20) in (0, 130, -2), server.stdout.read()
    assert list(tmp_path.iterdir()) == []
