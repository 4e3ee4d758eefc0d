"""One queue of jobs and one thread that works on them; all in memory, nothing on disk."""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from LeFusion.errors import UserError

ENDED = ("done", "failed", "cancelled")
TICK = 0.5  # seconds between looks at the clock, while nothing happens


class QueueFull(Exception):
    """As many jobs wait as may."""


class Stopped(Exception):
    """Raised within a job's work: it was cancelled, or took too long."""


@dataclass(eq=False)
class Job:
    """status: waiting, running, done, failed or cancelled. progress: 0 to 1. error: of the user's, one line.

    work: called with the job; tells it its progress by `advance`, and returns what `result` then is.
    """

    work: Callable[["Job"], Any] | None
    seconds: float
    name: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    status: str = "waiting"
    progress: float = 0.0
    error: str = ""
    result: Any = None
    asked: float = field(default_factory=time.monotonic)  # when its client last asked for it
    started: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def advance(self, progress: float) -> None:
        """Raises Stopped where the job is to end."""
        if self.stop.is_set():
            raise Stopped("cancelled")
        if time.monotonic() - self.started > self.seconds:
            raise Stopped(f"took longer than {self.seconds:g} s")
        self.progress = max(self.progress, min(progress, 1.0))


class JobQueue:
    """waiting: jobs that may wait, at most. seconds: that one may run. kept_seconds: after which a job whose
    client does not ask for it is dropped, whatever its status. kept: results that are held, at most."""

    def __init__(self, waiting: int, seconds: float, kept_seconds: float, kept: int):
        self.waiting, self.seconds, self.kept_seconds, self.kept = waiting, seconds, kept_seconds, kept
        self._jobs: dict[str, Job] = {}
        self._reserved = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="painting", daemon=True)
        self._thread.start()

    def reserve(self) -> "Place":
        """A place in the queue for a job whose data are still to come. Raises QueueFull."""
        with self._changed:
            if self._count("waiting") + self._reserved >= self.waiting:
                raise QueueFull
            self._reserved += 1
        return Place(self)

    def find(self, name: str) -> Job | None:
        """The job of this name, whose client is alive."""
        with self._changed:
            job = self._jobs.get(name)
            if job:
                job.asked = time.monotonic()
            return job

    def drop(self, job: Job) -> None:
        """Ends the job, if it has not ended, and forgets it."""
        with self._changed:
            self._drop(job)

    def counts(self) -> dict[str, int]:
        with self._changed:
            return {status: self._count(status) for status in ("waiting", "running")}

    def position(self, job: Job) -> int:
        """How many jobs are worked on before it."""
        with self._changed:
            before = [other for other in self._jobs.values() if other.status in ("waiting", "running")]
            return before.index(job) if job in before else 0

    def close(self) -> None:
        """Ends all jobs and the thread."""
        with self._changed:
            self._closed = True
            for job in list(self._jobs.values()):
                self._drop(job)
            self._changed.notify_all()
        self._thread.join()

    def _submit(self, work: Callable[[Job], Any]) -> Job:
        with self._changed:
            job = Job(work, self.seconds)
            self._jobs[job.name] = job
            self._changed.notify_all()
            return job

    def _release(self) -> None:
        with self._changed:
            self._reserved -= 1

    def _count(self, status: str) -> int:
        return sum(job.status == status for job in self._jobs.values())

    def _drop(self, job: Job) -> None:
        job.stop.set()
        self._jobs.pop(job.name, None)
        if job.status == "waiting":
            self._end(job, "cancelled")
        job.result = None
        self._changed.notify_all()

    def _end(self, job: Job, status: str, error: str = "", result: Any = None) -> None:
        job.work = None  # with the arrays that it holds
        job.status, job.error, job.result = status, error, result
        job.ended.set()

    def _purge(self) -> None:
        """Drops what nobody asks for, and the oldest results beyond those that are kept."""
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if now - job.asked > self.kept_seconds:
                self._drop(job)
        ended = [job for job in self._jobs.values() if job.status in ENDED]
        for job in ended[: max(0, len(ended) - self.kept)]:
            self._drop(job)

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.status == "waiting"), None)

    def _run(self) -> None:
        watch = threading.Thread(target=self._watch, name="clock", daemon=True)
        watch.start()
        while True:
            with self._changed:
                while not (self._closed or (job := self._next())):
                    self._changed.wait()
                if self._closed:
                    return
                job.status, job.started = "running", time.monotonic()
            self._work(job)
            del job  # or its result would be held until the next one

    def _work(self, job: Job) -> None:
        status, error, result = "done", "", None
        try:
            result = job.work(job)
            job.advance(1.0)
        except Stopped as stopped:
            status, error = ("cancelled" if job.stop.is_set() else "failed"), str(stopped)
        except UserError as mistake:
            status, error = "failed", str(mistake)
        except Exception as bug:  # the server goes on; the log has the traceback
            import traceback

            traceback.print_exc()
            status, error = "failed", f"a bug of LeFusion ({type(bug).__name__}); the server's log says more"
        with self._changed:
            self._end(job, status, error, result if job.name in self._jobs and status == "done" else None)

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                self._purge()
                self._changed.wait(TICK)


class Place:
    """A place in the queue, kept for a job (`submit`) or given back: use it in `with`."""

    def __init__(self, queue: JobQueue):
        self._queue = queue

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *error) -> None:
        self._queue._release()

    def submit(self, work: Callable[[Job], Any]) -> Job:
        return self._queue._submit(work)
