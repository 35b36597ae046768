"""A fixed number of worker processes behind a bounded queue."""

from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Lock, Thread
from time import monotonic

from he_inference.errors import Busy, HEError, ServiceError
from he_inference.programs import AnyProgram
from he_inference.serving.logs import logger
from he_inference.serving.settings import Settings
from he_inference.serving.worker import (
    MAX_MESSAGE_BYTES,
    TICK_SECONDS,
    Start,
    TimeLimit,
    Verb,
    Worker,
    WorkerDied,
    too_late,
)

_PAUSE_SECONDS = 1.0
_JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class _Job:
    verb: Verb
    payload: bytes
    deadline: float
    answer: "Future[bytes]" = field(default_factory=Future)


class _Lane(Thread):
    """A thread that owns one worker process and replaces it when it dies."""

    def __init__(self, start: Start, jobs: "Queue[_Job]", stopping: Event) -> None:
        super().__init__(name="he-inference-lane", daemon=True)
        self._start, self._jobs, self._stopping = start, jobs, stopping
        self._log = logger()
        self.worker: Worker | None = None
        self._late = False
        self.ready: Future[None] = Future()

    def run(self) -> None:
        try:
            self._living()
        except Exception as error:
            self.ready.set_exception(error)
            return
        self.ready.set_result(None)
        while not self._stopping.is_set():
            with suppress(Empty):
                self._settle(self._jobs.get(timeout=TICK_SECONDS))
            self._revive()
        self._drop()

    def _settle(self, job: _Job) -> None:
        """Answer or refuse one request, whatever happens."""
        if not job.answer.set_running_or_notify_cancel():
            return
        try:
            answer = self._ask(job)
        except HEError as error:
            job.answer.set_exception(error)
        except Exception as error:
            self._drop()
            self._log.error("request failed", error=type(error).__name__)
            job.answer.set_exception(ServiceError(f"failed with {type(error).__name__}"))
        else:
            job.answer.set_result(answer)

    def _ask(self, job: _Job) -> bytes:
        """Have the worker answer; one that dies is replaced and the request given to it, once."""
        try:
            return self._ask_once(job)
        except WorkerDied:
            if self._stopping.is_set():
                raise
            return self._ask_once(job)

    def _ask_once(self, job: _Job) -> bytes:
        worker = self._living()
        if monotonic() > job.deadline:
            raise too_late()
        try:
            return worker.ask(job.verb, job.payload, job.deadline)
        except WorkerDied:
            self._log.warning("worker died", exit_code=worker.wait())
            self._drop()
            raise
        except TimeLimit:
            self._log.warning("worker too slow")
            self._late = True
            raise

    def _revive(self) -> None:
        """Replace a worker that was late or died idle, before the next request needs it."""
        if self._stopping.is_set():
            return
        if self._late or (self.worker is not None and not self.worker.alive):
            self._drop()
        try:
            self._living()
        except ServiceError as error:
            self._log.error("no new worker", message=str(error))
            self._stopping.wait(_PAUSE_SECONDS)

    def _living(self) -> Worker:
        """This lane's worker, a new one where there is none."""
        if self.worker is None:
            self.worker = Worker(self._start, self._stopping)
        return self.worker

    def _drop(self) -> None:
        self._late = False
        if self.worker is not None:
            self.worker.kill()
            self.worker = None


class Workers:
    """A fixed number of worker processes behind a bounded queue.

    Guarantee: what was submitted is answered, or refused with an error of the tree, within
    `request_seconds` and the time that a new worker takes to start; a worker that dies or is late
    is replaced.
    """

    def __init__(
        self, program: AnyProgram, directory: Path, settings: Settings, answer_bytes: int
    ) -> None:
        """answer_bytes: the longest answer that there is. Settings are those for the program."""
        start = Start(program, directory, settings, max(answer_bytes, MAX_MESSAGE_BYTES))
        self._settings = settings
        self._stopping = Event()
        self._jobs: Queue[_Job] = Queue()
        count = settings.workers or 1
        self._lanes = [_Lane(start, self._jobs, self._stopping) for _ in range(count)]
        self._lock = Lock()
        self._pending = 0

    def start(self) -> None:
        """Start all processes and wait until each has loaded the program.

        Raises `ServiceError` if one cannot, and stops the others.
        """
        for lane in self._lanes:
            lane.start()
        try:
            for lane in self._lanes:
                lane.ready.result()
        except Exception as error:
            self.stop()
            raise ServiceError(f"a worker could not load the program: {error}") from None

    @property
    def alive(self) -> int:
        """Processes ready to evaluate."""
        return sum(lane.worker is not None and lane.worker.alive for lane in self._lanes)

    @property
    def running(self) -> int:
        """Requests that a worker has taken up."""
        return min(self._pending, len(self._lanes))

    @property
    def waiting(self) -> int:
        """Requests that no worker has taken up yet."""
        return max(0, self._pending - len(self._lanes))

    def submit(self, verb: Verb, payload: bytes) -> "Future[bytes]":
        """Queue a request. Raises `Busy` where the queue is full."""
        if self._stopping.is_set():
            raise WorkerDied("the service is stopping: send the request again later")
        with self._lock:
            if self._pending >= len(self._lanes) + self._settings.queue:
                raise Busy(f"{self._pending} requests are waiting: try again in a few seconds")
            self._pending += 1
        job = _Job(verb, payload, monotonic() + self._settings.request_seconds)
        job.answer.add_done_callback(self._release)
        self._jobs.put(job)
        return job.answer

    def _release(self, _: "Future[bytes]") -> None:
        with self._lock:
            self._pending -= 1

    def stop(self) -> None:
        """Stop all processes; what is still running or waiting is refused. May be repeated."""
        self._stopping.set()
        for lane in self._lanes:
            if lane.ident is not None:
                lane.join(_JOIN_SECONDS)
            if lane.worker is not None:  # stuck in a write to a process that does not read
                lane.worker.kill()
        with suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if job.answer.set_running_or_notify_cancel():
                    job.answer.set_exception(WorkerDied("the service is stopping: try again later"))
