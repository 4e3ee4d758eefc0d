"""The four calls of the community's client lefusion-slicer, so that existing installations work.

That client sends no token, and names its files the same for everybody. What it uploads and what is made of it
is kept by session: the client's address, or the word W where its address ends with /s/W ("8888/s/W" in its
field for the port). Names of files are keys of a dictionary, never paths.
"""

import asyncio
import re
import time
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import parse_qsl

import numpy as np
import torch
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import FormParser, parse_options_header

from DiffMask.placement.spheres import draw_diameter
from LeFusion.diffusion import address_seed
from LeFusion.errors import UserError
from LeFusion.server.arrays import read_arrays, write_arrays
from LeFusion.server.calls import Service, read_body
from LeFusion.server.engine import Engine, Region, check_image
from LeFusion.server.jobs import Job, JobQueue, QueueFull
from LeFusion.server.limits import UNPACKED, Limits

SPACING_MM = (0.96, 0.96, 1.25)  # of the client's crops, i, j, k
AFFINE = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])  # i to the left, j to the back, k up
DIAMETERS_MM = (8.0, 20.0)  # that are drawn, as the client says none
ARRAYS = ("data", "histogram", "boxes_numpy")
MOST_FILES, MOST_SESSIONS, MOST_FIELDS = 32, 64, 100
MOST_JUMPS, MOST_AT_ONCE = 20, 1_000_000
SESSION = re.compile(r"[A-Za-z0-9_-]{8,64}")


@dataclass(eq=False)
class Session:
    """uploads, results: by name. seen: when its client last called. busy: a run is going on."""

    uploads: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    results: dict[str, bytes] = field(default_factory=dict)
    seen: float = field(default_factory=time.monotonic)
    busy: bool = False

    def flush(self) -> None:
        self.uploads.clear()
        self.results.clear()


class Sessions:
    """Those of all clients; one that is not heard of for a while is forgotten."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self._sessions: dict[str, Session] = {}

    def of(self, request: Request) -> Session:
        word = request.path_params.get("session")
        if word is not None and not SESSION.fullmatch(word):
            raise HTTPException(404, "the word of a session has 8 to 64 letters, digits, - or _")
        self._forget()
        key = f"s/{word}" if word else f"address {request.client.host if request.client else ''}"
        if key not in self._sessions and len(self._sessions) >= MOST_SESSIONS:
            raise QueueFull
        session = self._sessions.setdefault(key, Session())
        session.seen = time.monotonic()
        return session

    def bytes(self) -> int:
        """That all uploads and results take."""
        return sum(
            sum(array.nbytes for arrays in session.uploads.values() for array in arrays.values())
            + sum(map(len, session.results.values()))
            for session in self._sessions.values()
        )

    def _forget(self) -> None:
        now = time.monotonic()
        for key, session in list(self._sessions.items()):
            if now - session.seen > self.limits.kept_seconds and not session.busy:
                del self._sessions[key]


Fields = dict[str, list[str]]
Files = dict[str, tuple[str, bytes]]  # by field: (base name, content)


async def read_form(request: Request, limits: Limits) -> tuple[Fields, Files]:
    """What a form holds, read in memory. Raises UserError for what is no form."""
    content = await read_body(request, limits)
    kind, options = parse_options_header(request.headers.get("content-type"))
    fields: Fields = {}
    files: Files = {}

    def on_field(part) -> None:
        fields.setdefault((part.field_name or b"").decode(errors="replace"), []).append(
            (part.value or b"").decode(errors="replace")
        )

    def on_file(part) -> None:
        part.file_object.seek(0)
        name = base_name((part.file_name or b"").decode(errors="replace"))
        files[(part.field_name or b"").decode(errors="replace")] = name, part.file_object.read()

    config = {"MAX_MEMORY_FILE_SIZE": limits.upload_bytes + 1}  # larger ones would go to the disk
    try:
        if kind == b"application/x-www-form-urlencoded":
            for name, value in parse_qsl(content.decode(errors="replace"), max_num_fields=MOST_FIELDS):
                fields.setdefault(name, []).append(value)
        else:
            boundary = options.get(b"boundary")
            parser = FormParser(kind.decode(), on_field, on_file, boundary=boundary, config=config)
            parser.write(content)
            parser.finalize()
    except (FormParserError, ValueError) as error:
        raise UserError(f"the body is no form ({' '.join(str(error).split())[:100]})") from None
    return fields, files


def base_name(path: str) -> str:
    """What of a client's path counts."""
    return PurePosixPath(path.replace("\\", "/")).name[:100]


def add_lefusion_slicer(app: FastAPI, service: Service) -> None:
    """Adds the calls, with and without the word of a session."""
    engine, queue, limits = service.engine, service.queue, service.limits
    sessions = Sessions(limits)
    app.state.sessions = sessions

    async def upload(request: Request) -> Response:
        session = sessions.of(request)
        if session.busy:
            raise HTTPException(409, "a run of this session is going on")
        _, files = await read_form(request, limits)
        name, content = files.get("file", ("", b""))
        if not name:
            raise UserError("send a form with a file under the name `file`")
        arrays = await run_in_threadpool(_crop, name, content, limits)
        if len(session.uploads) >= MOST_FILES and name not in session.uploads:
            raise HTTPException(413, f"a session holds {MOST_FILES} files at most; flush_memory removes them")
        if sessions.bytes() + sum(array.nbytes for array in arrays.values()) > UNPACKED * limits.upload_bytes:
            raise QueueFull
        session.uploads[name] = arrays
        return PlainTextResponse(f"File uploaded successfully: {name}")

    async def run_script(request: Request) -> Response:
        session = sessions.of(request)
        try:
            fields, _ = await read_form(request, limits)
            names, jump = _run_fields(fields, session)
        except UserError as error:
            return PlainTextResponse(f"Error: {error}", 422)
        if session.busy:
            return PlainTextResponse("Error: a run of this session is going on", 409)
        session.busy = True
        try:
            return await _run(request, engine, queue, session, names, jump)
        finally:
            session.busy = False

    async def download_file(request: Request) -> Response:
        session = sessions.of(request)
        fields, _ = await read_form(request, limits)
        name = base_name((fields.get("output") or [""])[-1])
        if name not in session.results:
            raise HTTPException(404, f"there is no result {name!r} in this session")
        return Response(session.results[name], media_type="application/octet-stream")

    async def flush_memory(request: Request) -> Response:
        sessions.of(request).flush()
        return PlainTextResponse("Flushed: uploads and results of this session are gone")

    for prefix in ("", "/s/{session}"):
        for name, method, call in (
            ("upload", "POST", upload),
            ("run_script", "POST", run_script),
            ("download_file", "GET", download_file),
            ("flush_memory", "GET", flush_memory),
        ):
            app.add_api_route(f"{prefix}/{name}", call, methods=[method], tags=["lefusion-slicer"])


def _crop(name: str, content: bytes, limits: Limits) -> dict[str, np.ndarray]:
    arrays = read_arrays(content, ARRAYS, UNPACKED * limits.upload_bytes)
    missing = [array for array in ARRAYS if array not in arrays]
    if missing:
        raise UserError(f"{name}: lacks {', '.join(missing)}")
    check_image("data", arrays["data"], limits.voxels)
    histogram, boxes = arrays["histogram"], arrays["boxes_numpy"]
    if histogram.size != 1 or histogram.item() not in (1, 2, 3):
        raise UserError(f"{name}: histogram must be 1, 2 or 3")
    if boxes.size != 6:
        raise UserError(f"{name}: boxes_numpy must hold 6 numbers: k, j, i from and to")
    return arrays


def _run_fields(fields: dict[str, list[str]], session: Session) -> tuple[list[str], tuple[int, int]]:
    names = [base_name(name) for name in fields.get("input", [])]
    unknown = [name for name in names if name not in session.uploads]
    if not names or unknown:
        raise UserError(
            f"upload {', '.join(unknown) or 'crops'} first" if unknown else "name uploads as `input`"
        )
    jump = _number(fields, "jump_length", MOST_JUMPS), _number(fields, "jump_n_sample", MOST_JUMPS)
    _number(fields, "batch_size", MOST_AT_ONCE)  # crops are painted one after the other
    return list(dict.fromkeys(names)), jump


def _number(fields: dict[str, list[str]], key: str, most: int) -> int:
    text = (fields.get(key) or ["1"])[-1]
    if not text.isdecimal() or len(text) > len(str(most)) or not 1 <= int(text) <= most:
        raise UserError(f"{key}={text[:20]} must be a whole number from 1 to {most}")
    return int(text)


async def _run(
    request: Request,
    engine: Engine,
    queue: JobQueue,
    session: Session,
    names: list[str],
    jump: tuple[int, int],
) -> Response:
    """Paints the crops as one job; it ends when the client goes away."""
    crops = {name: session.uploads[name] for name in names}

    def work(job: Job) -> dict[str, bytes]:
        return {
            name: _painted(engine, arrays, jump, lambda share, i=i: job.advance((i + share) / len(crops)))
            for i, (name, arrays) in enumerate(crops.items())
        }

    try:
        with queue.reserve() as place:
            job = place.submit(work)
    except QueueFull:
        return PlainTextResponse("Error: too many jobs wait; try again later", 503)
    try:
        while not job.ended.is_set():
            if await request.is_disconnected():
                return Response(status_code=499)
            queue.find(job.name)  # its client waits
            await asyncio.sleep(0.1)
        if job.status != "done":
            return PlainTextResponse(f"Error: {job.error or job.status}", 422)
        session.results |= job.result
        return PlainTextResponse(f"Success: painted {', '.join(names)}")
    finally:
        queue.drop(job)


def _painted(engine: Engine, arrays: dict[str, np.ndarray], jump: tuple[int, int], advance) -> bytes:
    """The answer to one crop, (k, j, i). The same place in a scan gets the same lesion."""
    crop = arrays["data"].transpose()
    centre = tuple((n - 1) / 2 for n in crop.shape)
    seed = address_seed("box", *arrays["boxes_numpy"].astype(np.int64).ravel().tolist()) % 2**31
    diameter_mm = draw_diameter(torch.Generator().manual_seed(seed), DIAMETERS_MM)
    made = engine.paint(
        Region(np.ascontiguousarray(crop), AFFINE, centre=centre, diameter_mm=diameter_mm),
        int(arrays["histogram"].item()),
        seed,
        advance,
        None if jump == (1, 1) else jump,
    )
    return write_arrays(
        {
            "data_inpainted": np.ascontiguousarray(made["image"].transpose()),
            "mask": np.ascontiguousarray(made["mask"].transpose()),
            "histogram": arrays["histogram"],
            "boxes_numpy": arrays["boxes_numpy"],
        }
    )
