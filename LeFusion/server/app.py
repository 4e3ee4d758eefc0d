"""The HTTP side: who may ask, and what is answered where. Everything stays in memory."""

from collections.abc import Callable, Collection
from contextlib import asynccontextmanager
from importlib.metadata import version
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from swagger_ui_bundle import swagger_ui_path

from LeFusion.errors import UserError
from LeFusion.server.calls import Service, router
from LeFusion.server.engine import Engine
from LeFusion.server.jobs import JobQueue, QueueFull
from LeFusion.server.limits import LOOPBACK, Limits


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
    extra: Callable[[FastAPI, Service], None] | None = None,
) -> FastAPI:
    """The server. token: see Service. hosts: names by which it may be called ("*": any). extra: adds further
    calls."""
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
    app.state.service = service = Service(engine, queue, limits, token)
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

    app.include_router(router)
    if extra is not None:
        extra(app, service)
    return app
