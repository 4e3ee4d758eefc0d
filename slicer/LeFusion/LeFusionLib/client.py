"""Talks to `lefusion serve`. Python's own HTTP client and NumPy, nothing else."""

from __future__ import annotations

import io
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import numpy as np

SECONDS = 30  # that the server may take to answer a call
POLL = 0.2  # seconds between two looks at a job
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServerError(Exception):
    """The server refused, or is not there: one line that says why."""


class Client:
    """A server, http://127.0.0.1:8888 by default, and the token that it printed."""

    def __init__(self, address: str = "http://127.0.0.1:8888", token: str = ""):
        parts = urllib.parse.urlsplit(address.strip().rstrip("/"))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerError(f"{address!r} is no address; write http://127.0.0.1:8888")
        self.address, self.token = parts.geturl(), token.strip()
        # A proxy of the network has no business between two programs of one machine
        proxies = [urllib.request.ProxyHandler({})] if parts.hostname in LOOPBACK else []
        self._opener = urllib.request.build_opener(*proxies)

    def health(self) -> dict:
        """Raises ServerError where no server of LeFusion answers."""
        return self._json("GET", "/health")

    def textures(self) -> list[str]:
        """What there is to choose from; the first is the server's default."""
        return self._json("GET", "/v1/textures")

    def submit(self, arrays: dict, texture: str, seed: int, diameter_mm: float | None) -> dict:
        """Starts a job; its state. texture: "": the server's default."""
        body = io.BytesIO()
        np.savez_compressed(body, **arrays)
        query = {"seed": int(seed)}
        if texture:
            query["texture"] = texture
        if diameter_mm is not None:
            query["diameter_mm"] = float(diameter_mm)
        return self._json("POST", f"/v1/jobs?{urllib.parse.urlencode(query)}", body.getvalue())

    def state(self, job: dict) -> dict:
        return self._json("GET", f"/v1/jobs/{job['id']}")

    def result(self, job: dict) -> dict:
        """The arrays image and mask."""
        content = self._call("GET", f"/v1/jobs/{job['id']}/result")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("image", "mask")}

    def drop(self, job: dict) -> None:
        """Cancels the job, or forgets its result."""
        self._call("DELETE", f"/v1/jobs/{job['id']}")

    def _json(self, method: str, path: str, body: bytes | None = None):
        content = self._call(method, path, body)
        try:
            return json.loads(content)
        except ValueError:
            raise ServerError(f"{self.address} is no server of LeFusion") from None

    def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.address + path, body, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        if body is not None:
            request.add_header("Content-Type", "application/octet-stream")
        try:
            with self._opener.open(request, timeout=SECONDS) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise ServerError(_reason(error)) from None
        except (OSError, ValueError) as error:  # not there, too slow, or no HTTP
            reason = getattr(error, "reason", error)
            raise ServerError(
                f"{self.address} does not answer ({reason}); start it: lefusion serve"
            ) from None


def _reason(error: urllib.error.HTTPError) -> str:
    """What a refusal says, in one line."""
    try:
        detail = json.loads(error.read())["detail"]
    except (ValueError, KeyError, TypeError, OSError):
        detail = error.reason
    if isinstance(detail, list):  # of parameters, each with its place
        detail = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in detail)
    return " ".join(str(detail).split())


class Painting:
    """A lesion that is being painted, in a thread of its own: look at `progress`, `message` and `ended`.

    result: the arrays image and mask, once it has ended well; None where it failed or was cancelled, then
    `message` says why.
    """

    def __init__(
        self, client: Client, arrays: dict, texture: str, seed: int, diameter_mm: float | None = None
    ):
        self.progress, self.message, self.result, self.ended = 0.0, "sending", None, False
        self._cancelled = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(client, arrays, texture, seed, diameter_mm), daemon=True
        )
        self._thread.start()

    def cancel(self) -> None:
        """The thread ends soon, and the server's job with it."""
        self._cancelled.set()

    def give_time(self, seconds: float) -> None:
        """Lets the thread run: Slicer's event loop holds Python's lock between two calls of Python."""
        self._thread.join(seconds)

    def _run(self, client: Client, *request) -> None:
        try:
            self._paint(client, *request)
        except ServerError as error:
            self.message = str(error)
        except Exception as bug:  # a thread has nobody to tell
            self.message = f"a bug of the LeFusion module: {type(bug).__name__}: {bug}"
        self.ended = True

    def _paint(
        self, client: Client, arrays: dict, texture: str, seed: int, diameter_mm: float | None
    ) -> None:
        job = client.submit(arrays, texture, seed, diameter_mm)
        try:
            while job["status"] in ("waiting", "running") and not self._cancelled.is_set():
                self.progress = job["progress"]
                before = job["before"]
                self.message = f"waiting for {before} others" if before else "painting"
                time.sleep(POLL)
                job = client.state(job)
            if self._cancelled.is_set():
                self.message = "cancelled"
            elif job["status"] == "done":
                result = client.result(job)
                self.progress, self.message, self.result = 1.0, "done", result
            else:
                self.message = job["error"] or job["status"]
        finally:
            client.drop(job)
