"""The calls that programs make: textures, jobs and their results."""

import asyncio
import secrets
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from LeFusion.errors import UserError
from LeFusion.server.arrays import read_arrays, write_arrays
from LeFusion.server.engine import LEAST_MM, MOST_MM, Engine, Region
from LeFusion.server.jobs import Job, JobQueue
from LeFusion.server.limits import DRAINED, UNPACKED, Limits


@dataclass(frozen=True)
class Service:
    """What the calls work with. token: that requests carry (Authorization: Bearer ...); None: none."""

    engine: Engine
    queue: JobQueue
    limits: Limits
    token: str | None


async def _service(request: Request) -> Service:
    return request.app.state.service


Here = Annotated[Service, Depends(_service)]
Given = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


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


def authorised(here: Here, given: Given) -> None:
    """401 for a request without the token, where there is one."""
    said = given.credentials if given else ""
    if here.token is not None and not secrets.compare_digest(said.encode(), here.token.encode()):
        raise HTTPException(401, "give the token that the server printed", {"WWW-Authenticate": "Bearer"})


def refuse_unknown(request: Request) -> None:
    """422 for a parameter that the call has not: a misspelt parameter would be ignored without a word."""
    known = sorted(one.alias for one in request.scope["route"].dependant.query_params)
    for name in request.query_params:
        if name not in known:
            raise UserError(
                f"parameter {name[:40]!r} is unknown; "
                + (f"there are {', '.join(known)}" if known else "this call has none")
            )


def found(name: str, here: Here) -> Job:
    """The job of a path; 404 where there is none."""
    job = here.queue.find(name)
    if job is None:
        raise HTTPException(404, "there is no such job (any more)")
    return job


Named = Annotated[Job, Depends(found)]
router = APIRouter(prefix="/v1", dependencies=[Depends(authorised), Depends(refuse_unknown)])
NPZ = {"requestBody": {"required": True, "content": {"application/octet-stream": {}}}}


@router.get("/textures")
async def textures(here: Here) -> list[str]:
    """What `texture` may be: `realistic` (a real lesion of like size), `mixture` (drawn, as common as
    they are), or a name. The first is painted where none is named."""
    return list(here.engine.textures)


@router.post("/jobs", status_code=202, openapi_extra=NPZ)
async def submit(
    request: Request,
    here: Here,
    texture: Annotated[str | None, Query(max_length=64)] = None,
    seed: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    diameter_mm: Annotated[float | None, Query(ge=LEAST_MM, le=MOST_MM)] = None,
) -> JobState:
    """Paints a lesion into a region of a scan.

    The body is an .npz file (np.savez): `image` (I, J, K) in HU, `affine` (4, 4) from its index to RAS
    mm, and either `mask` (I, J, K), 1 in the lesion, or `centre`, the index (i, j, k) around which a mask
    of `diameter_mm` is made.
    """
    engine, limits = here.engine, here.limits
    texture = engine.textures[0] if texture is None else texture
    if texture not in engine.textures:
        raise UserError(f"texture {texture!r} is unknown; give one of {', '.join(engine.textures)}")
    with here.queue.reserve() as place:
        content = await read_body(request, limits)
        region = await run_in_threadpool(_region, content, diameter_mm, limits)
        del content

        def work(job: Job) -> bytes:
            return write_arrays(engine.paint(region, texture, seed, job.advance))

        return JobState.of(place.submit(work), here.queue)


@router.get("/jobs/{name}")
async def state(job: Named, here: Here) -> JobState:
    """waiting, running, done, failed (`error` says why), cancelled. What nobody asks for is dropped."""
    return JobState.of(job, here.queue)


@router.get("/jobs/{name}/result", response_class=Response)
async def result(job: Named) -> Response:
    """The .npz file: `image`, of the type that was sent, and `mask`."""
    if job.status != "done":
        raise HTTPException(409, f"the job is {job.status}{': ' * bool(job.error)}{job.error}")
    return Response(job.result, media_type="application/octet-stream")


@router.delete("/jobs/{name}", status_code=204)
async def cancel(job: Named, here: Here) -> None:
    """Stops the job if it has not ended, and forgets it and its result."""
    here.queue.drop(job)


def _region(content: bytes, diameter_mm: float | None, limits: Limits) -> Region:
    arrays = read_arrays(content, ("image", "affine", "mask", "centre"), UNPACKED * limits.upload_bytes)
    return Region.of(arrays, diameter_mm, limits.voxels)
