"""`mpc-training`: one verb for each role in training on secret shares.

local                    all parties on this machine: to try it, and to measure it
keys ─▸ party            one party among real organisations, from a settings file
        dealer           in the place of a third party: it has no data and receives nothing
        serve ◂─▸ query  the model stays shared, and answers clients
"""

import secrets
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer

from he_inference import terminal
from mpc_training import certificates, local_parties, serving
from mpc_training.clear_run import accuracy, train_in_the_clear
from mpc_training.connecting import listen
from mpc_training.errors import MPCError, SettingsError
from mpc_training.model_file import read_model, write_model
from mpc_training.network import Network
from mpc_training.record_files import read_array
from mpc_training.run import PROTOCOLS, Endpoint, Report, Run
from mpc_training.session import open_checkpoints, take_part
from mpc_training.settings import DEFAULT_TIMEOUT, Settings, read_client_settings, read_settings
from mpc_training.sharing import Disclosure
from mpc_training.step_progress import telling, watching
from mpc_training.training import Recipe
from workloads.datasets import DatasetError, Splits, mnist, mnist_sample

_SAMPLE_TEST = 100
_DIVISOR = 255.0
_MAX_SEED = 2**32 - 1

app = typer.Typer(
    help="Train one model on data that nobody may pool.",
    epilog="Try it all at once: mpc-training local --data sample --network mlp --epochs 3",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


# ---------------------------------------------------------------------------- local


@app.command(
    epilog="Example: mpc-training local --parties 3 --data mnist --network mlp --epochs 1 --json"
)
def local(
    parties: Annotated[int, typer.Option(help="3, or 2 and a dealer.")] = 3,
    data: Annotated[str, typer.Option(help="mnist, or sample: 300 images that ship.")] = "sample",
    network: Annotated[str, typer.Option(help="logistic, mlp or lenet.")] = "mlp",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 1,
    steps: Annotated[int | None, typer.Option(help="Stop after so many steps.")] = None,
    batch: Annotated[int, typer.Option(help="Images a step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Of the mean gradient.")] = 0.1,
    momentum: Annotated[float, typer.Option(help="From 0 to below 1.")] = 0.9,
    decay: Annotated[float, typer.Option(help="Of the learning rate, over an epoch.")] = 0.7,
    loss: Annotated[bool, typer.Option(help="Open the mean loss every ten steps.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of first weights and batches; public.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the MNIST files are.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds of silence that end it.")] = (
        DEFAULT_TIMEOUT
    ),
    as_json: Json = False,
) -> None:
    """Deal a data set to parties that are processes of their own, and let them train together.

    The same loop then runs on plain numbers, from the same first weights in the same batches.
    """
    if parties not in PROTOCOLS:
        raise SettingsError(f"--parties {parties}: expected 3, or 2 with a dealer")
    splits = _splits(data, folder)
    recipe = Recipe(learning_rate, momentum, batch, epochs, decay)
    drawn = secrets.randbelow(_MAX_SEED) if seed is None else seed
    if not 0 <= drawn <= _MAX_SEED:
        raise SettingsError(f"--seed {seed}: expected 0 to 2^32 − 1")
    if steps is not None and steps < 1:
        raise SettingsError(f"--steps {steps}: expected 1 or more")
    disclosure = Disclosure(tuple(range(parties)), loss)
    run = Run(_network(network), recipe, disclosure, drawn, steps, owners=parties)
    pixels = np.rint(splits.train.images * _DIVISOR).astype(np.uint8)
    pieces = local_parties.spread(pixels, splits.train.labels, drawn, parties)
    with tempfile.TemporaryDirectory(prefix="mpc-training-") as name:
        place = Path(name)
        settings = local_parties.prepare(place, run, pieces, _DIVISOR, timeout)
        begun = perf_counter()
        with watching(as_json) as watch:
            reports = local_parties.run_parties(settings, resume=False, watch=watch)
        seconds = perf_counter() - begun
        _, weights = read_model(place / "model-0.safetensors")
    with terminal.notes.status("the same loop on plain numbers …"):
        plain = train_in_the_clear(run, pieces, _DIVISOR)
    tested = splits.test.images, splits.test.labels
    values = {
        "accuracy": accuracy(run.network, weights, *tested),
        "plain_accuracy": accuracy(run.network, plain, *tested),
        **local_parties.figures(reports),
        "protocol": PROTOCOLS[parties],
        "parties": parties,
        "steps": reports[0]["steps"],
        "batch": batch,
        "network": network,
        "data": data,
        "test_images": len(splits.test),
        "seconds": seconds,
        "rollbacks": reports[0]["rollbacks"],
        "loss": reports[0]["loss"],
        "largest_weight_difference": float(np.abs(weights - plain).max()),
        "seed": drawn,
    }
    text = (
        f"accuracy   {values['accuracy']:.2%} of {len(splits.test)} test images, "
        f"{values['plain_accuracy']:.2%} by the same loop on plain numbers\n"
        f"a step     {values['seconds_per_step'] * 1e3:.0f} ms, "
        f"{values['cpu_seconds_per_step']:.3f} CPU seconds of all parties, "
        f"{values['bytes_per_step'] / 1e6:.2f} MB, {values['rounds_per_step']} rounds\n"
        f"the run    {values['steps']} steps in {seconds:.0f} s\n"
        f"protocol   {PROTOCOLS[parties]}"
    )
    terminal.report(values, text, as_json)


def _splits(data: str, folder: Path | None) -> Splits:
    if data == "mnist":
        return mnist(folder)
    if data != "sample":
        raise SettingsError(f"--data {data!r}: expected mnist or sample")
    whole = mnist_sample()
    return Splits(whole.take(slice(_SAMPLE_TEST, None)), whole.take(slice(_SAMPLE_TEST)))


def _network(name: str) -> Network:
    from mpc_training.torch_modules import from_torch
    from workloads.shared_networks import INPUT_SHAPE, NETWORKS

    if name not in NETWORKS:
        raise SettingsError(f"--network {name!r}: expected one of {', '.join(NETWORKS)}")
    return from_torch(NETWORKS[name](), INPUT_SHAPE)


# ---------------------------------------------------------------------------- among organisations


@app.command(epilog="Example: mpc-training keys alpha --folder keys")
def keys(
    name: Annotated[str, typer.Argument(help="This party's name: letters, digits, '-', '_'.")],
    folder: Annotated[Path, typer.Option(help="Where to write; must exist.")] = Path(),
    days: Annotated[int, typer.Option(help="How long the certificate is valid.")] = (
        certificates.VALID_DAYS
    ),
    as_json: Json = False,
) -> None:
    """Make a private key, which stays here, and a certificate, which the other parties need."""
    files = certificates.make(name, folder, days=days)
    fingerprint = certificates.fingerprint(certificates.read(files.certificate))
    values = {
        "certificate": str(files.certificate),
        "private_key": str(files.private_key),
        "fingerprint": fingerprint,
    }
    text = (
        f"{files.certificate}  for the other parties; let them compare this with you:\n"
        f"  {fingerprint}\n{files.private_key}  stays here"
    )
    terminal.report(values, text, as_json)


@app.command(epilog="Example: mpc-training party alpha.toml --resume")
def party(
    settings: Annotated[Path, typer.Argument(help="TOML file; see examples/parties.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last common checkpoint.")
    ] = False,
    lines: Annotated[
        bool, typer.Option("--progress", help="With --json: a line of progress every second.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take part in a training run with the other parties of a settings file."""
    chosen = read_settings(settings)
    if chosen.data is None:
        raise SettingsError(f"{settings} is a dealer's: start it with `mpc-training dealer`")
    report = _took_part(chosen, resume, as_json, lines)
    written = report.weights is not None and chosen.model is not None
    if report.weights is not None and chosen.model is not None:
        write_model(chosen.model, chosen.run.network, report.weights)
    model = str(chosen.model) if written else None
    where = f"model written to {model}" if written else "this party gets no model"
    text = f"{report.steps} steps, {sum(report.step_bytes) / 1e6:.1f} MB sent from here; {where}"
    terminal.report({"party": chosen.party, "model": model, **_figures(report)}, text, as_json)


@app.command(epilog="Example: mpc-training dealer dealer.toml")
def dealer(
    settings: Annotated[Path, typer.Argument(help="TOML file; see examples/parties.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last common checkpoint.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Deal randomness to two parties that train together; it learns nothing, if it colludes with
    neither."""
    chosen = read_settings(settings)
    if chosen.data is not None:
        raise SettingsError(f"{settings} is a party's: start it with `mpc-training party`")
    report = _took_part(chosen, resume, as_json, False)
    text = f"{report.steps} steps, {sum(report.step_bytes) / 1e6:.1f} MB dealt"
    terminal.report({"party": chosen.party, **_figures(report)}, text, as_json)


def _took_part(chosen: Settings, resume: bool, as_json: bool, lines: bool) -> Report:
    own = chosen.addresses[chosen.party]
    holding = chosen.holding()
    with listen(own.host, own.port) as listener, telling(as_json, lines) as progress:
        return take_part(
            chosen.run,
            holding,
            Endpoint(chosen.party, chosen.addresses, chosen.identity, listener, chosen.timeout),
            checkpoints=chosen.checkpoints,
            resume=resume,
            progress=progress,
        )


@app.command(epilog="Example: mpc-training serve alpha.toml")
def serve(
    settings: Annotated[Path, typer.Argument(help="The TOML file that `party` trained with.")],
    queries: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many queries; never by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer queries about a model that stays shared, with the other parties that trained it."""
    chosen = read_settings(settings)
    if chosen.serving is None or chosen.checkpoints is None:
        raise SettingsError(f"{settings} needs [serving], and `checkpoints` to serve from")
    store = open_checkpoints(chosen.checkpoints, chosen.run, chosen.holding())
    own, door = chosen.addresses[chosen.party], chosen.serving
    costs: list[serving.Answered] = []
    with listen(own.host, own.port) as listener, listen(door.host, door.port) as entrance:
        serving.serve(
            chosen.run,
            store,
            Endpoint(chosen.party, chosen.addresses, chosen.identity, listener, chosen.timeout),
            serving.Door(entrance, door.clients),
            queries=queries,
            ready=lambda: terminal.notes.print(f"party {chosen.party} answers queries"),
            answered=costs.append,
        )
    values = {
        "party": chosen.party,
        "queries": len(costs),
        "rows": sum(cost.rows for cost in costs),
        "bytes_sent": sum(cost.bytes_sent for cost in costs),
        "rounds_per_query": costs[-1].rounds if costs else 0,
    }
    text = f"{values['queries']} queries, {values['bytes_sent'] / 1e6:.2f} MB sent from here"
    terminal.report(values, text, as_json)


@app.command(epilog="Example: mpc-training query client.toml scans.npy --divisor 255")
def query(
    settings: Annotated[Path, typer.Argument(help="TOML file; see examples/parties.")],
    rows: Annotated[Path, typer.Argument(help="Rows to ask about: .npy or IDX.")],
    divisor: Annotated[float, typer.Option(help="What to divide values by.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Ask the parties about rows that none of them sees: the most likely class of each."""
    chosen = read_client_settings(settings)
    array = read_array(rows)
    if array.ndim < 2 or not divisor > 0:
        raise SettingsError(f"{rows}: shape {array.shape}, divisor {divisor:g}: expected rows, > 0")
    begun = perf_counter()
    logits, sent = serving.query(
        chosen.addresses, chosen.identity, np.asarray(array, np.float64) / divisor, chosen.timeout
    )
    seconds = perf_counter() - begun
    labels = logits.argmax(1).tolist()
    values = {"labels": labels, "logits": logits.tolist(), "bytes_sent": sent, "seconds": seconds}
    text = (
        f"{' '.join(map(str, labels))}\n{seconds * 1e3:.0f} ms, {sent / 1e3:.0f} kB sent from here"
    )
    terminal.report(values, text, as_json)


def _figures(report: Report) -> dict[str, Any]:
    return {
        "steps": report.steps,
        "resumed_at": report.resumed_at,
        "rollbacks": report.rollbacks,
        "records": report.records,
        "loss": report.loss,
        "step_seconds": report.step_seconds,
        "step_cpu_seconds": report.step_cpu_seconds,
        "step_bytes": report.step_bytes,
        "step_rounds": report.step_rounds,
    }


def main() -> None:
    """Run a verb; a user's mistake is one line on stderr and exit code 2."""
    terminal.main(app, "mpc-training", "parties", MPCError, DatasetError)


if __name__ == "__main__":
    main()
