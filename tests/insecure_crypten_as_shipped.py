"""CrypTen 0.4.1 with its default provider, three processes; party 1 writes down what it receives.

    python -m tests.insecure_crypten_as_shipped FOLDER

Nothing of CrypTen's behaviour is changed. Party 0 owns x and y; parties multiply them twice. Party
1 saves its share of the first truncation's mask (`wrap_rng` scatters it) and the opened ε of the
second product.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import warnings
from pathlib import Path

warnings.simplefilter("ignore")  # CrypTen's own, of a library that is only looked at here

import numpy as np  # noqa: E402
import torch  # noqa: E402

from mpc_training.crypten_repairs import crypten  # noqa: E402

WORDS = 312
"""64-bit words that hold the whole state of MT19937."""


def secret() -> np.ndarray:
    """What party 0 alone holds, and party 1 must not learn."""
    return np.random.default_rng(99).uniform(-5, 5, WORDS).round(3)


def party(rank: int, folder: Path, port: int) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="3", DISTRIBUTED_BACKEND="gloo",
        RENDEZVOUS=f"file://{folder}/rendezvous",
    )  # fmt: skip
    torch.set_num_threads(1)
    crypten.init()
    from crypten.mpc.primitives.arithmetic import ArithmeticSharedTensor

    scattered, opened = [], []
    communicator = crypten.communicator.get()
    scatter, reveal = communicator.scatter, ArithmeticSharedTensor.reveal_batch

    def recorded_scatter(*arguments, **options):  # type: ignore[no-untyped-def]
        result = scatter(*arguments, **options)
        scattered.append(result.clone())
        return result

    def recorded_reveal(*arguments, **options):  # type: ignore[no-untyped-def]
        result = reveal(*arguments, **options)
        opened.append([tensor.clone() for tensor in result])
        return result

    communicator.scatter = recorded_scatter
    ArithmeticSharedTensor.reveal_batch = staticmethod(recorded_reveal)
    own = torch.tensor(secret()) if rank == 0 else torch.zeros(WORDS, dtype=torch.float64)
    x = crypten.cryptensor(own, src=0)
    for _ in range(2):
        x * x.clone()
    if rank == 1:
        np.savez(folder / "seen.npz", mask=scattered[0].numpy(), epsilon=opened[1][0].numpy())
    communicator.barrier()
    time.sleep(1)  # until the others have passed it
    os._exit(0)  # gloo's threads end some processes with SIGABRT on the way out


def main() -> None:
    folder = Path(sys.argv[1])
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=party, args=(rank, folder, 0)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    sys.exit(any(process.exitcode != 0 for process in processes))


if __name__ == "__main__":
    main()
