"""Three parties train a model on images that none shows another, and serve it under encryption.

    python examples/trained_together.py FOLDER

Everything happens in FOLDER, which is empty at first; among real organisations each party has a
machine of its own, with its settings, its key and its records.

    party 0, 1, 2   processes of `mpc-training party`; what passes between them are secret shares,
                    and at the end the model, to all three
    server          serves the model of party 0; it sees queries under encryption alone
    client          holds the key, and learns the scores
"""

import sys
from pathlib import Path

import numpy as np

import he_inference
import mpc_training
from he_inference.nn import Square
from mpc_training import local_parties
from mpc_training.network import Flatten, Linear, Network
from mpc_training.network import Square as SharedSquare
from workloads.datasets import Dataset, mnist_sample

PARTIES, TESTED, SEED = 3, 100, 7


def train(folder: Path, data: Dataset) -> mpc_training.Network:
    """Give each party a part of the images, and let them train one network together."""
    layers = (Flatten(), Linear(784, 32), SharedSquare(), Linear(32, 10))
    network = Network(layers, (1, 28, 28))
    recipe = mpc_training.Recipe(learning_rate=0.02, momentum=0.9, batch=50, epochs=20)
    run = mpc_training.Run(network, recipe, mpc_training.Disclosure(), SEED)
    pieces = local_parties.spread(data.images, data.labels, SEED, PARTIES)
    settings = local_parties.prepare(folder, run, pieces, divisor=1.0, timeout=30.0)
    reports = local_parties.run_parties(settings, resume=False, watch=lambda _: None)
    step = local_parties.figures(reports)
    print(f"{reports[0]['steps']} steps, {step['bytes_per_step'] / 1e6:.1f} MB each among all")
    return network


def ask(folder: Path, data: Dataset) -> None:
    """Compile the model that party 0 got, and query it under encryption."""
    network, weights = mpc_training.read_model(folder / "model-0.safetensors")
    module = mpc_training.to_torch(network, weights, square=Square)
    compiled = he_inference.compile(
        he_inference.from_torch(module, data.images[:1]), response="plain"
    )
    client = he_inference.Client(compiled.signature)  # keeps the secret key
    server = he_inference.Server(compiled.program)  # never sees an image
    server.register(client.evaluation_keys())
    answer = server.evaluate(client.encrypt(data.images[:5]))
    encrypted = client.decrypt(answer).argmax(1)
    print("encrypted", encrypted, "truth", data.labels[:5])
    clear = he_inference.from_torch(module, data.images[:1]).evaluate(data.images).argmax(1)
    print(f"in the clear {np.mean(clear == data.labels):.0%} of {len(data)} are right")


def main() -> None:
    """Train, then ask, in an empty folder."""
    folder = Path(sys.argv[1]) if len(sys.argv) == 2 else None
    if folder is None or not folder.is_dir() or any(folder.iterdir()):
        sys.exit("usage: python examples/trained_together.py FOLDER, which is empty")
    sample = mnist_sample()
    train(folder, sample.take(slice(TESTED, None)))
    ask(folder, sample.take(slice(TESTED)))


if __name__ == "__main__":
    main()
