"""The client's side of a bundle: features here, encrypted query, decrypted answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

import he_inference
from he_inference import BatchSignature, CoefficientSignature, RemoteServer
from he_inference.errors import UnknownKey
from private_models.backbones.catalogue import Kind, named
from private_models.backbones.extraction import Backbone
from private_models.errors import BundleError, InputError, OptionError
from private_models.features import check_matrix, check_values
from private_models.hybrid.public_part import PublicPart, load_public
from private_models.solvers.task import Progress, silent
from private_models.statement import Statement

Array = npt.NDArray[np.float64]
STAGES = ("backbone", "encrypt", "server", "decrypt")


class _Server(Protocol):
    """`hybrid.Server`, or one behind HTTP."""

    def signature(self) -> Any: ...
    def register(self, evaluation_keys: bytes) -> str: ...
    def evaluate(self, query: bytes) -> bytes: ...


@dataclass(frozen=True, eq=False)
class Answer:
    """To one query.

    Attributes:
        label: the class with the largest score. scores: (K,) float64.
        features: (d,) float32, as they were encrypted. query, answer: the bytes that went to the
            server and came back. milliseconds: elapsed, by STAGES.
    """

    label: Any
    scores: Array
    features: npt.NDArray[np.float32]
    query: bytes
    answer: bytes
    milliseconds: dict[str, float]


@dataclass(frozen=True, eq=False)
class Answers:
    """To many.

    Attributes:
        labels: (n,). scores: (n, K) float64. bytes_up, bytes_down: of all messages, without keys.
        milliseconds: elapsed, by STAGES, over all queries.
    """

    labels: npt.NDArray[Any]
    scores: Array
    bytes_up: int
    bytes_down: int
    milliseconds: dict[str, float]


class Client:
    """Makes features and keys, encrypts, decrypts. Keys and inputs never leave this process.

    Guarantee: the server learns nothing of queries and answers, as `he_inference.Client` says, as
    long as nothing decrypted goes back to it. Use it as a context manager.
    """

    def __init__(
        self,
        public: PublicPart | str | Path,
        server: _Server | str | None = None,
        *,
        backbone: Backbone | None = None,
        batch_server: _Server | str | None = None,
        insecure_plain_http: bool = False,
    ) -> None:
        """public: a bundle's public part, or its folder. server: what answers single queries, or
        its URL. batch_server: what answers batches; unless named, `batches` of a `hybrid.Server`.
        Without any there are features, and no answers. backbone: where it is not in the catalogue.

        Raises `BundleError` for a public part that is not sound, a backbone with another digest, or
        a server with another version of the head; `BackboneError` for one that is not installed.
        """
        self.public = public if isinstance(public, PublicPart) else load_public(public)
        self._backbone = backbone or named(self.public.backbone)
        self.public.check_backbone(self._backbone)
        self._plain = insecure_plain_http
        self._single = _Side(self.public.single, self._reached(server))
        self._batch = None
        if self.public.batch is not None:
            beside = getattr(server, "batches", None)
            self._batch = _Side(self.public.batch, self._reached(batch_server or beside))

    def _reached(self, server: _Server | str | None) -> "_Server | None":
        if isinstance(server, str):
            return RemoteServer(server, insecure_plain_http=self._plain)
        return server

    @property
    def kind(self) -> Kind:
        """What `ask` takes: "picture" (PIL), "text" (str), "digit" (grey), "vector" (array)."""
        return self.public.kind

    @property
    def classes(self) -> npt.NDArray[Any]:
        """(K,) labels, in the order of scores."""
        return self.public.classes

    @property
    def statement(self) -> Statement | None:
        """What was promised to those whose rows the head was trained on."""
        return self.public.statement

    @property
    def backbone_name(self) -> str:
        return self.public.backbone

    @property
    def key_bytes(self) -> int:
        """Evaluation keys for single queries, sent once."""
        return len(self._single.client.evaluation_keys())

    @property
    def batch_key_bytes(self) -> int:
        """Evaluation keys for batches, sent once."""
        return len(self._many().client.evaluation_keys())

    def features(self, inputs: Sequence[object]) -> npt.NDArray[np.float32]:
        """(n, d), by the backbone. Raises `InputError` for inputs of another kind."""
        return self._backbone.features(inputs)

    def query(self, value: object) -> tuple[Any, Array]:
        """Label and scores (K,) of one input. Raises as `ask` does."""
        answer = self.ask(value)
        return answer.label, answer.scores

    def ask(self, value: object) -> Answer:
        """One encrypted query. Raises `InputError` for an input of another kind, `BundleError` for
        a server with another head, and what the server or the way to it raises."""
        self._single.connected()
        begun = perf_counter()
        rows = self.features([value])
        answer = self.ask_features(rows[0])
        spent = (perf_counter() - begun) * 1e3 - sum(answer.milliseconds.values())
        answer.milliseconds["backbone"] += spent
        return answer

    def ask_features(self, features: npt.ArrayLike) -> Answer:
        """As `ask`, of features (d,) that the backbone gave."""
        self._single.connected()
        rows = self._prepared(np.asarray(features)[None])
        clock = _Clock()
        query = clock.of("encrypt", lambda: self._single.client.encrypt(rows))
        answer = clock.of("server", lambda: self._single.evaluate(query))
        scores = clock.of("decrypt", lambda: self._single.client.decrypt(answer))[0]
        label = self.classes[int(scores.argmax())]
        return Answer(label, scores, rows[0], query, answer, clock.milliseconds)

    def ask_many(self, inputs: Sequence[object], progress: Progress = silent) -> Answers:
        """Thousands of queries, as many in a message as fit. Raises as `ask` does."""
        self._many().connected()
        begun = perf_counter()
        rows = self.features(inputs)
        spent = (perf_counter() - begun) * 1e3
        answers = self.ask_many_features(rows, progress)
        answers.milliseconds["backbone"] += spent
        return answers

    def ask_many_features(self, features: npt.ArrayLike, progress: Progress = silent) -> Answers:
        """As `ask_many`, of features (n, d) that the backbone gave."""
        side, rows, clock = self._many(), self._prepared(features), _Clock()
        side.connected()
        found, up, down = [], 0, 0
        most = side.client.max_queries
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            query = clock.of("encrypt", lambda part=part: side.client.encrypt(part))
            answer = clock.of("server", lambda query=query: side.evaluate(query))
            found.append(clock.of("decrypt", lambda answer=answer: side.client.decrypt(answer)))
            up, down = up + len(query), down + len(answer)
            progress("encrypted queries", start + len(part), len(rows))
        scores = np.concatenate(found)
        return Answers(self.classes[scores.argmax(1)], scores, up, down, clock.milliseconds)

    def _prepared(self, features: npt.ArrayLike) -> npt.NDArray[np.float32]:
        matrix = check_values(check_matrix(features))
        width = self.public.single.input_shape[0]
        if (feature_map := self.public.feature_map) is not None:
            width = feature_map.width_in
        if matrix.shape[1] != width:
            raise InputError(f"{matrix.shape[1]} features, the head takes {width}")
        return self.public.prepare(matrix)

    def _many(self) -> "_Side":
        if self._batch is None:
            raise OptionError("this bundle answers single queries only: use ask")
        return self._batch

    def close(self) -> None:
        """Forget the keys, end processes that encrypt, and close connections."""
        self._single.close()
        if self._batch is not None:
            self._batch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class _Clock:
    """Elapsed milliseconds by stage."""

    milliseconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def of(self, stage: str, call: Any) -> Any:
        begun = perf_counter()
        result = call()
        self.milliseconds[stage] += (perf_counter() - begun) * 1e3
        return result


class _Side:
    """Single queries, or batches: keys, and the server that answers. Keys are made when needed."""

    def __init__(
        self, signature: CoefficientSignature | BatchSignature, server: _Server | None
    ) -> None:
        self._signature, self._server = signature, server
        self._client: he_inference.Client | None = None
        self._known = False

    @property
    def client(self) -> he_inference.Client:
        if self._client is None:
            self._client = he_inference.Client(self._signature)
        return self._client

    def connected(self) -> _Server:
        """The server, which has the head that the signature is of, and this client's keys."""
        if self._server is None:
            raise OptionError("no server was given to this client: Client(public, server)")
        if not self._known:
            if self._server.signature().digest != self._signature.digest:
                raise BundleError(
                    "the server has another version of the head than this public part: get the "
                    "public part anew"
                )
            self._server.register(self.client.evaluation_keys())
            self._known = True
        return self._server

    def evaluate(self, query: bytes) -> bytes:
        try:
            return self.connected().evaluate(query)
        except UnknownKey:  # it started anew, or made room for others
            self._known = False
            return self.connected().evaluate(query)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        if isinstance(self._server, RemoteServer):
            self._server.close()
        self._client, self._known = None, False
