"""The demonstration: real digits, encrypted, classified by a server that cannot see them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

import he_inference
from he_inference import service
from he_inference.nodes import Array
from workloads.datasets import DatasetError, mnist_sample
from workloads.models import MNIST_CNN
from workloads.pictures import Caption, Images, save_picture

Show = Callable[[str, int], None]
"""Told the stage and how many queries are done."""


@dataclass(frozen=True, eq=False)
class Report:
    """What the demonstration saw. Milliseconds are medians a query, bytes those that crossed."""

    images: Images
    truth: npt.NDArray[np.int64]
    encrypted: Array
    """Scores from encrypted queries, (queries, 10)."""
    clear: Array
    """Scores of the same network in float64, (queries, 10)."""
    client_ms: float
    server_ms: float
    upload_bytes: int
    download_bytes: int
    key_bytes: int
    security_bits: int
    picture: Path

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.encrypted.argmax(1))

    @property
    def accuracy(self) -> float:
        return float(np.mean(self.labels == self.truth))

    @property
    def agreement(self) -> float:
        """Share of queries whose encrypted and clear labels are equal."""
        return float(np.mean(self.labels == self.clear.argmax(1)))

    def captions(self) -> list[Caption]:
        return [
            Caption(f"{label}" if label == true else f"{label} (is {true})", bool(label == true))
            for label, true in zip(self.labels, self.truth, strict=True)
        ]

    def values(self) -> dict[str, Any]:
        """For machines: plain numbers."""
        return {
            "accuracy": self.accuracy,
            "agreement": self.agreement,
            "queries": len(self.truth),
            "client_ms": round(self.client_ms, 3),
            "server_ms": round(self.server_ms, 3),
            "upload_bytes": self.upload_bytes,
            "download_bytes": self.download_bytes,
            "key_bytes": self.key_bytes,
            "security_bits": self.security_bits,
            "labels": self.labels.tolist(),
            "picture": str(self.picture),
        }

    def table(self) -> Table:
        """For people."""
        table = Table(title="encrypted queries", show_header=False)
        largest = float(np.abs(self.encrypted - self.clear).max())
        rows = (
            ("digits classified under encryption", f"{len(self.truth)}"),
            ("correct", f"{self.accuracy:.1%}"),
            ("same label as without encryption", f"{self.agreement:.1%}"),
            ("largest difference of a score", f"{largest:.2g} of {np.abs(self.clear).max():.3g}"),
            ("client: encrypt and decrypt one", f"{self.client_ms:.1f} ms of CPU"),
            ("server: answer one, HTTP included", f"{self.server_ms:.1f} ms"),
            ("evaluation keys, sent once", f"{self.key_bytes / 1e6:.2f} MB"),
            ("up, a query", f"{self.upload_bytes / 1e3:.1f} kB"),
            ("down, a query", f"{self.download_bytes / 1e3:.1f} kB"),
            ("security", f"{self.security_bits} bits"),
        )
        for name, value in rows:
            table.add_row(name, value)
        return table


def run_demo(queries: int, picture: Path, show: Show) -> Report:
    """Compile the shipped network, serve it on loopback, ask it `queries` encrypted digits.

    Leaves nothing running. Raises `DatasetError` where the picture could not be written, before
    anything else is done.
    """
    if not picture.resolve().parent.is_dir():
        raise DatasetError(f"{picture.parent} is not a folder: the picture has nowhere to go")
    if picture.is_dir():
        raise DatasetError(f"{picture} is a folder: expected the name of a file for the picture")
    sample = mnist_sample()
    if not 1 <= queries <= len(sample):
        raise DatasetError(f"{queries} queries: expected 1 to {len(sample)}")
    images, truth = sample.images[:queries], sample.labels[:queries]
    network = he_inference.load_network(MNIST_CNN)
    compiled = he_inference.compile(
        network, layout="packed", response="plain", examples=sample.images
    )
    show("starting a server", 0)
    with (
        service.running(compiled.program) as url,
        he_inference.RemoteServer(url) as server,
    ):
        client = he_inference.Client(server.signature())
        show("making and registering keys", 0)
        keys = client.evaluation_keys()
        server.register(keys)
        asked = [_ask(client, server, images[i : i + 1], show, i) for i in range(len(images))]
    report = Report(
        images=images,
        truth=truth,
        encrypted=np.concatenate([a.scores for a in asked]),
        clear=network.evaluate(images),
        client_ms=float(np.median([a.client_ms for a in asked])),
        server_ms=float(np.median([a.server_ms for a in asked])),
        upload_bytes=asked[0].upload_bytes,
        download_bytes=asked[0].download_bytes,
        key_bytes=len(keys),
        security_bits=client.signature.security_bits,
        picture=picture,
    )
    save_picture(picture, images, report.captions())
    return report


@dataclass(frozen=True, eq=False)
class _Asked:
    scores: Array
    client_ms: float
    server_ms: float
    upload_bytes: int
    download_bytes: int


def _ask(
    client: "he_inference.Client",
    server: "he_inference.RemoteServer",
    image: Images,
    show: Show,
    number: int,
) -> _Asked:
    started = process_time()
    message = client.encrypt(image)
    encrypting = process_time() - started
    sent = perf_counter()
    answer = server.evaluate(message)
    waiting = perf_counter() - sent
    started = process_time()
    scores = client.decrypt(answer)
    decrypting = process_time() - started
    show("encrypted digits", number + 1)
    return _Asked(scores, 1e3 * (encrypting + decrypting), 1e3 * waiting, len(message), len(answer))
