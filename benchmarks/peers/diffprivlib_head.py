"""diffprivlib: LogisticRegression with pure epsilon (objective perturbation), one against the rest.

`python -m benchmarks.peers.diffprivlib_head TASK.npz SETTINGS` prints one line of JSON. SETTINGS is
JSON: epsilon, data_norm, seed. Pure epsilon is a stronger promise than (epsilon, delta).
"""

import json
import sys
import warnings

import numpy as np
from diffprivlib.models import LogisticRegression

from benchmarks import measure


def main(path, text):
    measure.pin_to_one_core()
    warnings.simplefilter("ignore")
    settings = json.loads(text)
    with np.load(path, allow_pickle=False) as archive:
        task = {name: archive[name] for name in archive.files}
    model = LogisticRegression(
        epsilon=settings["epsilon"], data_norm=settings["data_norm"], max_iter=100,
        random_state=settings["seed"],
    )  # fmt: skip
    span, _ = measure.timed(lambda: model.fit(task["features"], task["labels"]))
    row = {
        "accuracy": float((model.predict(task["test_features"]) == task["test_labels"]).mean()),
        "cpu_seconds": span.cpu_ms / 1e3,
        "wall_seconds": span.wall_ms / 1e3,
        "memory_bytes": measure.peak_memory_bytes(),
        "versions": measure.versions(["diffprivlib", "scikit-learn"]),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])
