"""The verbs that make networks into programs: train, compile, plan."""

from pathlib import Path
from typing import Annotated

import typer

import he_inference
from he_inference import terminal, user_files
from he_inference.errors import InputError, ModelFileError
from he_inference.plan_table import plan_table
from he_inference.tensor_file import read_format
from he_inference.verbs.options import (
    Examples,
    Json,
    NetworkFile,
    Optimise,
    Output,
    Precision,
    check_range,
)
from workloads.images import read_images

_MAX_SEED = 2**32 - 1
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80\x02\x8a\x0a"
"""What torch.save begins with, now and formerly."""

app = typer.Typer()


@app.command(
    epilog="Example: he-inference train --architecture mnist-cnn --output mnist.safetensors"
)
def train(
    output: Output,
    architecture: Annotated[
        str,
        typer.Option(
            help="mnist-cnn, mnist-deep, mnist-quadratic, mnist-quadratic-wide, tutorial-cnn or "
            "cryptonets."
        ),
    ] = ("mnist-cnn"),
    epochs: Annotated[int | None, typer.Option(help="Default: what the recipe says.")] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal networks.")] = 0,
    data: Annotated[Path | None, typer.Option(help="Folder with the MNIST files.")] = None,
    as_json: Json = False,
) -> None:
    """Train a network that survives encryption, on MNIST, most with another as teacher."""
    import torch

    from workloads.datasets import mnist
    from workloads.fitting import FittingError, fitting_progress
    from workloads.training import PLANS, TEACHER, train_mnist

    names = [name for name in PLANS if name != TEACHER]  # its ReLUs have no encrypted form
    if architecture not in names:
        raise InputError(f"--architecture {architecture!r}: expected one of {', '.join(names)}")
    check_range("--seed", seed, 0, _MAX_SEED)
    user_files.check_output(output)
    torch.set_num_threads(1)  # steps are small: a second thread costs more than it brings
    splits = mnist(data)
    try:
        if as_json or not terminal.notes.is_terminal:
            module, result = train_mnist(architecture, epochs=epochs, seed=seed, data=splits)
        else:
            with fitting_progress() as progress:
                module, result = train_mnist(
                    architecture, epochs=epochs, seed=seed, data=splits, progress=progress
                )
    except FittingError as error:
        raise InputError(str(error)) from None
    he_inference.from_torch(module, splits.train.images[:64]).save(output.resolve())
    values = {
        "model": str(output),
        "architecture": architecture,
        "test_accuracy": result.test_accuracy,
        "teacher_accuracy": result.teacher_accuracy,
        "seconds": result.seconds,
    }
    text = f"{output}: {result.test_accuracy:.2%} of the test images, {result.seconds:.0f} s"
    terminal.report(values, text, as_json)


def signature_path(program: Path) -> Path:
    """Where `compile` puts the public part of a program."""
    return program.with_name(program.name + ".signature")


@app.command(
    name="compile",
    epilog="Example: he-inference compile mnist.safetensors --output mnist.program",
)
def compile_(
    model: NetworkFile,
    output: Output,
    layout: Annotated[
        str,
        typer.Option(
            help="coefficients or packed for single answers, auto for the better of the two, "
            "batched for thousands."
        ),
    ] = "auto",
    response: Annotated[
        str | None,
        typer.Option(
            help="private, unless said: answers show scores alone; plain: the weights too, to a "
            "client that looks."
        ),
    ] = None,
    optimise: Optimise = "balanced",
    precision: Precision = 10.0,
    examples: Examples = None,
    as_json: Json = False,
) -> None:
    """Compile a network for encryption: a program for the server, a signature for clients."""
    read = [model] if examples is None else [model, examples]
    user_files.check_output(output, *read)
    user_files.check_output(signature_path(output), *read)
    network = _network(model)
    typical = None if examples is None else read_images([examples], network.input_shape)
    with terminal.notes.status("choosing parameters …"):
        compiled = he_inference.compile(
            network,
            layout=layout,
            precision=precision,
            examples=typical,
            response=response,
            optimise=optimise,
        )
    compiled.program.save(output.resolve())
    user_files.write(signature_path(output), compiled.signature.to_bytes())
    values = {
        "program": str(output),
        "signature": str(signature_path(output)),
        **compiled.facts(),
    }
    files = f"{output} (for the server) and {signature_path(output)} (for clients)"
    terminal.report(values, f"{compiled.summary()}\nwritten       {files}", as_json)


@app.command(epilog="Example: he-inference plan mnist.safetensors --optimise bytes")
def plan(
    model: NetworkFile,
    response: Annotated[
        str | None, typer.Option(help="private or plain answers only; both are shown unless said.")
    ] = None,
    optimise: Optimise = "balanced",
    precision: Precision = 10.0,
    examples: Examples = None,
    picture: Annotated[
        Path, typer.Option(help="Where to draw time against bytes: png, svg or pdf.")
    ] = Path("sottovoce-plan.png"),
    as_json: Json = False,
) -> None:
    """Show what single answers can cost: time, bytes and keys, and what `compile` would choose."""
    from he_inference.plan_picture import KINDS, draw_plan

    user_files.check_output(picture, model, *filter(None, [examples]))
    if picture.suffix not in KINDS:
        raise InputError(f"--picture {picture}: expected a name that ends in {', '.join(KINDS)}")
    network = _network(model)
    typical = None if examples is None else read_images([examples], network.input_shape)
    with terminal.notes.status("compiling for every layout …"):
        found = he_inference.plan(network, precision=precision, examples=typical, response=response)
    private = found.answering("private")  # compile takes nothing else without being told
    chosen = (private if private.points else found).chosen(optimise)
    draw_plan(found, chosen, f"{model.name}, {precision:g} bits", picture)
    if as_json:
        values = {
            "points": [
                {**p.facts(), "on_front": p in found.front, "chosen": p is chosen}
                for p in found.points
            ],
            "refusals": dict(found.refusals),
            "picture": str(picture),
        }
        terminal.report(values, "", as_json)
        return
    terminal.out.print(plan_table(found, chosen))
    for layout, reason in found.refusals.items():
        terminal.note(f"{layout}: {reason}")
    terminal.out.print(f"picture saved: {picture}", highlight=False, markup=False, soft_wrap=True)


def _network(path: Path) -> "he_inference.Network":
    """A saved network; who has a file of weights instead is told what to do."""
    try:
        return he_inference.load_network(path)
    except ModelFileError as error:
        if user_files.first_bytes(path, len(_ZIP)) in (_ZIP, _PICKLE):
            found = f"{path}: a file of torch.save"
        elif _holds_tensors_alone(path):
            found = str(error)
        else:
            raise
    raise InputError(
        f"{found}: in Python, build the module, load its weights, and call "
        "he_inference.from_torch(module, example).save(path) (see README)"
    )


def _holds_tensors_alone(path: Path) -> bool:
    """Whether it is a safetensors file of others: a state_dict, say."""
    try:
        return not read_format(path).startswith("sottovoce-")
    except ModelFileError:
        return False
