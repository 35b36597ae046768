"""Figures of papers for encrypted inference. Their hardware differs: to print, not to divide.

`protects` names what is hidden: the client's data from the server, the model from the client.
Seconds and megabytes are per query; None where a paper gives none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from benchmarks.measure import OURS, PUBLISHED, Row


class Figure(NamedTuple):
    """One row of a published table."""

    system: str
    technique: str
    accuracy_percent: float | None
    seconds: float | None
    megabytes: float | None
    protects: str
    hardware: str = "as published"


REFERENCE = "FHE-Benchmarking.org"
DATA = "client data"
MODEL = "model"
BOTH = "client data, model"

SURVEY = (
    Figure("DeepSecure", "garbled circuits, CNN", 98.95, 10_649.0, 722_000.0, MODEL),
    Figure("SecureML", "two-party computation, dense", 93.40, None, None, MODEL),
    Figure("MiniONN", "two-party computation", 98.95, 1.04, 47.6, MODEL),
    Figure("ABY3", "three-party computation", 94.00, 0.01, 5.2, MODEL),
    Figure("ML Confidential", "levelled HE, dense", 95.00, 255.7, None, DATA),
    Figure("CryptoNets", "levelled HE, CNN", 98.95, 697.0, 595.5, DATA),
    Figure("Chabanne et al.", "HE, CNN with batch normalisation", 99.30, None, None, DATA),
    Figure("E2DM", "HE, data and model encrypted", 98.10, 28.59, 17.48, BOTH),
    Figure("PPDL via additive HE", "encrypted gradients", 97.00, 120.0, None, BOTH),
    Figure("CryptoDL", "HE, deeper CNN", 99.52, 320.0, 336.7, DATA),
    Figure("All-Convolutional Net", "HE", 98.97, 477.6, 361.6, DATA),
    Figure("Multi-key FHE", "distributed multi-key HE", 99.73, None, None, DATA),
    Figure("Gazelle", "HE and garbled circuits", None, 0.03, 0.5, BOTH),
    Figure("TAPAS", "binary network, TFHE", 98.60, 147.0, None, BOTH),
    Figure("FHE-DiNN", "binary network, TFHE", 96.35, 1.64, None, BOTH),
)
"""The survey that the project starts from; protection as it states it."""

NEWER = (
    Figure("LoLa", "HE, packed CNN", 98.95, 2.2, None, DATA, "8 cores"),
    Figure("LoLa-Small", "HE, packed", 96.92, 0.29, None, DATA),
    Figure("LoLa-Large", "HE, packed", 99.20, 14.4, None, DATA),
    Figure(REFERENCE, "MNIST reference", None, 7.63, None, DATA),
)

CIFAR = (
    Figure("Kim & Guyot 2023", "CKKS with bootstrapping, ResNet", 92.0, 255.0, None, DATA,
           "one thread"),
    Figure("Kim & Guyot 2023, deeper", "CKKS with bootstrapping, ResNet", 94.0, 398.0, None, DATA,
           "one thread"),
    Figure("bootstrapped ResNet-20, laptop", "CKKS with bootstrapping", 91.7, 336.0, None, DATA,
           "laptop"),
    Figure("Cheddar", "CKKS with bootstrapping, ResNet-20", None, 0.72, None, DATA, "a GPU"),
    Figure("levelled CKKS CNN", "CKKS, no bootstrapping", 75.0, 711.0, None, DATA),
)  # fmt: skip
"""CIFAR-10 with all of the network under encryption."""


class Rate(NamedTuple):
    """Encrypted MNIST images a second of a batch, as published; its size where a paper gives it."""

    system: str
    network: str
    images_per_second: float
    hardware: str
    batch: int | None = None
    accuracy_percent: float | None = None


RATES = (
    Rate("CryptoNets on SEAL 3.2", "CryptoNets' network", 8192 / 28, "a CPU", 8192, 98.95),
    Rate("nGraph-HE2", "CryptoNets' network", 1998.0, "a large server"),
    Rate("HCNN", "a CNN of MNIST", 2940.0, "a V100 GPU"),
)
"""Client data hidden, the model open to the server; the fastest figure of each."""


def rates() -> Iterator[Row]:
    """Every published rate as a row of results, without what is not known."""
    for rate in RATES:
        known = {name: value for name, value in rate._asdict().items() if value is not None}
        known["evaluation_images_per_second"] = known.pop("images_per_second")
        yield {"kind": "batch", "source": PUBLISHED, "response": "plain", **known}


def rows() -> Iterator[Row]:
    """Every figure of one query as a row of results."""
    for figure in (*SURVEY, *NEWER):
        yield {"kind": "published", "source": PUBLISHED, **figure._asdict()}


def wholes() -> Iterator[Row]:
    """Every figure of CIFAR-10 as a row of results."""
    for figure in CIFAR:
        yield {"kind": "hybrid_published", "source": PUBLISHED, **figure._asdict()}


def references() -> Iterator[Row]:
    """The reference of FHE-Benchmarking.org's workload as a row of results."""
    (figure,) = (figure for figure in NEWER if figure.system == REFERENCE)
    yield {"kind": "site", "system": f"{REFERENCE}, {figure.technique}", "source": PUBLISHED,
           "images": 1, "seconds": figure.seconds, "seconds_each": figure.seconds}  # fmt: skip


def beside(rows: Iterable[Row]) -> list[Row]:
    """Rows of results, and after them what is published of each flow that ours were measured in.

    Results hold none of it: what is published is no run's, and is in this file alone.
    """
    found = list(rows)
    ours = {row.get("kind") for row in found if row.get("source") == OURS}
    for kind, figures in _BESIDE.items():
        found += figures() if kind in ours else ()
    return found


_BESIDE: Mapping[str, Callable[[], Iterator[Row]]] = {
    "mnist": rows, "batch": rates, "hybrid": wholes, "site": references,
}  # fmt: skip
"""By the kind of our rows."""
