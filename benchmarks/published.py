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
        paper: first author or authors, where, when, and where to read it: a DOI, an arXiv or
            ePrint number, or a page and its part. `UNTRACED` where figures were in none of these.
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
UNTRACED = "figures as collected, not traced to a page"
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
           "Gilad-Bachrach et al., ICML 2016, PMLR 48", 8192),
    Figure("Chabanne et al.", "HE, CNN with batch normalisation", 99.30, None, None, DATA,
           "Chabanne et al., ePrint 2017/035"),
    Figure("E2DM", "HE, data and model encrypted", 98.10, 28.59, 17.48, BOTH,
           "Jiang et al., CCS 2018, ePrint 2018/1041", 64),
    Figure("PPDL via additive HE", "encrypted gradients", 97.00, 120.0, None, BOTH,
           "Phong et al., TIFS 2018, ePrint 2017/715"),
    Figure("CryptoDL", "HE, deeper CNN", 99.52, 320.0, 336.7, DATA,
           "Hesamifard et al., 2017, arXiv 1711.05189", 8192),
    Figure("All-Convolutional Net", "HE", 98.97, 477.6, 361.6, DATA,
           "Liu et al., NBiS 2018, by the survey's list", 8192),
    Figure("Multi-key FHE", "distributed multi-key HE", 99.73, None, None, DATA,
           "Xue et al., DSC 2018, by the survey's list"),
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
many; DeepSecure's figures are 8,192 times 1.3 s and 88 MB; E2DM's abstract says 64, and in its
newest version 1.69 s for them. FHE-DiNN's megabytes are its paper's, up alone, at 80 bits of
security.
"""

REFERENCE_STAGES = {
    "client_key_generation_seconds": 0.9751, "client_preprocess_input_seconds": 0.0035,
    "client_encode_encrypt_input_seconds": 0.09247, "server_encrypted_compute_seconds": 7.6306,
    "client_decrypt_decode_seconds": 0.08393, "client_postprocess_seconds": 0.0,
}  # fmt: skip
"""One image, on the site's own page; there the last but one stage is the last as well."""
REFERENCE_BYTES = {
    "public_keys_bytes": 1e9, "ciphertexts_upload_bytes": 5e6, "ciphertexts_download_bytes": 1e6,
}  # fmt: skip
"""Rounded there: 1 G, 5 M, 1 M."""
_ASKING = sum(REFERENCE_STAGES.values()) - REFERENCE_STAGES["client_key_generation_seconds"]

NEWER = (
    Figure("LoLa", "HE, packed CNN", 98.95, 2.2, None, DATA,
           "Brutzkus et al., ICML 2019, arXiv 1812.10659", hardware="8 cores"),
    Figure("LoLa-Small", "HE, packed", 96.92, 0.29, None, DATA,
           "Brutzkus et al., ICML 2019, arXiv 1812.10659", hardware="8 cores"),
    Figure("LoLa-Large", "HE, packed", 99.20, 14.4, None, DATA,
           f"Brutzkus et al., ICML 2019, arXiv 1812.10659; {UNTRACED}", hardware="8 cores"),
    Figure(REFERENCE, "MNIST reference", None, _ASKING, 6.0, DATA,
           "fhe-benchmarking.github.io, ml-inference/Single.html, run of 2026-02-20"),
)  # fmt: skip

_RESNETS = "time as in arXiv 2508.11575, section 2"
CIFAR = (
    Figure("Kim & Guyot 2023", "CKKS with bootstrapping, 20 layers", 92.04, 255.0, None, DATA,
           f"Kim & Guyot, TIFS 2023, doi 10.1109/TIFS.2023.3263631; {_RESNETS}"),
    Figure("Kim & Guyot 2023, deeper", "CKKS with bootstrapping", 94.0, 398.0, None, DATA,
           f"Kim & Guyot, TIFS 2023, doi 10.1109/TIFS.2023.3263631; {UNTRACED}"),
    Figure("bootstrapped ResNet-20, laptop", "CKKS with bootstrapping", 91.53, 260.0, None, DATA,
           f"Rovida & Leporati, IJNS 2024, ePrint 2024/460; {_RESNETS}", hardware="laptop"),
    Figure("Cheddar", "CKKS with bootstrapping, ResNet-20", None, 0.72, None, DATA,
           "Choi, Kim & Ahn, ASPLOS 2026, arXiv 2407.13055v2", hardware="an RTX 5090 GPU"),
    Figure("LoLa on SEAL 3.2", "levelled BFV, no bootstrapping", 76.31, 750.0, None, DATA,
           "Brutzkus et al., README of github.com/microsoft/CryptoNets, CifarCryptoNets",
           hardware="8 virtual cores, Azure B8ms"),
)  # fmt: skip
"""CIFAR-10 with all of the network under encryption.

Tables of others differ: arXiv 2408.15231 has 368 s at 92.1 % for Kim & Guyot, and 336 s at 91.7 %
for Rovida & Leporati, whose own abstract says less than five minutes at 91.67 %.
"""


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
    Rate("CryptoNets on SEAL 3.2", "CryptoNets' network", 8192 / 25.578, "a CPU",
         "Brutzkus et al., README of github.com/microsoft/CryptoNets, CryptoNets", 8192),
    Rate("nGraph-HE2", "CryptoNets' network", 1998.0, "a large server",
         "Boemer et al., WAHC 2019, arXiv 1908.04172"),
    Rate("HCNN", "a CNN of MNIST, above 80 bits", 8192 / 5.16, "a V100 GPU",
         "Al Badawi et al., arXiv 1811.00778v3", 8192, 99.0),
)  # fmt: skip
"""Client data hidden, the model open to the server.

CryptoNets' 25.578 s are from its first layer's start to its last one's end, encryption aside.
HCNN's 5.16 s are its abstract's, for an image or a batch.
"""


class TrainingStep(NamedTuple):
    """A step of training among three parties, and the accuracy of a whole run, as published."""

    system: str
    network: str
    seconds: float | None
    slow_seconds: float | None
    hardware: str
    paper: str
    accuracy_percent: float | None = None


_TFE = "README of TF-Encrypted 0.9.1, benchmark 3, SGD"
_LAN = "4 cores a party; slow: 40 ms there and back, 352 Mbit/s"
TRAINING_STEPS = (
    TrainingStep("MP-SPDZ", "mlp", 0.098, 9.724, _LAN, _TFE, 96.7),
    TrainingStep("TF-Encrypted", "mlp", 0.167, 4.510, _LAN, _TFE, 96.5),
    TrainingStep("MP-SPDZ", "like lenet", 1.175, 91.341, _LAN, _TFE, 98.5),
    TrainingStep("TF-Encrypted", "like lenet", 8.198, 27.102, _LAN, _TFE, 98.7),
    TrainingStep("Keller & Sun", "like lenet", None, None, "3.5 hours in all",
                 "Keller & Sun, ICML 2022, ePrint 2022/933", 99.2),
)  # fmt: skip
"""Batches of 128. Their network A is our `mlp`; C has 431,080 weights where our `lenet` has 44,426,
and takes maxima where that pools by means.
"""


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
           "paper": figure.paper, "images": 1, "seconds": figure.seconds,
           "seconds_each": figure.seconds, **REFERENCE_STAGES, **REFERENCE_BYTES}  # fmt: skip


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
