"""The server's side of a bundle: it holds the head and sees ciphertexts only."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import he_inference
from he_inference import BatchProgram, BatchSignature, CoefficientSignature
from he_inference.service import running as service_running
from private_models.devices import device_name
from private_models.errors import BundleError
from private_models.hybrid.bundle import Bundle, load_bundle


class Batches:
    """Answers a bundle's batches in this process; kernels are loaded when the first one comes."""

    def __init__(self, program: BatchProgram, device: str, threads: int | None) -> None:
        self._program, self._device, self._threads = program, device, threads

    def signature(self) -> BatchSignature:
        """Public."""
        return self._program.signature

    def register(self, evaluation_keys: bytes) -> str:
        """Take a client's keys. Raises `MessageError`."""
        return self._server.register(evaluation_keys)

    def evaluate(self, query: bytes) -> bytes:
        """A query message → an answer message. Raises `MessageError` or `UnknownKey`."""
        return self._server.evaluate(query)

    @cached_property
    def _server(self) -> he_inference.Server:
        return he_inference.Server(self._program, device=self._device, threads=self._threads)


class Server:
    """Answers single queries in this process; `running` serves them over HTTP.

    batches: what answers those, or None.

    Guarantee: as `he_inference.Server`; it never sees an input, a feature or a score.
    """

    def __init__(
        self, bundle: Bundle | str | Path, *, device: str = "auto", threads: int | None = None
    ) -> None:
        """device: of batches, "cpu", "cuda", or "auto": a GPU if there is one. Raises as
        `load_bundle` and `he_inference.Server` do."""
        loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self._program = loaded.single
        self._single = he_inference.Server(
            loaded.single, threads=threads, precomputed=loaded.precomputed
        )
        self.batches = None
        if loaded.batch is not None:
            self.batches = Batches(loaded.batch, device_name(device), threads)

    def signature(self) -> CoefficientSignature:
        """Public."""
        return self._program.signature

    def register(self, evaluation_keys: bytes) -> str:
        """Take a client's keys. Raises `MessageError`."""
        return self._single.register(evaluation_keys)

    def evaluate(self, query: bytes) -> bytes:
        """A query message → an answer message. Raises `MessageError` or `UnknownKey`."""
        return self._single.evaluate(query)


@contextmanager
def running(bundle: Bundle | str | Path, *, batches: bool = False) -> Iterator[str]:
    """Serve a bundle's single queries, or its batches, in a process of its own; yields the URL.

    Raises `BundleError`, also for batches of a bundle that has none, and `ServiceError`.
    """
    loaded = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    program = loaded.batch if batches else loaded.single
    if program is None:
        raise BundleError("this bundle answers single queries only: build it with batches")
    with service_running(program) as url:
        yield url
