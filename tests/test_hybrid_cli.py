"""`private-models hybrid`, `bundle` and `ask`, on pictures and texts of one's own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from he_inference import service
from private_models import hybrid
from tests.test_private_cli import refused, run
from workloads.datasets import mnist_sample


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zeros and ones of the sample, a folder for each; and some of them without labels."""
    folder, sample = tmp_path_factory.mktemp("pictures"), mnist_sample()
    for digit, name in enumerate(("nought", "one")):
        for number, image in enumerate(sample.images[sample.labels == digit][:60]):
            grey = Image.fromarray(np.uint8(image.reshape(28, 28) * 255))
            (folder / "own" / name).mkdir(parents=True, exist_ok=True)
            grey.save(folder / "own" / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def said(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workloads.datasets.cache_folder", lambda: cache)
        patch.setattr("private_models.hybrid.trial._AUDIT_RUNS", 100)
        return run(
            "hybrid", "--data", pictures / "own", "--backbone", "pixels", "--epsilon", 8,
            "--delta", 1e-3, "--queries", 3, "--output", pictures / "bundle", "--json",
        ).json  # fmt: skip


def test_the_whole_way(said: dict[str, Any], pictures: Path) -> None:
    rows = said["rows"] + said["test_rows"]
    assert rows == len(list((pictures / "own").rglob("*.png"))) and said["features"] == 784
    assert said["test_rows"] == -(-rows // 5)
    assert said["agreement"] >= 0.9 and said["single_agreement"] >= 2 / 3
    assert abs(said["encrypted_accuracy"] - said["private_accuracy"]) <= 0.1
    assert set(said["single_ms"]) == {"backbone", "encrypt", "server", "decrypt"}
    assert said["single_up"] + said["single_down"] <= 250_000 and said["single_keys"] <= 2_000_000
    assert said["audit_epsilon"] <= 8 and said["promise"].startswith("(8, 0.001)")
    assert set(hybrid.load_public(pictures / "bundle" / "public").classes) == {"nought", "one"}


def test_asking_a_saved_bundle(said: dict[str, Any], pictures: Path) -> None:
    bundle, picture = pictures / "bundle", pictures / "own" / "one" / "0.png"
    with service.running(bundle / "single.program") as url:
        told = run("ask", bundle / "public", picture, "--server", url, "--json").json
        assert told["label"] in ("nought", "one") and len(told["scores"]) == 2
        text = run("ask", bundle / "public", picture, "--server", url).out
        assert "training rows: (8, 0.001)-differential privacy" in text
        (pictures / "no.png").write_text("no picture")
        refused("ask", bundle / "public", pictures / "no.png", "--server", url,
                naming="cannot be read as a picture")  # fmt: skip
        colours = pictures / "large.png"
        Image.new("RGB", (40, 40)).save(colours)
        refused("ask", bundle / "public", colours, "--server", url, naming="28 x 28")
    refused("ask", bundle, picture, "--server", url, naming="BUNDLE/public")
    refused("ask", bundle / "public", picture, "--server", url, naming="nothing answers")


def test_a_bundle_of_a_saved_head(tmp_path: Path, pictures: Path, said: dict[str, Any]) -> None:
    sample = mnist_sample()
    np.save(tmp_path / "x.npy", sample.images.reshape(len(sample), -1))
    np.save(tmp_path / "y.npy", sample.labels)
    head, classes = tmp_path / "head", ",".join(map(str, range(10)))
    fitted = run("fit", tmp_path / "x.npy", tmp_path / "y.npy", "--classes", classes, "-o", head,
                 "--delta", 1e-4, "--feature-norm", 9)  # fmt: skip
    assert fitted.code == 0
    ask = ("bundle", head, "--backbone", "pixels", "-o", tmp_path / "bundle")
    told = run(*ask, "--feature-norm", 9, "--json").json
    assert told["backbone"] == "pixels, 28 x 28" and "differential privacy" in told["privacy"]
    # Made anew it is another version: whoever has the old public part is told.
    assert run(*ask, "--public", tmp_path / "x.npy").code == 0
    old = pictures / "bundle" / "public"
    with service.running(tmp_path / "bundle" / "single.program") as url:
        refused("ask", old, pictures / "own" / "one" / "0.png", "--server", url,
                naming="another version of the head")  # fmt: skip
    refused(*ask, naming="either examples")
    refused(*ask, "--feature-norm", 9, "--response", "loud", naming="private or plain")


def test_labels_of_a_table_are_named_and_not_taken_from_it(tmp_path: Path) -> None:
    """A rare label would give its rows away."""
    table = tmp_path / "reviews.csv"
    table.write_text("text,label\nfine,good\nawful,bad\n")
    ask = ("hybrid", "--data", table, "--column", "text", "--label-column", "label")
    refused(*ask, naming="--classes")


def test_a_head_that_promises_nothing_has_to_be_asked_for(tmp_path: Path) -> None:
    from private_models import PrivateClassifier

    sample = mnist_sample()
    seeded = PrivateClassifier(1.0, 1e-4, feature_norm=9.0, rows=len(sample), unsafe_seed=1)
    seeded.fit(sample.images.reshape(len(sample), -1), sample.labels, classes=range(10))
    seeded.head_.save(tmp_path / "head")
    ask = ("bundle", tmp_path / "head", "--backbone", "pixels", "--feature-norm", 9,
           "-o", tmp_path / "bundle")  # fmt: skip
    refused(*ask, naming="--no-privacy")
    told = run(*ask, "--no-privacy", "--json").json
    assert "no differential privacy" in told["privacy"]
    public = json.loads((tmp_path / "bundle" / "public" / "bundle.json").read_text())
    assert public["statement"]["is_private"] is False
