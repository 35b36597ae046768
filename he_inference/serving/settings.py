"""What the operator of a service decides, checked when it is written down."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from he_inference import wire
from he_inference.addresses import is_loopback
from he_inference.batch_program import BatchProgram
from he_inference.errors import ServiceError
from he_inference.processors import processors
from he_inference.programs import AnyProgram


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits, patience and protection of a service. Raises `ServiceError` listing every fault."""

    workers: int | None = None
    """Processes that evaluate, one query message each at a time: one a processor, unless given, or
    one in all for the batched layout, whose messages keep every processor busy."""
    device: str = "cpu"
    """Where batches are evaluated: "cpu", or one of torch's, "cuda"."""
    queue: int = 32
    """Requests that may wait for a worker; one more is answered 503."""
    max_batch: int = 256
    """Queries in one message of the packed layout, at most `wire.MAX_QUERIES`."""
    connections: int = 256
    """Open at a time."""
    upload_bytes: int = 1 << 30
    """Of request bodies held in memory at a time, over all connections."""

    key_sets: int = 64
    """Clients whose evaluation keys are kept; the one unused for longest makes room."""
    key_storage_bytes: int = 8 << 30
    """Disk for their keys."""
    cached_key_sets: int = 8
    """Clients whose keys a worker keeps in memory."""
    key_directory: Path | None = None
    """Where the private directory for keys is made; by default the system's place for such."""

    request_seconds: float = 60.0
    """From the last byte of a request to its answer, waiting included; then 504."""
    body_seconds: float = 20.0
    """For a body to arrive, on top of its bytes divided by `slowest_upload`; then 408."""
    slowest_upload: float = 50_000.0
    """Bytes per second."""
    start_seconds: float = 60.0
    """For a worker to load the program."""
    stop_seconds: int = 10
    """For running requests to finish when the service is told to stop."""

    certificate: Path | None = None
    """PEM file of the TLS certificate chain; None for plain HTTP."""
    private_key: Path | None = None
    """PEM file of its private key."""
    insecure_plain_http: bool = False
    """Serve plain HTTP to other machines. Queries stay secret, but whoever is in between may
    replace answers, keys and the signature itself."""

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            listing = "\n".join(f"  - {fault}" for fault in faults)
            raise ServiceError(f"the service's settings are not usable:\n{listing}")

    def _faults(self) -> Iterator[str]:
        for name in ("workers", "max_batch", "connections", "key_sets", "cached_key_sets"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield f"expected {name}={value} >= 1"
        if self.queue < 0:
            yield f"expected queue={self.queue} >= 0"
        if self.max_batch > wire.MAX_QUERIES:
            yield f"expected max_batch={self.max_batch} <= {wire.MAX_QUERIES}"
        for name in ("request_seconds", "body_seconds", "slowest_upload", "start_seconds"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) > 0):
                yield f"expected a finite {name}={getattr(self, name)} > 0"
        if self.stop_seconds < 0:
            yield f"expected stop_seconds={self.stop_seconds} >= 0"
        if (self.certificate is None) != (self.private_key is None):
            yield "TLS takes both a certificate and a private_key"
        for path in (self.certificate, self.private_key):
            if path is not None and not path.is_file():
                yield f"{path} is not a file"

    def for_program(self, program: AnyProgram) -> "Settings":
        """With what was left open decided for a program."""
        usual = 1 if isinstance(program, BatchProgram) else processors()
        return replace(self, workers=self.workers or usual)

    def check_host(self, host: str) -> None:
        """Raise `ServiceError` where other machines would be served without TLS unknowingly."""
        if self.certificate is None and not self.insecure_plain_http and not is_loopback(host):
            raise ServiceError(
                f"serving plain HTTP on {host} lets whoever is in between replace keys and "
                "answers: give a certificate and private key, serve on 127.0.0.1 behind a proxy "
                "that speaks TLS, or choose insecure_plain_http explicitly"
            )
