"""The HTTP side: who may ask, how much, and how long. Everything stays in memory."""

import asyncio
import secrets
from collections.abc import Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from swagger_ui_bundle import swagger_ui_path

from LeFusion.errors import UserError
from LeFusion.server.arrays import read_arrays, write_arrays
from LeFusion.server.engine import LEAST_MM, MOST_MM, Engine, Region
from LeFusion.server.jobs import Job, JobQueue, QueueFull

LOOPBACK = ("127.0.0.1", "localhost", "::1")
UNPACKED = 4  # times the size of an upload that its arrays may take
DRAINED = 4  # times that size: what is read of one that is too large, so that its client sees the answer


@dataclass(frozen=True)
class Limits:
    """What one client, or all together, may use. See the flags of serve.py."""

    upload_bytes: int = 64_000_000
    upload_seconds: float = 60.0
    voxels: int = 8_000_000
    job_seconds: float = 600.0
    waiting: int = 16
    kept_seconds: float = 300.0
    kept: int = 32


class JobState(BaseModel):
    """What a client sees of its job."""

    id: str
    status: str
    progress: float
    before: int
    error: str

    @classmethod
    def of(cls, job: Job, queue: JobQueue) -> "JobState":
        return cls(
            id=job.name,
            status=job.status,
            progress=round(job.progress, 3),
            before=queue.position(job),
            error=job.error,
        )


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body. 413 for a larger one than may be, 408 for one that does not come in time; what is left of it
    is read, within limits, so that the client gets to see the answer."""
    try:
        content = await asyncio.wait_for(_content(request, limits.upload_bytes), limits.upload_seconds)
    except asyncio.TimeoutError:  # noqa: UP041 (another one than TimeoutError in Python 3.10)
        raise HTTPException(408, f"the upload took longer than {limits.upload_seconds:g} s") from None
    except ClientDisconnect:  # nobody reads the answer, but a traceback would look like a bug
        raise HTTPException(400, "the upload broke off") from None
    if content is None:
        raise HTTPException(413, f"the upload is larger than {limits.upload_bytes / 1e6:g} MB")
    return content


async def _content(request: Request, most: int) -> bytes | None:
    """None where it is larger."""
    content, size = bytearray(), 0
    announced = request.headers.get("content-length", "0")
    fits = announced.isdecimal() and int(announced) <= most
    async for chunk in request.stream():
        size += len(chunk)
        fits = fits and size <= most
        if fits:
            content += chunk
        elif size > DRAINED * most:
            break
    return bytes(content) if fits else None


class Guard:
    """Refuses requests that pages of other sites, open in the user's browser, send to a server here: they
    have an Origin, or a name for this machine of their own. hosts: names that count ("*": any)."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refused := self._refused(Headers(scope=scope))):
            await JSONResponse({"detail": refused}, 403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refused(self, headers: Headers) -> str:
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            name = None
        if "*" not in self.hosts and name not in self.hosts:
            return f"this server is not called {host[:80]!r}"
        if origin is not None and origin.partition("://")[2] != host:
            return "requests from pages of other sites are refused"
        return ""


def make_app(
    engine: Engine,
    limits: Limits,
    token: str | None,
    hosts: tuple[str, ...] = LOOPBACK,
    extra: Callable[[FastAPI, Engine, JobQueue, Limits], None] | None = None,
) -> FastAPI:
    """The server. token: that requests carry (Authorization: Bearer ...); None: none. hosts: names by which
    it may be called ("*": any). extra: adds further calls."""
    queue = JobQueue(limits.waiting, limits.job_seconds, limits.kept_seconds, limits.kept)

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        await run_in_threadpool(queue.close)

    app = FastAPI(
        title="LeFusion",
        version=version("lefusion"),
        description="Paints lesions into regions of CT scans.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.openapi_version = "3.0.3"  # which the page of the documentation can read
    app.state.queue = queue
    app.add_middleware(Guard, hosts=hosts)

    @app.exception_handler(UserError)
    async def say(_: Request, error: UserError) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(QueueFull)
    async def busy(_: Request, error: QueueFull) -> Response:
        return JSONResponse({"detail": "too many jobs wait; try again later"}, 503, {"Retry-After": "10"})

    app.mount("/static", StaticFiles(directory=swagger_ui_path))

    @app.get("/", include_in_schema=False)
    async def start() -> Response:
        return RedirectResponse("/docs")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        files = {
            "swagger_js_url": "/static/swagger-ui-bundle.js",
            "swagger_css_url": "/static/swagger-ui.css",
        }
        icon = "/static/favicon-32x32.png"
        return get_swagger_ui_html(
            openapi_url="/openapi.json", title="LeFusion", swagger_favicon_url=icon, **files
        )

    @app.get("/health")
    async def health() -> dict[str, str | int]:
        """Whether the server works, and how busy it is. Needs no token."""
        return {"status": "ok", "version": app.version, "device": engine.device, **queue.counts()}

    app.include_router(_jobs(engine, queue, limits, token))
    if extra is not None:
        extra(app, engine, queue, limits)
    return app


def _refuse_unknown(request: Request) -> None:
    """A misspelt parameter would be ignored without a word."""
    known = sorted(one.alias for one in request.scope["route"].dependant.query_params)
    for name in request.query_params:
        if name not in known:
            raise UserError(
                f"parameter {name[:40]!r} is unknown; "
                + (f"there are {', '.join(known)}" if known else "this call has none")
            )


def _jobs(engine: Engine, queue: JobQueue, limits: Limits, token: str | None) -> APIRouter:
    bearer = HTTPBearer(auto_error=False)

    def authorised(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        said = given.credentials if given else ""
        if token is not None and not secrets.compare_digest(said.encode(), token.encode()):
            raise HTTPException(401, "give the token that the server printed", {"WWW-Authenticate": "Bearer"})

    def found(name: str) -> Job:
        job = queue.find(name)
        if job is None:
            raise HTTPException(404, "there is no such job (any more)")
        return job

    router = APIRouter(prefix="/v1", dependencies=[Depends(authorised), Depends(_refuse_unknown)])
    npz = {"requestBody": {"required": True, "content": {"application/octet-stream": {}}}}

    @router.get("/textures")
    async def textures() -> list[str]:
        """What `texture` may be: `realistic` (a real lesion of like size), `mixture` (drawn, as common as
        they are), or a name. The first is painted where none is named."""
        return list(engine.textures)

    @router.post("/jobs", status_code=202, openapi_extra=npz)
    async def submit(
        request: Request,
        texture: Annotated[str, Query(max_length=64)] = engine.textures[0],
        seed: Annotated[int, Query(ge=0, lt=2**31)] = 0,
        diameter_mm: Annotated[float | None, Query(ge=LEAST_MM, le=MOST_MM)] = None,
    ) -> JobState:
        """Paints a lesion into a region of a scan.

        The body is an .npz file (np.savez): `image` (I, J, K) in HU, `affine` (4, 4) from its index to RAS
        mm, and either `mask` (I, J, K), 1 in the lesion, or `centre`, the index (i, j, k) around which a mask
        of `diameter_mm` is made.
        """
        if texture not in engine.textures:
            raise UserError(f"texture {texture!r} is unknown; give one of {', '.join(engine.textures)}")
        with queue.reserve() as place:
            content = await read_body(request, limits)
            region = await run_in_threadpool(_region, content, diameter_mm, limits)
            del content

            def work(job: Job) -> bytes:
                return write_arrays(engine.paint(region, texture, seed, job.advance))

            return JobState.of(place.submit(work), queue)

    @router.get("/jobs/{name}")
    async def state(name: str) -> JobState:
        """waiting, running, done, failed (`error` says why), cancelled. What nobody asks for is dropped."""
        return JobState.of(found(name), queue)

    @router.get("/jobs/{name}/result", response_class=Response)
    async def result(name: str) -> Response:
        """The .npz file: `image`, of the type that was sent, and `mask`."""
        job = found(name)
        if job.status != "done":
            raise HTTPException(409, f"the job is {job.status}{': ' * bool(job.error)}{job.error}")
        return Response(job.result, media_type="application/octet-stream")

    @router.delete("/jobs/{name}", status_code=204)
    async def cancel(name: str) -> None:
        """Stops the job if it has not ended, and forgets it and its result."""
        queue.drop(found(name))

    return router


def _region(content: bytes, diameter_mm: float | None, limits: Limits) -> Region:
    arrays = read_arrays(content, ("image", "affine", "mask", "centre"), UNPACKED * limits.upload_bytes)
    return Region.of(arrays, diameter_mm, limits.voxels)
