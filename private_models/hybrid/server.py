"""The server's side of a bundle: it holds the head and sees ciphertexts only."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import he_inference
from he_inference import BatchSignature, CoefficientSignature
from he_inference.errors import WrongProgram
from he_inference.service import running as service_running
from private_models.hybrid.bundle import BATCH, SINGLE, Bundle, load_bundle


class Server:
    """Answers single queries and batches in this process; `running` serves them over HTTP.

    Guarantee: as `he_inference.Server`; it never sees an input, a feature or a score.
    """

    def __init__(
        self, bundle: Bundle | str | Path, *, device: str = "auto", threads: int | None = None
    ) -> None:
        """device: of batches, "cpu", "cuda", or "auto": a GPU if there is one. Raises as
        `load_bundle` and `he_inference.Server` do."""
        self._bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self._device, self._threads = device, threads
        if device == "auto":
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._single = he_inference.Server(
            self._bundle.single, threads=threads, precomputed=self._bundle.precomputed
        )
        self._batch: he_inference.Server | None = None

    def signature(self) -> CoefficientSignature:
        """Of single queries; public."""
        return self._bundle.single.signature

    def batch_signature(self) -> BatchSignature | None:
        """Of batches; public. None where they are not answered."""
        return None if self._bundle.batch is None else self._bundle.batch.signature

    def register(self, evaluation_keys: bytes) -> str:
        """Take a client's keys, for single queries or for batches. Raises `MessageError`."""
        try:
            return self._single.register(evaluation_keys)
        except WrongProgram:
            return self._batches().register(evaluation_keys)

    def evaluate(self, query: bytes) -> bytes:
        """A query message → an answer message. Raises `MessageError` or `UnknownKey`."""
        try:
            return self._single.evaluate(query)
        except WrongProgram:
            return self._batches().evaluate(query)

    def _batches(self) -> he_inference.Server:
        """Made when first needed: its kernels take a moment to load."""
        if self._bundle.batch is None:
            raise WrongProgram("this bundle answers single queries only: build it with batches")
        if self._batch is None:
            self._batch = he_inference.Server(
                self._bundle.batch, device=self._device, threads=self._threads
            )
        return self._batch


@contextmanager
def running(bundle: Bundle | str | Path, *, batches: bool = False) -> Iterator[str]:
    """Serve a bundle's single queries, or its batches, in a process of its own; yields the URL.

    Raises `BundleError`, `ServiceError`, or `WrongProgram` for a bundle without batches.
    """
    if isinstance(bundle, Bundle):
        program = bundle.batch if batches else bundle.single
        if program is None:
            raise WrongProgram("this bundle answers single queries only: build it with batches")
        with service_running(program) as url:
            yield url
        return
    load_bundle(bundle)
    with service_running(Path(bundle) / (BATCH if batches else SINGLE)) as url:
        yield url
