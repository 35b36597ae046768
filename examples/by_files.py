"""Client and server as two processes that share nothing but files in one folder.

    python examples/by_files.py FOLDER

The parent plays the model's owner: it compiles a network into FOLDER. Then it starts the client
and the server, each a process of its own; look into the functions to see who reads what.

    owner   writes  model.program (for the server)   model.signature (for clients)
    client  writes  evaluation.keys, query.bin       reads model.signature, answer.bin
    server  writes  answer.bin                       reads model.program, evaluation.keys, query.bin
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

import he_inference
from workloads.datasets import mnist_sample
from workloads.models import MNIST_CNN

QUERIES = 3


def owner(folder: Path) -> None:
    """Compile the network that ships with the project."""
    network = he_inference.load_network(MNIST_CNN)
    typical = mnist_sample().images
    compiled = he_inference.compile(network, response="plain", examples=typical)
    compiled.program.save(folder / "model.program")
    (folder / "model.signature").write_bytes(compiled.signature.to_bytes())


def client_asks(folder: Path) -> None:
    """Make keys, encrypt. The secret key goes to a file that only this user may read."""
    signature = he_inference.load_signature(folder / "model.signature")
    client = he_inference.Client(signature)
    (folder / "evaluation.keys").write_bytes(client.evaluation_keys())
    (folder / "query.bin").write_bytes(client.encrypt(mnist_sample().images[:QUERIES]))
    client.save(folder / "client-only.secret")


def server_answers(folder: Path) -> None:
    """Evaluate. No image, no score and no secret key is in anything that is read here."""
    server = he_inference.Server(folder / "model.program")
    server.register((folder / "evaluation.keys").read_bytes())
    (folder / "answer.bin").write_bytes(server.evaluate((folder / "query.bin").read_bytes()))


def client_reads(folder: Path) -> None:
    """Decrypt."""
    signature = he_inference.load_signature(folder / "model.signature")
    client = he_inference.Client.load(folder / "client-only.secret", signature)
    labels = np.argmax(client.decrypt((folder / "answer.bin").read_bytes()), axis=1)
    print("labels", labels.tolist(), "truth", mnist_sample().labels[:QUERIES].tolist())


ROLES = {"client-asks": client_asks, "server": server_answers, "client-reads": client_reads}


def main() -> None:
    """Without a role: play the owner and start the others; with one: play it."""
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python examples/by_files.py FOLDER")
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        ROLES[sys.argv[2]](folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"{folder} is not empty: keys are never overwritten; name a new folder")
    owner(folder)
    for role in ROLES:
        subprocess.run([sys.executable, __file__, str(folder), role], check=True)


if __name__ == "__main__":
    main()
