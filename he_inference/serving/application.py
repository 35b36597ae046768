"""The endpoints: HTTP requests in, answers out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from he_inference import wire
from he_inference.batch_program import BatchProgram
from he_inference.errors import ServiceError
from he_inference.lengths import lengths
from he_inference.programs import AnyProgram
from he_inference.serving.journal import Journal
from he_inference.serving.key_store import KeyStore
from he_inference.serving.logs import logger
from he_inference.serving.refusals import http_refusal
from he_inference.serving.settings import Settings
from he_inference.serving.uploads import BINARY, Uploads
from he_inference.serving.worker import Verb
from he_inference.serving.workers import Workers


class Application:
    """The endpoints, over a key store and workers that live as long as the application runs."""

    def __init__(self, program: AnyProgram, settings: Settings) -> None:
        self._program = program
        self._settings = settings = settings.for_program(program)
        self._lengths = lengths(program.signature)
        self._max_batch = settings.max_batch
        if isinstance(program, BatchProgram):
            self._max_batch = self._lengths.max_queries
        self._signature = program.signature.to_bytes()
        self._uploads = Uploads(settings)
        self._query_limit = self._lengths.query(self._max_batch), f"{self._max_batch} queries"
        self._check_memory()
        self.keys: KeyStore | None = None
        self.workers: Workers | None = None
        self.failure: ServiceError | None = None
        """Why it did not start."""

    def _check_memory(self) -> None:
        longest = max(self._lengths.keys, self._query_limit[0])
        if longest > self._settings.upload_bytes:
            raise ServiceError(
                f"one message of this program may take {longest} bytes: expected "
                f"upload_bytes={self._settings.upload_bytes} of at least as many; raise it, or "
                "lower max_batch"
            )

    def routes(self) -> list[Route]:
        return [
            Route("/v1/health", self._health),
            Route("/v1/signature", self._get_signature),
            Route("/v1/keys", self._register, methods=["POST"]),
            Route("/v1/evaluate", self._evaluate, methods=["POST"]),
        ]

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        try:
            await asyncio.to_thread(self.start)
        except ServiceError as error:
            self.failure = error
            raise
        logger().info("ready", workers=self._settings.workers, digest=self._digest_prefix)
        try:
            yield
        finally:
            await asyncio.to_thread(self.stop)

    @property
    def _digest_prefix(self) -> str:
        return self._program.signature.digest.hex()[:16]

    def start(self) -> None:
        """Make the key store and start the workers. Raises `ServiceError`, leaving nothing."""
        self.keys = KeyStore(self._settings)
        try:
            longest = self._lengths.answer(self._max_batch)
            self.workers = Workers(self._program, self.keys.directory, self._settings, longest)
            self.workers.start()
        except ServiceError:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the workers and delete the keys. May be repeated."""
        if self.workers is not None:
            self.workers.stop()
        if self.keys is not None:
            self.keys.remove()

    def _running(self) -> tuple[KeyStore, Workers]:
        if self.keys is None or self.workers is None:
            raise ServiceError("the service has not started: run it with its lifespan")
        return self.keys, self.workers

    async def _health(self, _: Request) -> Response:
        keys, workers = self._running()
        signature = self._program.signature
        return JSONResponse(
            {
                "status": "ok" if workers.alive else "no worker",
                "identity": signature.identity.hex(),
                "digest": signature.digest.hex(),
                "workers": workers.alive,
                "running": workers.running,
                "waiting": workers.waiting,
                "queue": self._settings.queue,
                "key_sets": len(keys),
                "max_batch": self._max_batch,
            }
        )

    async def _get_signature(self, _: Request) -> Response:
        return Response(self._signature, media_type="application/json")

    async def _register(self, request: Request) -> Response:
        keys, workers = self._running()
        limit = self._lengths.keys
        async with self._uploads.receive(request, limit, "evaluation keys") as message:
            await asyncio.wrap_future(workers.submit("register", message))
            key_id = (await asyncio.to_thread(wire.key_id, message)).hex()
            request.state.key_id = key_id
            await asyncio.to_thread(keys.add, key_id, message)
        return JSONResponse({"key_id": key_id})

    async def _evaluate(self, request: Request) -> Response:
        keys, workers = self._running()
        limit, what = self._query_limit
        async with self._uploads.receive(request, limit, what) as message:
            key_id = wire.claimed_key_id(message).hex()
            request.state.key_id = key_id
            held = keys.touch(key_id) or not self._program.signature.needs_keys
            verb: Verb = "evaluate" if held else "refuse"
            answer = await asyncio.wrap_future(workers.submit(verb, message))
        return Response(answer, media_type=BINARY)


def starlette(application: Application) -> Starlette:
    """The application as an ASGI app."""
    handler: Callable[[Request, Exception], Awaitable[Response]] = http_refusal
    return Starlette(
        routes=application.routes(),
        middleware=[Middleware(Journal)],
        exception_handlers={HTTPException: handler},
        lifespan=application.lifespan,
    )
