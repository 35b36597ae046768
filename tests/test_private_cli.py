"""`private_models.__main__`: verbs as people and scripts meet them, and what they do wrong."""

import contextlib
import io
import json
import math
import struct
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

import he_inference
from he_inference import from_torch, service, terminal
from private_models import __main__ as cli
from private_models.audit.findings import Bound
from private_models.audit.mechanism import MechanismAudit
from private_models.backbones.extraction import Backbone
from private_models.errors import InputError
from private_models.feature_files import picture_shape, read_features, read_labels
from private_models.picture_files import read_pictures
from private_models.text_files import read_texts


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout, with nothing else there or on stderr."""
        assert (self.code, self.err) == (0, ""), self.err
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def test_help_waits_for_nothing_heavy() -> None:
    """A verb loads what it runs; seconds of torch and scikit-learn are for those that need them."""
    heavy = "{'torch', 'sklearn', 'scipy', 'tenseal', 'numba', 'dp_accounting', 'PIL'}"
    code = f"import sys, private_models.__main__; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def run(*arguments: object) -> Ran:
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["private-models", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    return Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def refused(*arguments: object, naming: str) -> None:
    """Exit code 2 and one line on stderr that holds the words."""
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("private-models: ")
    assert ran.err.count("\n") == 1 and "Traceback" not in ran.err
    assert naming in ran.err, ran.err


def test_a_complaint_is_one_line_whatever_a_file_is_called(tmp_path: Path) -> None:
    refused("predict", tmp_path / "a\nb", tmp_path / "x.npy", naming="a b")


def test_json_has_no_infinities() -> None:
    """They are no JSON, and readers other than Python's refuse them."""
    found = terminal.json_text({"a": [1.0, math.inf], "b": {"c": math.nan, "d": (0, "x")}})
    assert json.loads(found) == {"a": [1.0, None], "b": {"c": None, "d": [0, "x"]}}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 3000)
    rows = np.eye(3, 8)[labels] * 0.8 + rng.normal(size=(3000, 8)) * 0.15
    np.save(tmp_path / "x.npy", rows.astype(np.float32))
    np.save(tmp_path / "y.npy", labels)
    (tmp_path / "y.csv").write_text("label\n" + "\n".join(map(str, labels)))
    return tmp_path


def test_fit_and_predict(files: Path) -> None:
    head = files / "head.safetensors"
    common = ("--classes", "0,1,2", "--count", 3000, "-o", head)
    said = run("fit", files / "x.npy", files / "y.csv", *common, "--json").json
    assert said["epsilon_spent"] <= said["epsilon"] == 1.0
    assert said["releases"][-1]["what"] == "gradient of the loss"
    found = run("predict", head, files / "x.npy", "--labels", files / "y.npy", "--json").json
    assert found["accuracy"] > 0.9
    assert set(found["labels"]) == {0, 1, 2}
    hidden = ("--public", files / "x.npy", "--hidden-directions", 3)
    said = run("fit", files / "x.npy", files / "y.npy", *common, *hidden, "--json").json
    assert "3 directions" in said["public"]["hidden layer"]
    assert said["public"]["features"] == "8 columns"
    assert said["public"]["products"].startswith("9 columns, whitened by 3000 public rows")
    assert len(run("predict", files / "head.safetensors", files / "x.npy", "--json").json["labels"])
    text = run("fit", files / "x.npy", files / "y.npy", *common, "--public", files / "x.npy")
    assert "add-remove neighbours" in text.out and "whitened by 3000 public rows" in text.out
    assert "and 2980 more" in run("predict", head, files / "x.npy").out


def test_fit_refuses(files: Path) -> None:
    x, y, out = files / "x.npy", files / "y.npy", files / "h"
    fit = ("fit", x, y, "-o", out, "--classes")
    refused(*fit, "0,1", naming="not among")
    refused(*fit, "a,b", naming="expected numbers")
    refused(*fit, "0,1,2", "--epsilon", 0, naming="epsilon 0")
    refused(*fit, "0,1,2", "--solver", "magic", naming="fc, sgd")
    refused(*fit, "0,1,2", "--relation", "odd", naming="add-remove, replace")
    refused("fit", x, y, "-o", x, "--classes", "0,1", naming="named twice")
    refused(*fit, "0,1,2", "--hidden-directions", 3, naming="(--public), and there are none")
    refused("fit", files, y, "-o", out, "--classes", "0,1", naming="is a folder")
    refused("fit", files / "no.npy", y, "-o", out, "--classes", "0,1", naming="cannot be read")
    refused("fit", x, y, naming="--output")
    refused("predict", x, x, naming="not a saved head: expected a file that")
    assert not out.exists()


def test_a_warning_is_one_line(files: Path) -> None:
    given = ("fit", files / "x.npy", files / "y.npy", "-o", files / "h", "--classes", "0,1,2")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        ran = run(*given, "--delta", 0.5, "--count", 3000)
    assert ran.code == 0 and ran.err.count("\n") == 1
    assert ran.err.startswith("private-models: warning: delta 0.5 is at least 1/3000")


def test_account() -> None:
    noise = run("account", "--epsilon", 1, "--steps", 4, "--json").json["noise_multiplier"]
    back = run("account", "--noise-multiplier", noise, "--steps", 4, "--json").json
    assert back["epsilon"] == pytest.approx(1.0, rel=1e-6)
    assert noise == pytest.approx(2 * 3.7306, rel=1e-4)
    composed = run("account", "--noise-multiplier", 2, "--noise-multiplier", 3, "--json").json
    assert composed["epsilon"] > run("account", "--noise-multiplier", 2, "--json").json["epsilon"]
    batches = ("--probability", 0.1, "--steps", 20)
    sampled = run("account", "--noise-multiplier", 2, *batches, "--json").json
    assert sampled["by"] == "PLD"
    wanted = run("account", "--epsilon", sampled["epsilon"], *batches, "--json").json
    assert wanted["noise_multiplier"] == pytest.approx(2, rel=1e-3)
    assert "by exact closed form" in run("account", "--epsilon", 1).out
    refused("account", naming="either")
    refused("account", "--epsilon", 1, "--noise-multiplier", 2, naming="either")
    refused("account", "--epsilon", 1, "--delta", 0, naming="delta")
    refused("account", "--noise-multiplier", -1, naming="positive")
    refused("account", "--epsilon", 1, "--probability", 2, naming="probability")
    refused("account", "--epsilon", 1, "--relation", "x", naming="relation")
    refused("account", "--noise-multiplier", 1, "--noise-multiplier", 2, "--probability", 0.1,
            naming="take one noise multiplier")  # fmt: skip


def test_account_beside_other_releases() -> None:
    """What is beside costs: with it, more noise keeps ε, and the same noise is a larger one."""
    alone = run("account", "--epsilon", 1, "--steps", 4, "--json").json["noise_multiplier"]
    beside = ("--beside", 8, "--beside", 8)
    asked = run("account", "--epsilon", 1, "--steps", 4, *beside, "--json").json
    noise = asked["noise_multiplier"]
    assert noise > alone
    back = run("account", "--noise-multiplier", noise, "--steps", 4, *beside, "--json").json
    assert back["epsilon"] == pytest.approx(1.0, rel=1e-6) and back["beside"] == [8, 8]
    batches = ("--probability", 0.2, "--steps", 5, "--noise-multiplier", 3)
    sampled = run("account", *batches, "--beside", 4, "--json").json
    assert sampled["epsilon"] > run("account", "--noise-multiplier", 4, "--json").json["epsilon"]
    assert "beside 4" in run("account", *batches, "--beside", 4).out
    refused("account", "--epsilon", 1, "--beside", 1, naming="spent by the releases beside")
    refused("account", "--epsilon", 1, "--beside", 0, naming="positive")
    refused("account", "--epsilon", 1, "--steps", 0, naming="0 steps")


def test_pate(files: Path) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 500)
    np.save(files / "p.npy", np.eye(3, 8)[labels] * 0.8 + rng.normal(size=(500, 8)) * 0.15)
    head, common = files / "s.head", ("--classes", "0,1,2", "--teachers", 60, "--epsilon", 4)
    ask = ("pate", files / "x.npy", files / "y.npy", files / "p.npy", *common)
    said = run(*ask, "-o", head, "--json").json
    assert said["epsilon_spent"] <= said["epsilon"] == 4.0 and said["epsilon_here"] is None
    found = run("predict", head, files / "x.npy", "--labels", files / "y.npy", "--json").json
    assert found["accuracy"] > 0.9
    assert "at this data" in run(*ask, "-o", head, "--data-dependent").out
    refused(*ask, "-o", files / "p.npy", naming="named twice")
    refused(*ask, "-o", head, "--threshold", 3, naming="threshold 3")
    refused(*ask, "-o", head, "--teachers", 1, naming="1 teachers")


def test_audit(files: Path) -> None:
    said = run("audit", "--runs", 40, "--json").json
    assert not said["refuted"] and "proves nothing" in said["note"]
    attack = ("--members", files / "x.npy", "--member-labels", files / "y.npy", "--shadows", 8)
    page = files / "report.html"
    found = run("audit", "--runs", 40, *attack, "--attribute", 2, "--report", page, "--json").json
    assert 0.4 < found["membership"]["area"] < 0.6
    assert found["attributes"]["column"] == 2 and found["stealing"]["queries"] == 9
    assert "A low one proves" in page.read_text("utf-8")
    pate = ("--estimator", "pate", "--public", files / "x.npy")
    assert "membership: measured" in run("audit", "--runs", 40, *attack, *pate).out
    broken = MechanismAudit(Bound(1.0, 2.0, 1e-5, 0.999, 40, "x"), np.ones(9), np.zeros(9))
    with patch("private_models.audit.mechanism.audit_mechanism", return_value=broken):
        ran = run("audit")
    assert (ran.code, "claim refuted" in ran.out) == (1, True)
    refused("audit", "--members", files / "x.npy", naming="go together")
    refused("audit", *attack, "--estimator", "pate", naming="--public")
    refused("audit", "--estimator", "magic", naming="fc, sgd")
    refused("audit", "--runs", 1, naming="1 runs")
    refused("audit", "--runs", 40, "--serve", "http://example.org", naming="plain HTTP")


def test_audit_of_a_service(tmp_path: Path) -> None:
    """A real service of encrypted queries on a socket: its linear model is copied."""
    module = torch.nn.Linear(5, 3)
    network = from_torch(module, torch.rand(20, 5))
    program = he_inference.compile(network, examples=np.random.rand(20, 5)).program
    with service.running(program, start_seconds=240.0) as url:
        found = run("audit", "--runs", 40, "--serve", url, "--json").json["stealing"]
    assert (found["queries"], found["target"]) == (6, "the service")
    assert found["error"] < 0.05


def test_help_and_mistakes() -> None:
    for verb in ("features", "fit", "predict", "account", "audit", "pate"):
        assert "Example" in run(verb, "--help").out
    refused("dance", naming="dance")


# ---------------------------------------------------------------------------- files


def test_files_of_every_kind(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "i-idx3").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 2, 3, 4) + pixels.tobytes())
    (tmp_path / "l-idx1").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 2) + b"\x07\x02")
    assert np.allclose(read_features(tmp_path / "i-idx3") * 255, pixels.reshape(2, 12))
    assert read_labels(tmp_path / "l-idx1").tolist() == [7, 2]
    (tmp_path / "r.csv").write_text("a,b\n1,2\n3,4.5\n")
    assert read_features(tmp_path / "r.csv").tolist() == [[1, 2], [3, 4.5]]
    (tmp_path / "n.csv").write_text("cat\ndog\n")
    assert read_labels(tmp_path / "n.csv").tolist() == ["cat", "dog"]
    np.save(tmp_path / "f.npy", np.array([1.0, 2.0]))
    assert read_labels(tmp_path / "f.npy").dtype == np.int64


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08", b"\0\0\x08\x03" + b"\xff" * 12, b"1,2\n3\n", b"\xff\xfe\xff", b"a,b\nc,d\n"],
)
def test_files_that_are_no_features(tmp_path: Path, content: bytes) -> None:
    for name in ("x", "x.npy"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError):
            read_features(path)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(InputError):
        read_features(tmp_path / "x.npy")


def test_picture_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures"):
        read_pictures(tmp_path)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("L", (5, 4)).save(tmp_path / name / "one.png")
    pictures, names = read_pictures(tmp_path)
    assert names == ["cat", "dog"] and pictures[0].mode == "RGB"
    assert [picture.size for picture in pictures[1:]] == [(5, 4)]
    assert read_pictures(tmp_path / "cat")[1] is None
    whole = (tmp_path / "dog" / "one.png").read_bytes()
    (tmp_path / "dog" / "one.png").write_bytes(whole[:45])
    with pytest.raises(InputError, match=r"one\.png"):
        list(read_pictures(tmp_path)[0])
    (tmp_path / "cat" / "two.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"two\.png"):
        read_pictures(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_pictures(tmp_path / "none")


def test_pictures_in_an_idx_file(tmp_path: Path) -> None:
    path = tmp_path / "i"
    path.write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 2, 3, 4) + bytes(range(24)))
    pictures, names = read_pictures(path)
    assert names is None and len(pictures) == 2 and pictures[1].size == (4, 3)
    assert np.asarray(pictures[1])[0, 0].tolist() == [12, 12, 12]
    assert picture_shape(path) == (3, 4)
    path.write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 2) + b"ab")
    with pytest.raises(InputError, match="IDX pictures"):
        read_pictures(path)


def test_texts(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text('text,stars\n"good, very",5\nbad,1\n', encoding="utf-8")
    assert read_texts(table, "text", "stars") == (["good, very", "bad"], ["5", "1"])
    assert read_texts(table, "text")[1] is None
    for wrong in ((None, None), ("nothing", None), ("text", "nothing")):
        with pytest.raises(InputError, match="column"):
            read_texts(table, *wrong)
    table.write_text("text\n", encoding="utf-8")
    with pytest.raises(InputError, match="line of names"):
        read_texts(table, "text")
    for name in ("ham", "spam"):
        (tmp_path / "mail" / name).mkdir(parents=True)
        (tmp_path / "mail" / name / "1.txt").write_text(f"{name}!", encoding="utf-8")
    assert read_texts(tmp_path / "mail") == (["ham!", "spam!"], ["ham", "spam"])
    with pytest.raises(InputError, match="no columns"):
        read_texts(tmp_path / "mail", "text")
    (tmp_path / "mail" / "ham" / "2.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="UTF-8"):
        read_texts(tmp_path / "mail")


def test_features(tmp_path: Path) -> None:
    """Real backbones are not installed everywhere: here it is a module of our own."""
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.effect_noise((8, 8), 60).save(tmp_path / "in" / name / "a.png")
    out, labels = tmp_path / "f.npy", tmp_path / "l.npy"

    def pixels_of(pictures: Sequence[object]) -> torch.Tensor:
        return torch.stack([torch.tensor(np.asarray(p), dtype=torch.float32) for p in pictures])

    small = Backbone("small", torch.nn.Flatten(), pixels_of)
    with patch("private_models.backbones.catalogue.efficientnet", return_value=small):
        ask = ("features", tmp_path / "in", "-o", out)
        said = run(*ask, "--labels", labels, "--cache", tmp_path / "c", "--json").json
        assert (said["rows"], said["columns"]) == (2, 192)
        assert read_labels(labels).tolist() == ["cat", "dog"]
        assert read_features(out).shape == (2, 192)
        assert "2 rows of 192" in run(*ask).out
        refused("features", tmp_path / "in" / "cat", "-o", out, "--labels", labels,
                naming="no labels")  # fmt: skip
        refused(*ask, "--column", "x", naming="for texts")
        refused(*ask, "--backbone", "magic", naming="efficientnet-lite0, minilm")
        refused(*ask, "--device", "abacus", naming="abacus")
