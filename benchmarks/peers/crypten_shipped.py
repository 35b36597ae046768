"""CrypTen 0.4.1 as shipped, three processes over gloo: the trusted-first-party provider that is its
default, and `update_parameters`, whose default clamp compares every gradient.

    python crypten_shipped.py NETWORK BATCH STEPS      → one line of JSON

Runs in the environment that `make setup` makes, as CrypTen cannot be installed with its
dependencies. CPU time is the sum over the three processes; bytes and rounds are CrypTen's own
counters, bytes summed.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings

warnings.simplefilter("ignore")

RATE = 0.1
CLASSES = 10
PARTIES = 3


def layers(crypten, network):
    nn = crypten.nn
    if network == "mlp":
        return [
            nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, CLASSES)
        ]  # fmt: skip
    return [
        nn.Conv2d(1, 8, 5), nn.AvgPool2d(2), nn.ReLU(), nn.Conv2d(8, 16, 5), nn.AvgPool2d(2),
        nn.ReLU(), nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, CLASSES),
    ]  # fmt: skip


def party(rank, folder, network, batch, steps, answers):
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(PARTIES), DISTRIBUTED_BACKEND="gloo",
        RENDEZVOUS=f"file://{folder}/rendezvous",
    )  # fmt: skip
    import torch

    from mpc_training.crypten_repairs import crypten

    torch.set_num_threads(1)
    crypten.init()
    crypten.cfg.communicator.verbose = True  # counts what is sent
    torch.manual_seed(0)
    shape = (batch, 784) if network == "mlp" else (batch, 1, 28, 28)
    model = crypten.nn.Sequential(*layers(crypten, network)).encrypt()
    model.train()
    loss_of = crypten.nn.CrossEntropyLoss()
    images, labels = torch.rand(shape), torch.eye(CLASSES)[torch.arange(batch) % CLASSES]
    communicator = crypten.communicator.get()
    spans = []
    for _ in range(steps + 1):  # the first warms up
        communicator.reset_communication_stats()
        begun = time.process_time(), time.perf_counter()
        x, y = crypten.cryptensor(images, src=0), crypten.cryptensor(labels, src=0)
        loss = loss_of(model(x), y)
        model.zero_grad()
        loss.backward()
        model.update_parameters(RATE)
        stats = communicator.get_communication_stats()
        spans.append(
            (time.process_time() - begun[0], time.perf_counter() - begun[1], stats["bytes"],
             stats["rounds"])
        )  # fmt: skip
    answers.put([sorted(column)[len(column) // 2] for column in zip(*spans[1:], strict=True)])


def main():
    network, batch, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=party, args=(rank, folder, network, batch, steps, answers))
            for rank in range(PARTIES)
        ]
        for process in processes:
            process.start()
        found = [answers.get(timeout=900) for _ in processes]
        for process in processes:
            process.join(60)
    print(
        json.dumps(
            {
                "cpu_seconds_per_step": sum(cpu for cpu, *_ in found),
                "seconds_per_step": max(wall for _, wall, *_ in found),
                "bytes_per_step": sum(sent for *_, sent, _ in found),
                "rounds_per_step": found[0][3],
                "version": "0.4.1",
            }
        )
    )


if __name__ == "__main__":
    main()
