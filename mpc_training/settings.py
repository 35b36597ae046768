"""One party's settings, from a TOML file that only that party needs to keep.

    party = 0                                    # this party's place in the list below
    timeout = 60                                 # seconds of silence that end a run
    seed = 7                                     # public; the same for all parties
    model = "model.safetensors"                  # written here if this party gets the model
    checkpoints = "checkpoints"                  # folder; leave it out to keep none
    checkpoint_every = 50                        # steps

    [identity]
    certificate = "alpha.certificate.pem"        # made by `mpc-training keys alpha`
    private_key = "alpha.key.pem"

    [[parties]]                                  # three of them, in the same order everywhere
    address = "10.0.0.1:9000"
    certificate = "alpha.certificate.pem"

    [dealer]                                     # instead of the third party
    address = "10.0.0.9:9000"
    certificate = "dealer.certificate.pem"

    [data]
    kind = "rows"                                # or "columns"
    features = "scans.npy"                       # .csv, .npy, IDX, or a folder of images
    labels = "labels.npy"                        # for CSV: label_column, id_column, columns
    divisor = 255

    [schema]                                     # what all agreed that records look like: optional
    columns = ["age", "pressure"]                # names and order in CSV files of rows
    classes = ["healthy", "ill"]                 # folders of images, in the order of labels
    low = 0                                      # between which features are, once divided
    high = 1

    [training]
    learning_rate = 0.1                          # momentum, batch, epochs, decay, steps

    [opened]
    model_to = [0, 1, 2]
    loss = false

    [network]
    input_shape = [784]
    [[network.layers]]
    kind = "Linear"                              # Conv2d, AvgPool2d, Relu, Square, Flatten
    inputs = 784
    outputs = 10

    [serving]                                    # for `mpc-training serve`, after training
    address = "10.0.0.1:9100"                    # where clients reach this party
    clients = ["client.certificate.pem"]         # who may ask

A dealer's file has no `party`, no `model` and no [data]. A client's file holds `timeout`,
[identity], and [[parties]] and [dealer] with the addresses for clients.
Paths are relative to the file. What is not understood is an error, never ignored.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from mpc_training import certificates
from mpc_training.connecting import Address, Identity
from mpc_training.errors import SettingsError
from mpc_training.holdings import Holding, read_holding
from mpc_training.network import read_network
from mpc_training.party import HELPER, PARTIES
from mpc_training.run import Run
from mpc_training.schema import Schema
from mpc_training.sharing import Disclosure
from mpc_training.training import Recipe

_MAX_BYTES = 2**20
_TOP = {
    "party", "timeout", "seed", "model", "checkpoints", "checkpoint_every", "identity", "parties",
    "dealer", "data", "schema", "training", "opened", "network", "serving",
}  # fmt: skip
_DATA = {
    "kind", "features", "labels", "divisor", "columns", "label_column", "id_column",
}  # fmt: skip
DEFAULT_TIMEOUT = 60.0

Found = TypeVar("Found")


@dataclass(frozen=True)
class Serving:
    """Where this party answers clients, and the certificates (DER) of those."""

    host: str
    port: int
    clients: tuple[bytes, ...]


@dataclass(frozen=True)
class ClientSettings:
    """Whom a client asks, as whom, and after how many seconds of silence it gives up."""

    addresses: tuple[Address, ...]
    identity: Identity
    timeout: float


@dataclass(frozen=True)
class Settings:
    """What a settings file says, checked. party: the last place is a dealer's, who has no data."""

    party: int
    run: Run
    addresses: tuple[Address, ...]
    identity: Identity
    timeout: float
    model: Path | None
    checkpoints: Path | None
    data: Mapping[str, Any] | None
    folder: Path
    serving: Serving | None

    def holding(self) -> Holding | None:
        """Read this party's records; a dealer has none. Raises `DataError`."""
        if self.data is None:
            return None
        data = dict(self.data)
        labels = data.pop("labels", None)
        columns = data.pop("columns", None)
        shape = self.run.network.input_shape if data["kind"] == "rows" else None
        features, classes = self.folder / data.pop("features"), self.run.schema.classes
        if features.is_dir() and classes is None:
            raise SettingsError(
                f"{features} is a folder of images: all parties must agree on the names and the "
                "order of its folders, in [schema] classes"
            )
        return read_holding(
            data.pop("kind"),
            features,
            classes=classes,
            labels=None if labels is None else self.folder / labels,
            columns=None if columns is None else tuple(columns),
            shape=shape,
            **data,
        )


def read_settings(path: Path) -> Settings:
    """Read and check a settings file. Raises `SettingsError`, or what its parts raise."""
    return _read(path, _TOP, _checked)


def _read(path: Path, known: set[str], check: Callable[[Mapping[str, Any], Path], Found]) -> Found:
    try:
        with path.open("rb") as file:
            content = tomllib.loads(file.read(_MAX_BYTES).decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read as TOML: {error}") from None
    _only("the file", content, known)
    try:
        return check(content, path.absolute().parent)
    except KeyError as error:
        raise SettingsError(
            f"{path} lacks {error.args[0]!r}: see `mpc-training party --help`"
        ) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"{path}: a value has the wrong type ({error})") from None


def _checked(content: Mapping[str, Any], folder: Path) -> Settings:
    timeout, addresses = _timeout(content), _addresses(content, folder)
    owners = len(content["parties"])
    deals = "party" not in content and "dealer" in content
    party = HELPER if deals else content["party"]
    if not (isinstance(party, int) and (deals or 0 <= party < owners)):
        raise SettingsError(f"party {party!r}: expected 0 to {owners - 1}")
    identity = _identity(content, folder)
    if certificates.read(identity.certificate) != addresses[party].certificate:
        whose = "[dealer]" if deals else f"party {party} in [[parties]]"
        raise SettingsError(f"[identity] has another certificate than {whose}: correct either one")
    model, store = content.get("model"), content.get("checkpoints")
    return Settings(
        party,
        _run(content, owners),
        addresses,
        identity,
        timeout,
        None if model is None else folder / model,
        None if store is None else folder / store,
        _data(content, deals),
        folder,
        _serving(content.get("serving"), folder),
    )


def _data(content: Mapping[str, Any], deals: bool) -> Mapping[str, Any] | None:
    if deals:
        if "data" in content or "model" in content:
            raise SettingsError("a dealer has no [data] and gets no model: remove them")
        return None
    data: Mapping[str, Any] = content["data"]
    _only("[data]", data, _DATA)
    if data["kind"] not in ("rows", "columns"):
        raise SettingsError(f"[data] kind {data['kind']!r}: expected rows or columns")
    return data


def _addresses(content: Mapping[str, Any], folder: Path) -> tuple[Address, ...]:
    """Of all parties, the dealer's last."""
    entries = [*content["parties"], *([content["dealer"]] if "dealer" in content else [])]
    addresses = tuple(_address(entry, folder) for entry in entries)
    if len(addresses) != PARTIES or len({a.certificate for a in addresses}) != PARTIES:
        raise SettingsError(
            f"[[parties]] lists {len(content['parties'])} parties: expected three, or two and a "
            "[dealer], with certificates of their own"
        )
    return addresses


def _serving(content: Mapping[str, Any] | None, folder: Path) -> Serving | None:
    if content is None:
        return None
    _only("[serving]", content, {"address", "clients"})
    host, port = _host_port(content["address"])
    clients = tuple(certificates.read(folder / path) for path in content["clients"])
    if not clients:
        raise SettingsError(
            "[serving] lists no clients: expected certificates of those who may ask"
        )
    return Serving(host, port, clients)


def read_client_settings(path: Path) -> ClientSettings:
    """Read and check a client's settings file. Raises as `read_settings` does."""
    return _read(path, {"timeout", "identity", "parties", "dealer"}, _client)


def _client(content: Mapping[str, Any], folder: Path) -> ClientSettings:
    identity = _identity(content, folder)
    return ClientSettings(_addresses(content, folder), identity, _timeout(content))


def _identity(content: Mapping[str, Any], folder: Path) -> Identity:
    names = content["identity"]
    identity = Identity(folder / names["certificate"], folder / names["private_key"])
    certificates.check_private(identity.private_key)
    certificates.read(identity.certificate)
    return identity


def _timeout(content: Mapping[str, Any]) -> float:
    timeout = float(content.get("timeout", DEFAULT_TIMEOUT))
    if not 0.1 <= timeout <= 86400:
        raise SettingsError(f"timeout {timeout:g}: expected 0.1 to 86400 seconds")
    return timeout


def _run(content: Mapping[str, Any], owners: int) -> Run:
    training = dict(content.get("training", {}))
    steps = training.pop("steps", None)
    _only("[training]", training, {field.name for field in fields(Recipe)})
    opened = content.get("opened", {})
    _only("[opened]", opened, {"model_to", "loss"})
    model_to = tuple(int(index) for index in opened.get("model_to", range(owners)))
    seed, every = int(content["seed"]), int(content.get("checkpoint_every", 50))
    if not 0 <= seed < 2**63 or not 0 <= every < 2**31 or (steps is not None and int(steps) < 1):
        raise SettingsError(
            f"seed {seed}, checkpoint_every {every}, steps {steps}: expected a seed below 2^63 and "
            "counts that are not negative"
        )
    return Run(
        read_network(content["network"]),
        Recipe(**training),
        Disclosure(model_to, bool(opened.get("loss", False))),
        seed,
        None if steps is None else int(steps),
        every,
        owners,
        _schema(content.get("schema", {})),
    )


def _schema(content: Mapping[str, Any]) -> Schema:
    _only("[schema]", content, {field.name for field in fields(Schema)})
    columns, classes = (
        None if each is None else tuple(map(str, each))
        for each in (content.get("columns"), content.get("classes"))
    )
    low, high = (
        None if end is None else float(end) for end in (content.get("low"), content.get("high"))
    )
    return Schema(columns, classes, low, high)


def _address(entry: Mapping[str, Any], folder: Path) -> Address:
    _only("[[parties]] or [dealer]", entry, {"address", "certificate"})
    host, port = _host_port(entry["address"])
    return Address(host, port, certificates.read(folder / entry["certificate"]))


def _host_port(text: Any) -> tuple[str, int]:
    host, _, port = str(text).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise SettingsError(f"address {text!r}: expected HOST:PORT")
    return host, int(port)


def _only(where: str, found: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(found) - known)
    if unknown:
        raise SettingsError(
            f"{where} holds {', '.join(unknown)}: expected only {', '.join(sorted(known))}"
        )
