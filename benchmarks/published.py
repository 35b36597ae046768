"""Figures of papers for encrypted inference, each with the paper that it is of.

Their hardware is that of their years: a ratio to ours says how far the field has come, not whose
code is better, for which there are peers that run here. `protects` names what is hidden: the
client's data from the server, the model from the client. None where nothing is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from benchmarks.measure import OURS, PUBLISHED, Row


class Figure(NamedTuple):
    """One row of a published table.

    Attributes:
        system: its name. technique: in a few words.
        accuracy_percent: on the test set that the table is of.
        seconds, megabytes: of `queries` queries at once, both ways, keys aside.
        protects: what is hidden, as the row's source states it.
        paper: first author or authors, where, when.
        queries: answered together in that time; 1 for a system that answers one.
        hardware: as far as the row's source states it.
    """

    system: str
    technique: str
    accuracy_percent: float | None
    seconds: float | None
    megabytes: float | None
    protects: str
    paper: str
    queries: int = 1
    hardware: str = "not stated"


REFERENCE = "FHE-Benchmarking.org"
DATA = "client data"
MODEL = "model"
BOTH = "client data, model"
SURVEY_PAPER = "Tanuwidjaja et al., IEEE Access 8 (2020), doi 10.1109/ACCESS.2020.3023084"

SURVEY = (
    Figure("DeepSecure", "garbled circuits, CNN", 98.95, 10_649.0, 722_000.0, MODEL,
           "Rouhani et al., DAC 2018, arXiv 1705.08963", 8192),
    Figure("SecureML", "two-party computation, dense", 93.40, None, None, MODEL,
           "Mohassel & Zhang, S&P 2017, ePrint 2017/396"),
    Figure("MiniONN", "two-party computation", 98.95, 1.04, 47.6, MODEL,
           "Liu et al., CCS 2017, ePrint 2017/452"),
    Figure("ABY3", "three-party computation", 94.00, 0.01, 5.2, MODEL,
           "Mohassel & Rindal, CCS 2018, ePrint 2018/403"),
    Figure("ML Confidential", "levelled HE, dense", 95.00, 255.7, None, DATA,
           "Graepel et al., ICISC 2012, ePrint 2012/323"),
    Figure("CryptoNets", "levelled HE, CNN", 98.95, 697.0, 595.5, DATA,
           "Gilad-Bachrach et al., ICML 2016", 8192),
    Figure("Chabanne et al.", "HE, CNN with batch normalisation", 99.30, None, None, DATA,
           "Chabanne et al., ePrint 2017/035"),
    Figure("E2DM", "HE, data and model encrypted", 98.10, 28.59, 17.48, BOTH,
           "Jiang et al., CCS 2018, ePrint 2018/1041", 64),
    Figure("PPDL via additive HE", "encrypted gradients", 97.00, 120.0, None, BOTH,
           "Phong et al., TIFS 2018, ePrint 2017/715"),
    Figure("CryptoDL", "HE, deeper CNN", 99.52, 320.0, 336.7, DATA,
           "Hesamifard et al., 2017, arXiv 1711.05189", 8192),
    Figure("All-Convolutional Net", "HE", 98.97, 477.6, 361.6, DATA,
           "Liu et al., NBiS 2018", 8192),
    Figure("Multi-key FHE", "distributed multi-key HE", 99.73, None, None, DATA,
           "Xue et al., DSC 2018"),
    Figure("Gazelle", "HE and garbled circuits", None, 0.03, 0.5, BOTH,
           "Juvekar et al., USENIX Security 2018, ePrint 2018/073"),
    Figure("TAPAS", "binary network, TFHE", 98.60, 147.0, None, BOTH,
           "Sanyal et al., ICML 2018, arXiv 1806.03461"),
    Figure("FHE-DiNN", "binary network, TFHE", 96.35, 1.64, 0.0082, BOTH,
           "Bourse et al., CRYPTO 2018, ePrint 2017/1114"),
)  # fmt: skip
"""MNIST, in `SURVEY_PAPER`'s table; protection as that states it.

Times of several queries at once, which that table does not mark: CryptoDL's 164,000 an hour are
20 times 8,192, the slots of its ring, of which CryptoNets and the All-Convolutional Net fill as
many; DeepSecure's figures are 8,192 times 1.3 s and 88 MB; E2DM's abstract says 64. FHE-DiNN's
megabytes are its paper's, up alone, at 80 bits of security.
"""

NEWER = (
    Figure("LoLa", "HE, packed CNN", 98.95, 2.2, None, DATA,
           "Brutzkus et al., ICML 2019, arXiv 1812.10659", hardware="8 cores"),
    Figure("LoLa-Small", "HE, packed", 96.92, 0.29, None, DATA,
           "Brutzkus et al., ICML 2019, arXiv 1812.10659", hardware="8 cores"),
    Figure("LoLa-Large", "HE, packed", 99.20, 14.4, None, DATA,
           "Brutzkus et al., ICML 2019, arXiv 1812.10659", hardware="8 cores"),
    Figure(REFERENCE, "MNIST reference", None, 7.63, None, DATA,
           "FHE-Benchmarking.org, the site's own run"),
)  # fmt: skip

CIFAR = (
    Figure("Kim & Guyot 2023", "CKKS with bootstrapping, ResNet", 92.0, 255.0, None, DATA,
           "Kim & Guyot, TIFS 2023", hardware="one thread"),
    Figure("Kim & Guyot 2023, deeper", "CKKS with bootstrapping, ResNet", 94.0, 398.0, None, DATA,
           "Kim & Guyot, TIFS 2023", hardware="one thread"),
    Figure("bootstrapped ResNet-20, laptop", "CKKS with bootstrapping", 91.7, 336.0, None, DATA,
           "Rovida & Leporati, ePrint 2024/460", hardware="laptop"),
    Figure("Cheddar", "CKKS with bootstrapping, ResNet-20", None, 0.72, None, DATA,
           "Kim et al., arXiv 2407.13055", hardware="a GPU"),
    Figure("levelled CKKS CNN", "CKKS, no bootstrapping", 75.0, 711.0, None, DATA,
           "74 to 76 % as collected from surveys, not traced to a paper"),
)  # fmt: skip
"""CIFAR-10 with all of the network under encryption."""


class Rate(NamedTuple):
    """Encrypted MNIST images a second of a batch, as published; its size where a paper gives it."""

    system: str
    network: str
    images_per_second: float
    hardware: str
    paper: str
    batch: int | None = None
    accuracy_percent: float | None = None


RATES = (
    Rate("CryptoNets on SEAL 3.2", "CryptoNets' network", 8192 / 28, "a CPU",
         "Brutzkus et al., their code for SEAL 3.2", 8192, 98.95),
    Rate("nGraph-HE2", "CryptoNets' network", 1998.0, "a large server",
         "Boemer et al., WAHC 2019, arXiv 1908.04172"),
    Rate("HCNN", "a CNN of MNIST", 2940.0, "a V100 GPU",
         "Al Badawi et al., arXiv 1811.00778"),
)  # fmt: skip
"""Client data hidden, the model open to the server; the fastest figure of each."""


class TrainingStep(NamedTuple):
    """A step of training among three parties, as published; or the accuracy of a whole run."""

    system: str
    network: str
    seconds: float | None
    slow_seconds: float | None
    hardware: str
    paper: str
    accuracy_percent: float | None = None


_TFE = "TF-Encrypted's own table of training benchmarks"
_LAN = "4 cores a party; slow: 40 ms"
TRAINING_STEPS = (
    TrainingStep("MP-SPDZ", "mlp", 0.098, 9.72, _LAN, _TFE),
    TrainingStep("TF-Encrypted", "mlp", 0.167, 4.51, _LAN, _TFE, 96.6),
    TrainingStep("MP-SPDZ", "lenet", 1.175, 91.0, _LAN, _TFE),
    TrainingStep("TF-Encrypted", "lenet", 8.2, 27.0, _LAN, _TFE, 98.6),
    TrainingStep("Keller & Sun", "like lenet", None, None, "3.5 hours in all",
                 "Keller & Sun, ICML 2022", 99.2),
)  # fmt: skip
"""Batches of 128, the same networks as ours but the last."""


def training_steps() -> Iterator[Row]:
    """Every published step as a row of results."""
    for step in TRAINING_STEPS:
        yield {"kind": "training_published", "source": PUBLISHED, **step._asdict()}


def rates() -> Iterator[Row]:
    """Every published rate as a row of results, without what is not known."""
    for rate in RATES:
        known = {name: value for name, value in rate._asdict().items() if value is not None}
        known["evaluation_images_per_second"] = known.pop("images_per_second")
        yield {"kind": "batch", "source": PUBLISHED, "response": "plain", **known}


def rows() -> Iterator[Row]:
    """Figures of one query that the survey does not have, as rows of results."""
    for figure in NEWER:
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
    "training": training_steps,
}  # fmt: skip
"""By the kind of our rows."""
