"""Ask a model without showing it your data: the whole flow in one file, keys to answer.

Run it:
    python examples/quickstart.py
"""

import torch
from torch import nn

import he_inference
from he_inference.nn import Polynomial


def main() -> None:
    """Build a network, compile it, and compare an encrypted answer with the clear one."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, kernel_size=5, stride=2),
        nn.BatchNorm2d(4),
        Polynomial.quadratic(4),
        nn.Flatten(),
        nn.Linear(4 * 6 * 6, 10),
    )
    images = torch.rand(3, 1, 16, 16)

    network = he_inference.from_torch(module, images)
    compiled = he_inference.compile(network)
    print(compiled.summary())

    client = he_inference.Client(compiled.signature)  # keeps the secret key
    server = he_inference.Server(compiled.program)  # never sees an image
    server.register(client.evaluation_keys())

    query = client.encrypt(images)
    answer = server.evaluate(query)
    scores = client.decrypt(answer)

    print("encrypted", scores.argmax(1), "clear", network.evaluate(images).argmax(1))
    print(f"largest difference {abs(scores - network.evaluate(images)).max():.1e}")


if __name__ == "__main__":
    main()
