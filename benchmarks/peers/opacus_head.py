"""Opacus: DP-SGD on a linear head with Poisson batches, as its documentation has it.

`python -m benchmarks.peers.opacus_head TASK.npz SETTINGS` prints one line of JSON: accuracy, CPU
seconds of training with the finding of the noise, and versions. SETTINGS is JSON: epsilon, delta,
batch_rows, epochs, learning_rate, clip_norm, momentum, mode ("hooks" or "ghost"), seed.
"""

import json
import sys
import warnings

import numpy as np
import torch
from opacus import PrivacyEngine

from benchmarks import measure


def train(task, settings):
    features = torch.from_numpy(task["features"])
    labels = torch.from_numpy(task["labels"])
    torch.manual_seed(settings["seed"])
    model = torch.nn.Linear(features.shape[1], int(labels.max()) + 1)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings["learning_rate"], momentum=settings["momentum"]
    )
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(features, labels), batch_size=settings["batch_rows"]
    )
    engine = PrivacyEngine(accountant="prv")
    criterion = torch.nn.CrossEntropyLoss()
    common = {
        "module": model, "optimizer": optimizer, "data_loader": loader,
        "target_epsilon": settings["epsilon"], "target_delta": settings["delta"],
        "epochs": settings["epochs"], "max_grad_norm": settings["clip_norm"],
    }  # fmt: skip
    if settings["mode"] == "ghost":
        model, optimizer, criterion, loader = engine.make_private_with_epsilon(
            **common, criterion=criterion, grad_sample_mode="ghost"
        )
    else:
        model, optimizer, loader = engine.make_private_with_epsilon(**common)
    for _ in range(settings["epochs"]):
        for rows, truth in loader:
            optimizer.zero_grad()
            criterion(model(rows), truth).backward()
            optimizer.step()
    return model


def main(path, text):
    measure.pin_to_one_core()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    settings = json.loads(text)
    with np.load(path, allow_pickle=False) as archive:
        task = {name: archive[name] for name in archive.files}
    span, model = measure.timed(lambda: train(task, settings))
    with torch.no_grad():
        found = model(torch.from_numpy(task["test_features"])).argmax(1).numpy()
    row = {
        "accuracy": float((found == task["test_labels"]).mean()),
        "cpu_seconds": span.cpu_ms / 1e3,
        "wall_seconds": span.wall_ms / 1e3,
        "memory_bytes": measure.peak_memory_bytes(),
        "versions": measure.versions(["opacus", "torch"]),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])
