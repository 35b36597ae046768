"""`he_inference.__main__`: the verbs as people and scripts meet them, and what they do wrong."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn

import he_inference
from he_inference import __main__ as cli
from he_inference import user_files
from he_inference.nn import Square
from he_inference.verbs import demo as demo_verb
from tests.test_demo import assert_nothing_is_left, leftovers
from workloads.datasets import Splits, mnist_sample

PACKED = ("--layout", "packed", "--response", "plain")
VERBS = [
    "train", "compile", "plan", "keygen", "encrypt", "evaluate", "decrypt", "serve", "query",
    "demo",
]  # fmt: skip
PATIENCE = 30.0
START_PATIENCE = 90.0
"""For a service of the batched layout, which compiles its kernels first."""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout, with nothing else there or on stderr."""
        assert (self.code, self.err) == (0, "")
        assert self.out.count("\n") == 1
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def run(*arguments: str | Path) -> Ran:
    """The command line within this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["he-inference", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    return Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def refused(*arguments: str | Path, naming: tuple[str, ...] = ()) -> str:
    """Exit code 2 and one line on stderr that holds the words."""
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "Traceback" not in ran.err
    assert ran.err.startswith("he-inference: ")
    assert ran.err.endswith("\n")
    assert ran.err.count("\n") == 1, ran.err
    for word in naming:
        assert word in ran.err, ran.err
    return ran.err


# ---------------------------------------------------------------------------- files to work on


@dataclass(frozen=True)
class Files:
    """What the verbs wrote, and what each of them said in JSON."""

    folder: Path
    network: he_inference.Network
    queries: Path
    said: dict[str, dict[str, Any]]

    def __getattr__(self, name: str) -> Path:
        return self.folder / name.replace("_", ".")

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}


def pixels(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4), dtype=np.uint8)


def _network(seed: int) -> he_inference.Network:
    torch.manual_seed(seed)
    layers = (nn.Flatten(), nn.Linear(16, 8), Square(), nn.Linear(8, 4))
    return he_inference.from_torch(nn.Sequential(*layers).eval(), torch.zeros(1, 1, 4, 4))


def written(folder: Path, network: he_inference.Network, x: Any, *options: str | Path) -> Files:
    """model.safetensors ─▸ m.program, m.program.signature ─▸ my.key, … ─▸ answer.bin."""
    network.save(folder / "model.safetensors")
    queries = folder / "queries.npy"
    np.save(queries, x)
    it = Files(folder, network, queries, {})
    program, signature = it.m_program, it.m_program_signature
    keys = ("--secret", it.my_key, "--evaluation", it.my_evaluation)
    for arguments in (
        ("compile", it.model_safetensors, "-o", program, *options),
        ("keygen", signature, *keys),
        ("encrypt", signature, it.my_key, queries, "-o", it.query_bin),
        ("evaluate", program, it.my_evaluation, it.query_bin, "-o", it.answer_bin),
        ("decrypt", signature, it.my_key, it.answer_bin),
    ):
        it.said[str(arguments[0])] = run(*arguments, "--json").json
    return it


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    it = written(tmp_path_factory.mktemp("cli"), _network(0), pixels(3), *PACKED)
    # Another program of the same network: another identity, other keys.
    run("compile", it.model_safetensors, "-o", it.other_program, *PACKED)
    other = ("--secret", it.other_key, "--evaluation", it.other_evaluation)
    run("keygen", it.other_program_signature, *other)
    return it


# ---------------------------------------------------------------------------- help


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example(verb: str) -> None:
    ran = run(verb, "--help")
    assert (ran.code, ran.err) == (0, "")
    text = " ".join(ran.out.split())
    assert f"Example: he-inference {verb} " in text


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_parses(verb: str) -> None:
    """Its options and the number of its arguments are those of the verb."""
    text = " ".join(run(verb, "--help").out.split())
    example = text.partition("Example: he-inference ")[2].split()
    options = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", " ".join(example)))
    assert options <= set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", text.partition("Example:")[0]))


def test_help_lists_every_verb_and_nothing_else() -> None:
    ran = run("--help")
    assert ran.code == 0
    assert re.findall(r"^│ ([a-z]+) ", ran.out, re.MULTILINE) == VERBS
    assert "he-inference demo" in ran.out


def test_without_a_verb_there_is_help() -> None:
    ran = run()
    assert ran.code == 2
    assert "Usage" in ran.out + ran.err
    assert "he-inference:" not in ran.err


def test_verbs_that_report_figures_speak_json() -> None:
    for verb in VERBS:
        assert ("--json" in run(verb, "--help").out) == (verb != "serve")


def test_as_a_module_and_as_a_script(files: Files) -> None:
    command = [sys.executable, "-W", "error", "-m", "he_inference", "evaluate", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert "Example: he-inference evaluate" in done.stdout
    assert done.stderr == ""


# ---------------------------------------------------------------------------- other terminals


def printed(encoding: str, *arguments: str | Path) -> tuple[str, str]:
    """What a terminal of that encoding shows on stdout and stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    with (
        patch.object(sys, "argv", ["he-inference", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit),
    ):
        cli.main()
    texts = []
    for stream in (out, err):
        stream.flush()
        assert isinstance(stream.buffer, io.BytesIO)
        texts.append(stream.buffer.getvalue().decode(encoding))
    return texts[0], texts[1]


@pytest.mark.parametrize("verb", ["", *VERBS])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_help_in_any_encoding(verb: str, encoding: str) -> None:
    out, err = printed(encoding, *([verb] if verb else []), "--help")
    assert "he-inference" in out
    assert err == ""


def test_names_that_a_terminal_cannot_show(tmp_path: Path) -> None:
    for encoding, name in (("ascii", "zahl-\u0416.st"), ("utf-8", os.fsdecode(b"zahl-\xff.st"))):
        out, err = printed(encoding, "compile", tmp_path / name, "-o", tmp_path / "p")
        assert out == ""
        assert err.startswith("he-inference: ")
        assert "zahl-?.st" in err


# ---------------------------------------------------------------------------- the chain by files


def test_the_chain_gives_the_labels_of_the_network(files: Files) -> None:
    x = pixels(3)[:, None].astype(np.float32) / np.float32(255)
    expected = files.network.evaluate(x)
    said = files.said["decrypt"]
    assert said["labels"] == expected.argmax(1).tolist()
    resolution = he_inference.load_signature(files.m_program_signature).resolution
    # Six standard deviations of the noise, and half a step of rounding.
    assert np.allclose(said["scores"], expected, atol=6.5 * resolution)


def test_figures_are_those_of_the_files(files: Files) -> None:
    said = files.said
    assert said["compile"]["security_bits"] >= 128
    assert said["compile"]["program"] == str(files.m_program)
    assert said["compile"]["signature"] == str(files.m_program_signature)
    assert said["keygen"]["key_bytes"] == files.my_evaluation.stat().st_size
    assert said["encrypt"] == {"queries": 3, "bytes": files.query_bin.stat().st_size}
    assert said["evaluate"]["bytes"] == files.answer_bin.stat().st_size
    assert said["evaluate"]["server_ms"] > 0
    assert len(said["keygen"]["key_id"]) == 32


def test_the_secret_is_for_its_owner_only(files: Files) -> None:
    assert files.my_key.stat().st_mode & 0o777 == 0o600
    secret = files.my_key.read_bytes()[64:]
    for name in ("my.evaluation", "query.bin", "m.program", "m.program.signature"):
        assert secret[:64] not in (files.folder / name).read_bytes()


def test_the_chain_for_people(files: Files, tmp_path: Path) -> None:
    """The same verbs without --json: a few words, which no narrow terminal breaks."""
    it = files
    ran = run("compile", it.model_safetensors, "-o", tmp_path / "p")
    assert ran.code == 0
    assert "128-bit security" in ran.out
    assert f"written       {tmp_path / 'p'} (for the server)" in ran.out
    secret, evaluation = tmp_path / "s.key", tmp_path / "e"
    signature = tmp_path / "p.signature"
    ran = run("keygen", signature, "--secret", secret, "--evaluation", evaluation)
    assert f"{secret} stays on this machine; {evaluation}" in ran.out
    ran = run("encrypt", signature, secret, it.queries, it.queries, "-o", tmp_path / "q")
    assert "6 queries" in ran.out
    ran = run("evaluate", tmp_path / "p", evaluation, tmp_path / "q", "-o", tmp_path / "a")
    assert " ms" in ran.out
    ran = run("decrypt", signature, secret, tmp_path / "a")
    rows = [line.split() for line in ran.out.splitlines()]
    assert [int(row[1]) for row in rows[1:]] == 2 * it.said["decrypt"]["labels"]
    assert all(len(row) == 2 + 4 for row in rows[1:])


def test_examples_of_queries_are_taken(files: Files, tmp_path: Path) -> None:
    output = tmp_path / "p"
    ran = run(
        "compile", files.model_safetensors, "-o", output, "--examples", files.queries, "--json"
    )
    assert ran.json["precision_bits"] >= 8


def test_pictures_are_queries(files: Files, tmp_path: Path) -> None:
    Image.fromarray(pixels(1)[0]).save(tmp_path / "digit.png")
    output = ("-o", tmp_path / "q", "--json")
    encrypt = ("encrypt", files.m_program_signature, files.my_key)
    assert run(*encrypt, tmp_path / "digit.png", *output).json["queries"] == 1
    assert run(*encrypt, tmp_path, *output).json["queries"] == 1


def test_output_replaces_an_older_file_and_keeps_links(files: Files, tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"older")
    link.symlink_to(target)
    run("encrypt", files.m_program_signature, files.my_key, files.queries, "-o", link, "--json")
    assert link.is_symlink()
    assert target.read_bytes().startswith(b"STVC")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


# ---------------------------------------------------------------------------- sums alone

COEFFICIENTS = ("--layout", "coefficients")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    """The chain by files of the coefficient layout, for either response."""
    return {
        response: written(
            tmp_path_factory.mktemp(response), _network(0), pixels(3), *COEFFICIENTS,
            *("--response", response), *("--precision", "9"),
        )
        for response in ("private", "plain")
    }  # fmt: skip


either_single = pytest.mark.parametrize("response", ["private", "plain"])


@either_single
def test_a_chain_of_sums_gives_the_labels_of_the_network(
    single: dict[str, Files], response: str
) -> None:
    it = single[response]
    x = pixels(3)[:, None].astype(np.float32) / np.float32(255)
    expected, said = it.network.evaluate(x), it.said["decrypt"]
    assert said["labels"] == expected.argmax(1).tolist()
    resolution = he_inference.load_signature(it.m_program_signature).resolution
    # Six standard deviations of the noise, and half a step of rounding.
    assert np.allclose(said["scores"], expected, atol=6.5 * resolution)


@either_single
def test_figures_of_sums_are_those_of_the_files(single: dict[str, Files], response: str) -> None:
    it = single[response]
    said, facts = it.said, it.said["compile"]
    assert (facts["layout"], facts["response"]) == ("coefficients", response)
    assert (facts["rotations"], facts["ring_degree"]) == (0, 4096)
    assert facts["features"] == 16 + 16 * 17 // 2
    assert facts["security_bits"] >= 128 and facts["precision_bits"] >= 9
    assert (facts["statistical_bits"] >= 40) is (response == "private")
    assert (facts["key_bytes"] > 0) is (response == "private")
    envelope = he_inference.wire.envelope_bytes
    kinds = he_inference.wire.Kind
    for verb, name, count, kind in (
        ("keygen", "key_bytes", 1, kinds.EVALUATION_KEYS),
        ("encrypt", "upload_bytes", 3, kinds.QUERY),
        ("evaluate", "download_bytes", 3, kinds.ANSWER),
    ):
        found = said[verb]["key_bytes" if verb == "keygen" else "bytes"]
        assert found == count * facts[name] + envelope(kind)
    assert said["keygen"]["key_bytes"] == it.my_evaluation.stat().st_size
    assert said["encrypt"] == {"queries": 3, "bytes": it.query_bin.stat().st_size}
    assert said["evaluate"]["bytes"] == it.answer_bin.stat().st_size


@pytest.mark.parametrize(
    ("response", "words"),
    [
        ("private", ("answers       private: flooded", "kB once, no rotations", "(at most 2^-40)")),
        ("plain", ("plain: a client", "none go to the server")),
    ],
)
def test_a_summary_of_sums_for_people(
    single: dict[str, Files], tmp_path: Path, response: str, words: tuple[str, ...]
) -> None:
    it = single[response]
    options = (*COEFFICIENTS, "--response", response, "--examples", it.queries)
    ran = run("compile", it.model_safetensors, "-o", tmp_path / "p", *options, "--precision", "7")
    assert (ran.code, ran.err) == (0, "")
    for word in ("128-bit security", "152 of a query, in 1 ciphertexts; 4 outputs", *words):
        assert word in ran.out
    signature = he_inference.load_signature(tmp_path / "p.signature")
    assert isinstance(signature, he_inference.CoefficientSignature)
    assert signature.response == response
    assert 7 <= signature.precision_bits < it.said["compile"]["precision_bits"]


def test_messages_of_sums_for_another_program(
    single: dict[str, Files], files: Files, tmp_path: Path
) -> None:
    private, plain = single["private"], single["plain"]
    output = ("-o", tmp_path / "a")
    for other in (plain, files):
        naming = (str(other.query_bin), "fetch the signature again")
        refused(
            "evaluate", private.m_program, private.my_evaluation, other.query_bin, *output,
            naming=naming,
        )  # fmt: skip
        naming = (str(other.my_evaluation), "fetch the signature again")
        refused(
            "evaluate", private.m_program, other.my_evaluation, private.query_bin, *output,
            naming=naming,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------- plan


@pytest.fixture(scope="module")
def deeper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of two squares, which has no private answers to single queries."""
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(4, 3), Square(), nn.Linear(3, 3), Square(), nn.Linear(3, 2))
    path = tmp_path_factory.mktemp("deeper") / "model.safetensors"
    made = he_inference.from_torch(nn.Sequential(*layers).eval(), torch.rand(8, 1, 2, 2))
    made.save(path)
    return path


SIGNS = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


@pytest.mark.parametrize("kind", SIGNS)
def test_a_plan_is_a_table_and_a_picture(files: Files, tmp_path: Path, kind: str) -> None:
    picture = tmp_path / f"plan{kind}"
    response = ("--response", "private") if kind != ".png" else ()
    ran = run("plan", files.model_safetensors, "--picture", picture, *response)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[-1] == f"picture saved: {picture}"
    assert sum("▸" in line for line in lines[:-3]) == 1
    (marked,) = [line for line in lines if line.startswith(" ▸")]
    assert "coefficients" in marked and "private" in marked
    for words in ("layout", "answers", "100 Mbit/s", "▸ is what compile would choose"):
        assert words in ran.out
    assert ("no private answers" in ran.err) is (kind != ".png")
    assert picture.read_bytes().startswith(SIGNS[kind])
    if kind == ".png":
        with Image.open(picture) as image:
            image.load()
            assert image.size == (1200, 750)
    elif kind == ".svg":
        assert ElementTree.parse(picture).getroot().tag.endswith("svg")


def test_a_plan_for_machines(files: Files, tmp_path: Path) -> None:
    """What `compile` makes is the chosen point, to the byte; plain answers are never chosen."""
    picture = tmp_path / "plan.svg"
    said = run("plan", files.model_safetensors, "--picture", picture, "--json").json
    assert set(said) == {"points", "refusals", "picture"} and said["refusals"] == {}
    points = said["points"]
    assert {(p["layout"], p["response"]) for p in points} == {
        ("coefficients", "private"), ("coefficients", "plain"), ("packed", "plain"),
    }  # fmt: skip
    (chosen,) = [p for p in points if p["chosen"]]
    assert chosen["on_front"] and chosen["response"] == "private"
    times = [p["client_ms"] + p["server_ms"] for p in points]
    assert times == sorted(times)
    compiled = run("compile", files.model_safetensors, "-o", tmp_path / "p", "--json").json
    estimates = {"client_ms", "server_ms"}  # of prices, which are measured but once
    for name in chosen.keys() - {"chosen", "on_front"} - estimates:
        assert compiled[name] == chosen[name], name
    for optimise, measure in (
        ("bytes", lambda p: p["upload_bytes"] + p["download_bytes"]),
        ("keys", lambda p: p["key_bytes"]),
    ):
        options = ("--optimise", optimise, "--response", "plain", "--picture", picture, "--json")
        found = run("plan", files.model_safetensors, *options).json["points"]
        (best,) = [p for p in found if p["chosen"]]
        assert measure(best) == min(map(measure, found)) and best["response"] == "plain"


@pytest.mark.parametrize("response", [(), ("--response", "plain")])
def test_a_plan_of_two_squares(deeper: Path, tmp_path: Path, response: tuple[str, ...]) -> None:
    """Plain answers alone, and compile must be told so."""
    picture = ("--picture", tmp_path / "plan.png")
    ran = run("plan", deeper, *picture, *response)
    assert ran.code == 0
    assert "coefficients: the network has 2 activations one after the other" in ran.err
    text = " ".join(ran.out.split())
    assert "▸ is what compile with --response plain would choose" in text
    assert "packed plain" in text and "private" not in text
    said = run("plan", deeper, *picture, *response, "--json").json
    assert [p["layout"] for p in said["points"]] == ["packed"]
    assert said["points"][0]["chosen"] and said["points"][0]["on_front"]
    assert set(said["refusals"]) == {"coefficients"}


def test_no_private_plan_of_two_squares(deeper: Path, tmp_path: Path) -> None:
    """Refused with all reasons, and nothing is drawn; `compile` refuses it alike."""
    picture = ("--picture", tmp_path / "plan.png")
    for arguments in (
        ("plan", deeper, "--response", "private", *picture),
        ("compile", deeper, "-o", tmp_path / "p"),
    ):
        ran = run(*arguments)
        assert (ran.code, ran.out) == (2, "")
        for words in ("no layout for single", "2 activations", "packed layout has no private"):
            assert words in ran.err
        assert "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []
    ran = run("compile", deeper, "-o", tmp_path / "p", "--response", "plain", "--json")
    assert ran.json["layout"] == "packed"


@pytest.mark.parametrize(
    ("options", "naming"),
    [
        (("--picture", "plan.gif"), ("plan.gif", ".png, .svg, .pdf")),
        (("--picture", "plan"), ("--picture plan", ".png")),
        (("--picture", "none/plan.png"), ("none", "not a folder")),
        (("--optimise", "memory"), ("'memory' is unknown", "latency, bytes, keys")),
        (("--response", "secret"), ("'secret'", "private or plain")),
        (("--precision", "0"), ("precision 0", "1 to 40")),
        (("--precision", "41"), ("precision 41", "1 to 40")),
    ],
    ids=lambda value: " ".join(value),
)
def test_plans_that_are_refused(
    files: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    naming: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    refused("plan", files.model_safetensors, *options, naming=naming)
    refused("plan", tmp_path / "missing", naming=("missing",))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------- train


@pytest.fixture
def tiny_mnist(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The sample in the place of MNIST, whose digests no small folder can have."""
    sample = mnist_sample()
    splits = Splits(sample.take(slice(0, 64)), sample.take(slice(64, 128)))
    monkeypatch.setattr("workloads.datasets.mnist", lambda _folder=None: splits)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("tiny_mnist")
def test_train_writes_a_network(tmp_path: Path) -> None:
    output = tmp_path / "a.safetensors"
    ran = run("train", "--architecture", "tutorial-cnn", "--epochs", "1", "-o", output, "--json")
    said = ran.json
    assert said["model"] == str(output)
    assert said["architecture"] == "tutorial-cnn"
    assert 0 <= said["test_accuracy"] <= 1
    assert said["teacher_accuracy"] is None
    network = he_inference.load_network(output)
    assert (network.input_shape, network.outputs) == ((1, 28, 28), 10)
    again = tmp_path / "b.safetensors"
    ran = run("train", "--architecture", "tutorial-cnn", "--epochs", "1", "-o", again)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"{again}: ")
    assert he_inference.load_network(again).digest == network.digest  # equal seeds


@pytest.mark.usefixtures("tiny_mnist")
@pytest.mark.parametrize(
    ("arguments", "naming"),
    [
        (("--architecture", "vgg"), ("'vgg'", "mnist-cnn, tutorial-cnn, cryptonets")),
        (("--architecture", "relu-teacher"), ("'relu-teacher'", "mnist-cnn")),
        (("--architecture", "tutorial-cnn", "--epochs", "0"), ("epochs=0 >= 1",)),
        (("--seed", "-1"), ("--seed -1", "expected 0 to")),
        (("--seed", str(2**64)), ("--seed", "expected 0 to")),
        (("--epochs", "many"), ("--epochs", "integer", "train --help")),
    ],
)
def test_train_refuses(tmp_path: Path, arguments: tuple[str, ...], naming: tuple[str, ...]) -> None:
    refused("train", *arguments, "-o", tmp_path / "a", naming=naming)
    assert list(tmp_path.iterdir()) == []


def test_train_without_data(tmp_path: Path) -> None:
    naming = ("MNIST was not found", str(tmp_path), "npm pack")
    refused("train", "-o", tmp_path / "a", "--data", tmp_path, naming=naming)


def test_train_with_other_data(tmp_path: Path) -> None:
    """Truncated IDX files are not the original ones."""
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        rank = int(name[-1])
        header = struct.pack(f">HBB{rank}I", 0, 8, rank, *(9,) * rank)
        (tmp_path / f"{name}-ubyte").write_bytes(header + bytes(5))
    naming = ("train-images-idx3-ubyte", "expected md5", "found")
    refused("train", "-o", tmp_path / "a", "--data", tmp_path, naming=naming)


def test_nothing_is_trained_that_could_not_be_saved(tmp_path: Path) -> None:
    def never(_folder: Path | None = None) -> Splits:
        raise AssertionError("the data was read before the output was checked")

    (tmp_path / "file").write_bytes(b"")
    with patch("workloads.datasets.mnist", never):
        refused("train", "-o", tmp_path / "none" / "a", naming=("not a folder",))
        refused("train", "-o", tmp_path / "file" / "a", naming=("not a folder",))
        refused("train", "-o", tmp_path, naming=("is a folder",))


# ---------------------------------------------------------------------------- wrong command lines


@pytest.mark.parametrize(
    ("arguments", "naming"),
    [
        (("frobnicate",), ("'frobnicate'", "he-inference --help")),
        (("demo", "--queries", "0"), ("--queries 0", "1 to 300")),
        (("demo", "--queries", "301"), ("--queries 301", "1 to 300")),
        (("demo", "--queries", "-3"), ("--queries -3", "1 to 300")),
        (("demo", "--queries", "ten"), ("--queries", "integer")),
        (("demo", "--nonsense"), ("--nonsense", "he-inference demo --help")),
        (("demo", "extra"), ("extra",)),
        (("compile",), ("model", "he-inference compile --help")),
        (("compile", "model"), ("--output",)),
        (("serve", "p", "--port", "0"), ("--port 0", "1 to 65535")),
        (("serve", "p", "--port", "70000"), ("--port 70000", "1 to 65535")),
        (("query", "http://127.0.0.1:1", "x", "--batch", "0"), ("--batch 0", "1 to 16384")),
        (("query", "http://127.0.0.1:1", "x", "--batch", "16385"), ("--batch 16385", "to 16384")),
    ],
    ids=lambda value: " ".join(value),
)
def test_command_lines_that_do_not_parse(
    arguments: tuple[str, ...], naming: tuple[str, ...]
) -> None:
    refused(*arguments, naming=naming)


# ---------------------------------------------------------------------------- wrong inputs


def encrypt(files: Files, images: Path, naming: tuple[str, ...]) -> None:
    before = files.contents()
    output = images.parent / "q.bin"
    refused("encrypt", files.m_program_signature, files.my_key, images, "-o", output, naming=naming)
    assert not output.exists()
    assert files.contents() == before


def test_images_that_are_no_queries(files: Files, tmp_path: Path) -> None:
    """Each kind once; test_images.py has them all."""
    good = pixels(1)[0]
    encrypt(files, tmp_path / "none.png", ("none.png", "No such file"))
    encrypt(files, tmp_path, ("no pictures in",))
    Image.fromarray(good[1:]).save(tmp_path / "size.png")
    encrypt(files, tmp_path / "size.png", ("4 x 3 pixels", "expected 4 x 4"))
    rgb = np.stack([good, 255 - good, good], axis=-1)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    encrypt(files, tmp_path / "rgb.png", ("colours", "expected shades of grey"))
    Image.fromarray(np.concatenate([rgb, good[..., None]], axis=-1)).save(tmp_path / "rgba.png")
    encrypt(files, tmp_path / "rgba.png", ("transparent",))
    Image.fromarray(good.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    encrypt(files, tmp_path / "deep.png", ("I;16", "expected 8 bits"))
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    encrypt(files, tmp_path / "object.npy", ("Python objects",))
    np.save(tmp_path / "nan.npy", np.full((1, 4, 4), np.nan))
    encrypt(files, tmp_path / "nan.npy", ("nan.npy", "NaN", "expected finite"))
    np.save(tmp_path / "shape.npy", np.zeros((2, 5, 4)))
    encrypt(files, tmp_path / "shape.npy", ("(2, 5, 4)", "(1, 4, 4)"))
    np.save(tmp_path / "range.npy", np.full((1, 4, 4), 255.0))
    encrypt(files, tmp_path / "range.npy", ("255", "0 to 1"))
    np.save(tmp_path / "many.npy", np.zeros((1025, 4, 4)))
    encrypt(files, tmp_path / "many.npy", ("1025 queries", "1024"))
    (tmp_path / "idx").write_bytes(struct.pack(">HBB3I", 0, 8, 3, 1, 4, 4) + bytes(15))
    encrypt(files, tmp_path / "idx", ("expected 16 values", "found 15"))


def of_version(source: Path, target: Path, version: str) -> Path:
    with safe_open(str(source), framework="numpy") as file:
        metadata = {**file.metadata(), "version": version}
        save_file({k: file.get_tensor(k) for k in file.keys()}, target, metadata)  # noqa: SIM118
    return target


def test_networks_that_are_none(files: Files, tmp_path: Path) -> None:
    def compiles(path: Path, *naming: str) -> None:
        refused("compile", path, "-o", tmp_path / "p", naming=(str(path), *naming))
        assert not (tmp_path / "p").exists()
        assert not (tmp_path / "p.signature").exists()

    compiles(tmp_path / "none", "No such file")
    compiles(tmp_path, "cannot be read")
    compiles(of_version(files.model_safetensors, tmp_path / "v2", "2"), "'2'", "version 1")
    compiles(files.m_program, "sottovoce-network", "sottovoce-program")
    compiles(files.m_program_signature, "not a safetensors file")
    (tmp_path / "empty").write_bytes(b"")
    compiles(tmp_path / "empty", "not a safetensors file")
    whole = files.model_safetensors.read_bytes()
    (tmp_path / "short").write_bytes(whole[:-9])
    compiles(tmp_path / "short", "not a safetensors file")
    save_file({"x": np.zeros(3)}, tmp_path / "foreign")
    remedy = "from_torch(module, example).save(path)"
    compiles(tmp_path / "foreign", "no format at all", "sottovoce-network", remedy, "README")
    save_file({"0.weight": np.zeros(3)}, tmp_path / "state_dict", {"format": "pt"})
    compiles(tmp_path / "state_dict", "'pt'", "sottovoce-network", remedy)
    for name, zipped in (("m.pt", True), ("older.pt", False)):
        state = nn.Linear(2, 2).state_dict()
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=zipped)
        compiles(tmp_path / name, "a file of torch.save", remedy, "README")


def test_programs_that_are_none(files: Files, tmp_path: Path) -> None:
    for path, word in (
        (files.model_safetensors, "sottovoce-network"),
        (tmp_path / "none", "No such file"),
        (tmp_path, "cannot be read"),
        (of_version(files.m_program, tmp_path / "v2", "2"), "'2'"),
    ):
        naming = (str(path), word)
        output = ("-o", tmp_path / "a")
        refused("evaluate", path, files.my_evaluation, files.query_bin, *output, naming=naming)
        refused("serve", path, "--port", str(free_port()), naming=naming)


@pytest.mark.parametrize("precision", ["0", "-1", "41", "nan", "inf"])
def test_precision_out_of_range(files: Files, tmp_path: Path, precision: str) -> None:
    naming = ("precision", precision, "expected 1 to 40")
    arguments = ("compile", files.model_safetensors, "-o", tmp_path / "p")
    refused(*arguments, "--precision", precision, naming=naming)


def test_signatures_that_are_none(files: Files, tmp_path: Path) -> None:
    (tmp_path / "json").write_text('{"format": "other", "version": 1}')
    version = json.loads(files.m_program_signature.read_bytes()) | {"version": 7}
    (tmp_path / "version").write_text(json.dumps(version))
    for path, word in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (files.m_program, ""),
        (tmp_path / "json", "'other'"),
        (tmp_path / "version", "version 7"),
    ):
        keys = ("--secret", tmp_path / "s", "--evaluation", tmp_path / "e")
        refused("keygen", path, *keys, naming=(word,))
        refused("decrypt", path, files.my_key, files.answer_bin, naming=(word,))
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "e").exists()


def test_secret_keys_that_do_not_fit(files: Files, tmp_path: Path) -> None:
    damaged = bytearray(files.my_key.read_bytes())
    damaged[100] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    (tmp_path / "short").write_bytes(files.my_key.read_bytes()[:-1])
    (tmp_path / "open").write_bytes(files.my_key.read_bytes())
    for name, mode in (("damaged", 0o600), ("short", 0o600), ("open", 0o644)):
        (tmp_path / name).chmod(mode)
    for path, words in (
        (tmp_path / "none", ("No such file",)),
        (tmp_path, ("Is a directory",)),
        (files.other_key, ("was made for signature",)),
        (files.my_evaluation, ("not a secret key",)),
        (tmp_path / "damaged", ("damaged",)),
        (tmp_path / "short", ("damaged",)),
        (tmp_path / "open", ("can be read by others", "chmod 600")),
    ):
        naming = (str(path), *words)
        signature = files.m_program_signature
        output = ("-o", tmp_path / "q")
        refused("decrypt", signature, path, files.answer_bin, naming=naming)
        refused("encrypt", signature, path, files.queries, *output, naming=naming)
    # The signature of another program:
    naming = ("was made for signature",)
    refused("decrypt", files.other_program_signature, files.my_key, files.answer_bin, naming=naming)


def test_messages_for_another_program(files: Files, tmp_path: Path) -> None:
    output = ("-o", tmp_path / "a")
    naming = ("is for signature", "this side has")
    program, keys = files.m_program, files.my_evaluation
    refused("evaluate", program, files.other_evaluation, files.query_bin, *output, naming=naming)
    refused("evaluate", files.other_program, keys, files.query_bin, *output, naming=naming)
    other = tmp_path / "other.query"
    run("encrypt", files.other_program_signature, files.other_key, files.queries, "-o", other)
    refused("evaluate", program, keys, other, *output, naming=naming)
    # Keys of another client of the same program:
    mine = ("--secret", tmp_path / "s", "--evaluation", tmp_path / "e")
    assert run("keygen", files.m_program_signature, *mine).code == 0
    naming = ("no evaluation keys",)
    refused("evaluate", program, tmp_path / "e", files.query_bin, *output, naming=naming)
    assert not (tmp_path / "a").exists()


def test_messages_of_another_kind(files: Files, tmp_path: Path) -> None:
    output = ("-o", tmp_path / "a")
    program, keys, query = files.m_program, files.my_evaluation, files.query_bin
    refused("evaluate", program, query, keys, *output, naming=("EVALUATION_KEYS", "QUERY"))
    refused("evaluate", program, keys, files.answer_bin, *output, naming=("QUERY", "ANSWER"))
    decrypt = ("decrypt", files.m_program_signature, files.my_key)
    refused(*decrypt, query, naming=("ANSWER", "QUERY"))
    refused(*decrypt, files.queries, naming=("STVC", "NUM"))
    refused(*decrypt, tmp_path, naming=("Is a directory",))
    refused(*decrypt, tmp_path / "none", naming=("No such file",))


@pytest.mark.parametrize("cut", [0, 1, 39, 60, -1, -17])
def test_truncated_messages(files: Files, tmp_path: Path, cut: int) -> None:
    short = tmp_path / "short"
    short.write_bytes(files.query_bin.read_bytes()[:cut])
    output = ("-o", tmp_path / "a")
    program, keys = files.m_program, files.my_evaluation
    refused("evaluate", program, keys, short, *output, naming=("truncated",))
    short.write_bytes(files.answer_bin.read_bytes()[:cut])
    decrypt = ("decrypt", files.m_program_signature, files.my_key)
    refused(*decrypt, short, naming=("truncated",))
    short.write_bytes(files.answer_bin.read_bytes() + b"more")
    refused(*decrypt, short, naming=("too long",))


@pytest.mark.parametrize("place", [0.0, 0.3, 0.9, 1.0])
def test_flipped_bits(files: Files, tmp_path: Path, place: float) -> None:
    def flipped(path: Path) -> Path:
        damaged = bytearray(path.read_bytes())
        damaged[round(place * (len(damaged) - 1))] ^= 4
        (tmp_path / path.name).write_bytes(damaged)
        return tmp_path / path.name

    output = ("-o", tmp_path / "a")
    program, keys, query = files.m_program, files.my_evaluation, files.query_bin
    refused("evaluate", program, keys, flipped(query), *output)
    refused("evaluate", program, flipped(keys), query, *output)
    refused("decrypt", files.m_program_signature, files.my_key, flipped(files.answer_bin))
    assert not (tmp_path / "a").exists()


# ---------------------------------------------------------------------------- outputs


def writers(files: Files, output: Path) -> list[tuple[str | Path, ...]]:
    """Every verb that writes, asked to write there."""
    return [
        ("compile", files.model_safetensors, "-o", output),
        ("keygen", files.m_program_signature, "--secret", f"{output}.new", "--evaluation", output),
        ("encrypt", files.m_program_signature, files.my_key, files.queries, "-o", output),
        ("evaluate", files.m_program, files.my_evaluation, files.query_bin, "-o", output),
        ("train", "-o", output),
        ("demo", "--picture", output),
    ]


def test_outputs_that_cannot_be_written(files: Files, tmp_path: Path) -> None:
    """Refused at once: as root no permission binds, so the places are impossible ones."""
    (tmp_path / "file").write_bytes(b"")
    started = time.monotonic()
    for place, word in (
        (tmp_path / "none" / "x", "is not a folder"),
        (tmp_path / "file" / "x", "is not a folder"),
        (tmp_path, "is a folder"),
        (Path(os.devnull), "not an ordinary file"),
    ):
        for arguments in writers(files, place):
            refused(*arguments, naming=(str(place), word))
    assert time.monotonic() - started < PATIENCE
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert not Path(os.devnull).is_file()


def test_a_secret_key_is_never_overwritten(files: Files, tmp_path: Path) -> None:
    before = files.contents()
    secret = shutil.copy(files.other_key, tmp_path / "a.key")
    for arguments in writers(files, Path(secret)):
        refused(*arguments, naming=("a.key", "secret key", "never overwritten"))
    keys = ("--secret", secret, "--evaluation", tmp_path / "e")
    refused("keygen", files.m_program_signature, *keys, naming=("exists", "never overwritten"))
    assert Path(secret).read_bytes() == files.other_key.read_bytes()
    assert files.contents() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.key"]


def test_inputs_are_not_overwritten(files: Files, tmp_path: Path) -> None:
    """Nor are two outputs written to one file: the second would be all that is left."""
    before = files.contents()
    it, signature = files, files.m_program_signature
    for arguments in (
        ("compile", it.model_safetensors, "-o", it.model_safetensors),
        ("compile", it.model_safetensors, "-o", it.queries, "--examples", it.queries),
        ("keygen", signature, "--secret", tmp_path / "a", "--evaluation", tmp_path / "a"),
        ("keygen", signature, "--secret", tmp_path / "a", "--evaluation", signature),
        ("encrypt", signature, it.my_key, it.queries, "-o", it.queries),
        ("encrypt", signature, it.my_key, it.queries, "-o", signature),
        ("encrypt", signature, it.my_key, it.queries, "-o", it.my_key),
        ("evaluate", it.m_program, it.my_evaluation, it.query_bin, "-o", it.query_bin),
        ("evaluate", it.m_program, it.my_evaluation, it.query_bin, "-o", it.m_program),
    ):
        refused(*arguments, naming=("overwritten",))
    assert files.contents() == before
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_half_written(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    output = tmp_path / "x"
    output.write_bytes(b"older")
    for arguments in writers(files, output)[1:4]:
        if arguments[0] == "keygen":
            refused(*arguments, naming=("exists", "never overwritten"))
        else:
            refused(*arguments, naming=("cannot be written", "No space left"))
    assert output.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [output]
    for arguments in writers(files, tmp_path / "new")[1:4]:
        refused(*arguments, naming=("cannot be written", "No space left"))
    assert list(tmp_path.iterdir()) == [output]  # not even a secret key that nobody could use


def test_an_interruption_leaves_nothing_half_written(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_self: Path, _target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    output = tmp_path / "x"
    ran = run("encrypt", files.m_program_signature, files.my_key, files.queries, "-o", output)
    assert ran == Ran(130, "", "")
    assert list(tmp_path.iterdir()) == []


def test_what_marks_a_secret_key(files: Files) -> None:
    """`client` and the command line agree on it."""
    assert files.my_key.read_bytes().startswith(user_files.SECRET_BEGINS)


# ---------------------------------------------------------------------------- over HTTP


LAST_LINE = (
    r"{} queries in [\d.]+ s, \d+ a second; [\d.]+ [kM]B up, [\d.]+ [kM]B down"
    r"( \(a message costs the same with up to \d+\))?\n"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Serving:
    url: str
    port: int
    process: "subprocess.Popen[bytes]"
    log: Path


@pytest.fixture(scope="module")
def serving(files: Files) -> Iterator[Serving]:
    """`he-inference serve` in a session of its own; told to stop at the end."""
    with served(files, "--workers", "1") as it:
        yield it


@contextlib.contextmanager
def served(files: Files, *options: str) -> Iterator[Serving]:
    port = free_port()
    command = [
        sys.executable, "-m", "he_inference", "serve", str(files.m_program), "--response", "plain",
    ]  # fmt: skip
    log = files.folder / "serve.log"
    with (
        log.open("wb") as file,
        subprocess.Popen(
            [*command, "--port", str(port), *options],
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,
        ) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + START_PATIENCE
            while not healthy(url):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield Serving(url, port, process, log)
        finally:
            process.terminate()
            out, _ = process.communicate(timeout=PATIENCE)
    said = log.read_text()
    assert process.returncode == 0, said
    assert out == b""
    assert "Traceback" not in said
    assert_nothing_is_left(process.pid)


def healthy(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/v1/health", timeout=5, trust_env=False).status_code == 200
    return False


def test_query_asks_a_service(files: Files, serving: Serving) -> None:
    said = run("query", serving.url, files.queries, "--json").json
    assert said["labels"] == files.said["decrypt"]["labels"]
    assert said["key_bytes"] == files.said["keygen"]["key_bytes"]
    assert said["upload_bytes"] == files.said["encrypt"]["bytes"]
    assert said["download_bytes"] == files.said["evaluate"]["bytes"]
    assert said["queries_per_second"] == pytest.approx(3 / said["seconds"])


def test_query_with_a_kept_key_in_small_messages(files: Files, serving: Serving) -> None:
    arguments = ("query", serving.url, files.queries, "--secret", files.my_key, "--batch", "2")
    ran = run(*arguments)
    assert ran.code == 0
    rows = [line.split() for line in ran.out.splitlines()[1:]]
    assert [int(row[1]) for row in rows] == files.said["decrypt"]["labels"]
    assert re.fullmatch(LAST_LINE.format(3), ran.err), ran.err


def test_query_refuses_before_it_sends_keys(files: Files, serving: Serving, tmp_path: Path) -> None:
    refused("query", serving.url, tmp_path / "none.png", naming=("none.png", "No such file"))
    arguments = ("query", serving.url, files.queries, "--secret")
    refused(*arguments, files.other_key, naming=("was made for signature",))
    refused(*arguments, tmp_path / "none", naming=("No such file",))
    refused("query", f"{serving.url}/some/path", files.queries)


def test_a_port_in_use(files: Files, serving: Serving) -> None:
    naming = (f"127.0.0.1:{serving.port}", "another port")
    refused(
        "serve", files.m_program, "--response", "plain", "--port", str(serving.port), naming=naming
    )


@pytest.mark.parametrize(
    ("url", "naming"),
    [
        ("http://127.0.0.1:{free}", ("nothing answers at",)),
        ("https://127.0.0.1:{free}", ("nothing answers at",)),
        ("ftp://127.0.0.1:1", ("ftp://", "expected an address like https://")),
        ("garbage", ("garbage", "expected an address like https://")),
        ("http://", ("expected an address like https://",)),
        ("", ("expected an address like https://",)),
        ("http://[::1", ("is not an address",)),
        ("http://127.0.0.1:port", ("is not an address",)),
        ("http://203.0.113.1:8443", ("plain HTTP", "use https")),
    ],
)
def test_urls_that_cannot_be_asked(files: Files, url: str, naming: tuple[str, ...]) -> None:
    refused("query", url.format(free=free_port()), files.queries, naming=naming)


def test_a_certificate_authority_that_is_none(files: Files, tmp_path: Path) -> None:
    arguments = ("query", "https://127.0.0.1:1", files.queries, "--certificate-authority")
    refused(*arguments, tmp_path / "none.pem", naming=("none.pem", "No such file"))
    refused(*arguments, files.queries, naming=("queries.npy",))


def test_plain_http_for_others_is_chosen_explicitly(files: Files) -> None:
    port = ("--port", str(free_port()))
    naming = ("plain HTTP", "0.0.0.0", "certificate")
    plain = ("--response", "plain")
    refused("serve", files.m_program, *plain, *port, "--host", "0.0.0.0", naming=naming)


# ---------------------------------------------------------------------------- interruptions


def test_interrupted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_verb, "run_demo", interrupted)
    assert run("demo", "--picture", tmp_path / "p.png") == Ran(130, "", "")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(demo_verb, "run_demo", missing)
    naming = ("torch", "pip install 'sottovoce[all]'")
    refused("demo", "--picture", tmp_path / "p.png", naming=naming)


def test_a_reader_that_goes_away(files: Files) -> None:
    """As `he-inference decrypt … | head -1` does."""
    arguments = ["decrypt", files.m_program_signature, files.my_key, files.answer_bin]
    command = [sys.executable, "-m", "he_inference", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout(files: Files) -> None:
    arguments = ["decrypt", files.m_program_signature, files.my_key, files.answer_bin]
    command = [sys.executable, "-m", "he_inference", *map(str, arguments)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE)
    assert done.returncode == 2
    assert done.stderr.startswith(b"he-inference: ")
    assert b"No space left" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_control_c_in_the_middle_of_a_demo(tmp_path: Path) -> None:
    """Sent to all of the processes, as a terminal does, once the service is there."""
    command = [sys.executable, "-m", "he_inference", "demo", "--queries", "300"]
    with subprocess.Popen(
        [*command, "--picture", str(tmp_path / "p.png")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while len(leftovers(process.pid)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert_nothing_is_left(process.pid)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("most", ["x", None, 0, -1, 2])
def test_a_server_may_say_anything_of_its_batches(
    files: Files, monkeypatch: pytest.MonkeyPatch, most: object
) -> None:
    """Only a sensible limit is followed; the query goes on with the user's otherwise."""
    signature = he_inference.load_signature(files.m_program_signature)

    class Stand:
        url = "http://127.0.0.1:1"

        def __init__(self, *_: object, **__: object) -> None:
            self.server = he_inference.Server(files.m_program)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...

        def health(self) -> dict[str, object]:
            return {"max_batch": most}

        def signature(self) -> object:
            return signature

        def register(self, keys: bytes) -> str:
            return str(self.server.register(keys))

        def evaluate(self, query: bytes) -> bytes:
            return bytes(self.server.evaluate(query))

    monkeypatch.setattr(he_inference, "RemoteServer", Stand)
    ran = run("query", "http://127.0.0.1:1", files.queries, "--json")
    assert ran.code == 0
    assert len(ran.json["names"]) == len(ran.json["labels"]) > 0


# ---------------------------------------------------------------------------- batches


def corners(count: int, seed: int = 0) -> tuple[np.ndarray[Any, Any], list[int]]:
    """Pictures of 2 x 2 pixels, one of the first three white and all others dark; and which."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    flat = rng.integers(0, 100, (count, 4), dtype=np.uint8)
    flat[np.arange(count), labels] = 255
    return flat.reshape(count, 2, 2), labels.tolist()


def corner_network() -> he_inference.Network:
    """Scores are about the squares of the first three pixels: the white one's is far ahead."""
    torch.manual_seed(0)
    first, second = nn.Linear(4, 3), nn.Linear(3, 3)
    with torch.no_grad():
        for layer in (first, second):
            layer.weight.mul_(0.1).add_(torch.eye(*layer.weight.shape))
            layer.bias.mul_(0.1)
    module = nn.Sequential(nn.Flatten(), first, Square(), second).eval()
    return he_inference.from_torch(module, torch.zeros(1, 1, 2, 2))


BATCHED = ("--layout", "batched")
SLOTS = {"private": 4096, "plain": 2048}


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The chain by files for 7 queries; private answers are got where nothing is said."""
    return written(tmp_path_factory.mktemp("private"), corner_network(), corners(7)[0], *BATCHED)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder, options = tmp_path_factory.mktemp("plain"), (*BATCHED, "--response", "plain")
    return written(folder, corner_network(), corners(7)[0], *options)


@pytest.fixture(params=SLOTS)
def batched(request: pytest.FixtureRequest) -> Files:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Files)
    return found


def test_a_chain_of_batches_gives_the_labels_of_the_network(batched: Files) -> None:
    x, labels = corners(7)
    expected = batched.network.evaluate(x[:, None].astype(np.float32) / np.float32(255))
    said = batched.said["decrypt"]
    assert said["labels"] == expected.argmax(1).tolist() == labels
    resolution = he_inference.load_signature(batched.m_program_signature).resolution
    # Six standard deviations of the noise, and half a step of rounding.
    assert np.allclose(said["scores"], expected, atol=6.5 * resolution)


def test_figures_of_a_batch_are_those_of_the_files(batched: Files) -> None:
    said, response = batched.said, batched.said["compile"]["response"]
    facts = said["compile"]
    assert facts["layout"] == "batched"
    assert (facts["queries_a_batch"], facts["rotations"]) == (SLOTS[response], 0)
    assert facts["ring_degree"] == 2 * SLOTS[response]
    assert facts["security_bits"] >= 128
    assert facts["precision_bits"] >= 10
    assert (facts["statistical_bits"] >= 40) is (response == "private")
    assert (facts["key_bytes"] > 0) is (response == "private")
    # A message has some 100 bytes beside its ciphertexts.
    for verb, name in (
        ("encrypt", "upload_bytes"),
        ("evaluate", "download_bytes"),
        ("keygen", "key_bytes"),
    ):
        found = said[verb]["key_bytes" if verb == "keygen" else "bytes"]
        assert 0 < found - facts[name] < 200
    assert said["keygen"]["key_bytes"] == batched.my_evaluation.stat().st_size
    assert said["encrypt"] == {"queries": 7, "bytes": batched.query_bin.stat().st_size}
    assert said["evaluate"]["bytes"] == batched.answer_bin.stat().st_size


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (
            "private",
            ("N = 8192, 4096 queries a batch", "answers       private: flooded", "MB once"),
        ),
        ("plain", ("N = 4096, 2048 queries a batch", "plain: a client", "none go to the server")),
    ],
)
def test_a_summary_for_people(
    private: Files, tmp_path: Path, response: str, words: tuple[str, ...]
) -> None:
    arguments = ("compile", private.model_safetensors, "-o", tmp_path / "p", *BATCHED)
    examples = ("--examples", private.queries, "--precision", "7")
    ran = run(*arguments, "--response", response, *examples)
    assert (ran.code, ran.err) == (0, "")
    for word in ("128-bit security", "kB a query", f"written       {tmp_path / 'p'}", *words):
        assert word in ran.out
    program = he_inference.load_program(tmp_path / "p")
    signature = he_inference.load_signature(tmp_path / "p.signature")
    assert isinstance(signature, he_inference.BatchSignature)
    assert signature.response == response
    assert program.signature.digest == signature.digest
    assert 7 <= signature.precision_bits < private.said["compile"]["precision_bits"]


@pytest.mark.parametrize(
    ("options", "naming"),
    [
        (("--layout", "diagonal"), ("'diagonal'", "packed or batched")),
        ((*BATCHED, "--response", "secret"), ("'secret'", "private or plain")),
        (("--response", "secret"), ("'secret'", "private or plain")),
        ((*PACKED, "--response", "private"), ("packed layout has no private answers", "batched")),
        (("--optimise", "memory"), ("'memory'", "keys or balanced")),
        ((*BATCHED, "--precision", "0"), ("precision 0", "1 to 40")),
    ],
    ids=lambda value: " ".join(value),
)
def test_layouts_and_responses_that_are_none(
    files: Files, tmp_path: Path, options: tuple[str, ...], naming: tuple[str, ...]
) -> None:
    refused("compile", files.model_safetensors, "-o", tmp_path / "p", *options, naming=naming)
    assert list(tmp_path.iterdir()) == []


def test_weights_are_shown_by_an_explicit_choice_only(
    files: Files,
    plain: Files,
    private: Files,
    single: dict[str, Files],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("he_inference.service.serve", lambda *given: asked.append(given))
    explicit = ("--response", "private"), ("--response", "plain")
    for it in (plain, single["plain"]):
        naming = (str(it.m_program), "learn its weights", "--response plain")
        refused("serve", it.m_program, naming=naming)
        refused("serve", it.m_program, *explicit[0], naming=naming)
    refused(
        "serve", files.m_program, *explicit[0], naming=("packed layout", "--layout coefficients")
    )
    for it in (files, plain, private, *single.values()):
        refused("serve", it.m_program, "--response", "x", naming=("'x'", "private or plain"))
    assert asked == []
    for arguments in (
        (plain.m_program, *explicit[1]),
        (single["plain"].m_program, *explicit[1]),
        (single["private"].m_program,),
        (single["private"].m_program, *explicit[0]),
        (private.m_program,),
        (private.m_program, *explicit[0]),
        (files.m_program, *explicit[1]),
        (files.m_program, *explicit[1], "--workers", "3"),
    ):
        assert run("serve", *arguments) == Ran(0, "", "")
    assert [settings.workers for *_, settings in asked] == [None] * 7 + [3]


def test_batches_that_are_no_queries(private: Files, tmp_path: Path) -> None:
    np.save(tmp_path / "many.npy", np.zeros((4097, 2, 2)))
    encrypt(private, tmp_path / "many.npy", ("4097 queries", "at most 4096"))
    np.save(tmp_path / "range.npy", np.full((4096, 2, 2), 1.5))
    encrypt(private, tmp_path / "range.npy", ("1.5", "0 to 1"))


def test_messages_of_the_other_layout(files: Files, private: Files, tmp_path: Path) -> None:
    output = ("-o", tmp_path / "a")
    program, keys, query = private.m_program, private.my_evaluation, private.query_bin
    refused("evaluate", program, files.my_evaluation, query, *output, naming=("is for signature",))
    refused("evaluate", program, keys, files.query_bin, *output)
    refused("evaluate", files.m_program, files.my_evaluation, query, *output)
    refused("decrypt", private.m_program_signature, private.my_key, files.answer_bin)
    naming = ("my.key", "was made for")
    refused("decrypt", private.m_program_signature, files.my_key, files.answer_bin, naming=naming)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("place", [0.0, 0.3, 0.9, 1.0])
def test_flipped_bits_in_batches(private: Files, tmp_path: Path, place: float) -> None:
    test_flipped_bits(private, tmp_path, place)


@pytest.mark.parametrize("cut", [0, 39, 60, -1])
def test_truncated_batches(private: Files, tmp_path: Path, cut: int) -> None:
    test_truncated_messages(private, tmp_path, cut)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_control_c_while_encryption_starts(private: Files, tmp_path: Path) -> None:
    """Sent to the whole process group, as a terminal does; here the processes that encrypt take
    two seconds to start."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "if 'he_inference.encryption_worker' in sys.orig_argv:\n"
        "    time.sleep(2)\n"
    )
    arguments = ["encrypt", private.m_program_signature, private.my_key, private.queries]
    with subprocess.Popen(
        [sys.executable, "-m", "he_inference", *map(str, arguments), "-o", str(tmp_path / "q")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while len(leftovers(process.pid)) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert_nothing_is_left(process.pid)
    assert not (tmp_path / "q").exists()


# ---------------------------------------------------------------------------- batches over HTTP


def test_query_asks_in_batches(plain: Files, tmp_path: Path) -> None:
    """By `serve` in a process of its own; more queries than slots, in the order of the files."""
    x, labels = corners(5000, seed=1)
    np.save(tmp_path / "a.npy", x[:4500])
    np.save(tmp_path / "b.npy", x[4500:].astype(np.float64) / 255)
    both = (tmp_path / "a.npy", tmp_path / "b.npy")
    with served(plain, "--response", "plain") as it:
        health = httpx.get(f"{it.url}/v1/health", trust_env=False).json()
        assert (health["max_batch"], health["workers"]) == (2048, 1)
        said = run("query", it.url, *both, "--json").json
        ran = run("query", it.url, both[1], "--signature", plain.m_program_signature)
        log = [json.loads(line) for line in it.log.read_text().splitlines()]
    assert said["labels"] == labels
    assert said["names"][4499:4501] == ["a.npy[4499]", "b.npy[0]"]
    message, answer = (plain.said[verb]["bytes"] for verb in ("encrypt", "evaluate"))
    assert (said["upload_bytes"], said["download_bytes"]) == (3 * message, 3 * answer)
    assert said["queries_per_second"] == pytest.approx(5000 / said["seconds"])
    rows = [line.split() for line in ran.out.splitlines()[1:]]
    assert [int(row[1]) for row in rows] == labels[4500:]
    assert re.fullmatch(LAST_LINE.format(500), ran.err), ran.err
    posts = [entry["path"] for entry in log if entry.get("method") == "POST"]
    assert posts == ["/v1/evaluate"] * 4  # and no keys, of which plain answers need none


@dataclass
class Nearby:
    """A service without a network in between, and what it was sent."""

    server: he_inference.Server
    posts: list[str]
    lost: int = 0
    """Queries still to be answered as if their keys had been dropped."""
    lives: int = 1 << 30
    """Messages that are answered before nothing answers any more."""

    def answer(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path, request.content
        if request.method == "POST":
            self.posts.append(path)
        if path == "/v1/signature":
            return httpx.Response(200, content=self.server.signature().to_bytes())
        if path == "/v1/health":
            return httpx.Response(200, json={"max_batch": 4096})
        if path == "/v1/keys":
            return httpx.Response(200, json={"key_id": self.server.register(body)})
        if self.lost:
            self.lost -= 1
            return httpx.Response(404, json={"error": "UnknownKey", "message": "no such keys"})
        self.lives -= 1
        if self.lives < 0:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, content=self.server.evaluate(body))


URL = "http://127.0.0.1:1"


@pytest.fixture
def nearby(private: Files, monkeypatch: pytest.MonkeyPatch) -> Nearby:
    """What `query` finds at any address."""
    it = Nearby(he_inference.Server(private.m_program), [])

    def remote(url: str, **_: object) -> he_inference.RemoteServer:
        return he_inference.remote.RemoteServer(url, transport=httpx.MockTransport(it.answer))

    monkeypatch.setattr(he_inference, "RemoteServer", remote)
    # Starting processes would take longer than so few features do.
    monkeypatch.setattr("he_inference.batch_cipher.processors", lambda: 0)
    return it


def test_keys_go_to_the_service_once(nearby: Nearby, private: Files, tmp_path: Path) -> None:
    x, labels = corners(4100, seed=2)
    np.save(tmp_path / "x.npy", x)
    said = run("query", URL, tmp_path / "x.npy", "--secret", private.my_key, "--json").json
    assert said["labels"] == labels
    assert said["key_bytes"] == private.said["keygen"]["key_bytes"]
    assert said["upload_bytes"] == 2 * private.said["encrypt"]["bytes"]
    assert nearby.posts == ["/v1/keys", "/v1/evaluate", "/v1/evaluate"]


@pytest.mark.parametrize(("size", "messages"), [("3", 3), ("7", 1), ("16384", 1)])
def test_batch_is_the_users_choice(
    nearby: Nearby, private: Files, size: str, messages: int
) -> None:
    """As far as there are slots, and it is said where they end."""
    ran = run("query", URL, private.queries, "--batch", size, "--json")
    assert ran.code == 0 and json.loads(ran.out)["labels"] == corners(7)[1]
    assert (f"--batch {size}: a message takes 4096" in ran.err) is (size == "16384")
    assert nearby.posts == ["/v1/keys"] + ["/v1/evaluate"] * messages


def test_keys_that_were_dropped_are_sent_again(nearby: Nearby, private: Files) -> None:
    nearby.lost = 1
    said = run("query", URL, private.queries, "--batch", "4", "--json").json
    assert said["labels"] == corners(7)[1]
    once = ["/v1/keys", "/v1/evaluate"]
    assert nearby.posts == [*once, *once, "/v1/evaluate"]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_was_answered_is_not_lost(
    nearby: Nearby, private: Files, options: tuple[str, ...]
) -> None:
    """When the service goes away: rows so far, from where to go on, then why."""
    nearby.lives = 2
    ran = run("query", URL, private.queries, "--batch", "2", *options)
    assert ran.code == 2
    rows, why = ran.err.splitlines()
    assert "4 of 7 queries were answered" in rows and "queries.npy[4]" in rows
    assert "nothing answers" in why
    expected = corners(7)[1][:4]
    if options:
        assert json.loads(ran.out)["labels"] == expected
    else:
        assert [int(line.split()[1]) for line in ran.out.splitlines()[1:]] == expected


def test_nothing_answered_is_nothing_shown(nearby: Nearby, private: Files) -> None:
    nearby.lives = 0
    refused("query", URL, private.queries, naming=("nothing answers",))


def test_a_secret_key_is_no_evaluation_keys(private: Files, tmp_path: Path) -> None:
    refused(
        "evaluate", private.m_program, private.my_key, private.queries, "-o", tmp_path / "a",
        naming=("secret key", "no server should have"),
    )  # fmt: skip


def test_keys_are_not_sent_for_ever(nearby: Nearby, private: Files) -> None:
    nearby.lost = 9
    refused("query", URL, private.queries, naming=("no such keys",))
    assert nearby.posts == ["/v1/keys", "/v1/evaluate"] * 2


def test_pictures_are_asked_for_by_name(nearby: Nearby, private: Files, tmp_path: Path) -> None:
    """What lies beside them is named too, but for machines, and not without end."""
    x, labels = corners(3)
    for number, picture in enumerate(x):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "more").mkdir()
    arguments = ("query", URL, tmp_path, private.queries)
    ran = run(*arguments)
    assert ran.code == 0
    rows = [line.split() for line in ran.out.splitlines()[1:]]
    assert [row[0] for row in rows[:4]] == ["0.png", "1.png", "2.png", "queries.npy[0]"]
    assert [int(row[1]) for row in rows] == labels + corners(7)[1]
    skipped, _, last = ran.err.partition("\n")
    assert skipped == "skipped, as they are no pictures: more/, notes.txt"
    assert re.fullmatch(LAST_LINE.format(10), last), last
    answered = run(*arguments, "--json").json
    assert answered["labels"] == labels + corners(7)[1]
    assert answered["skipped"] == ["more/", "notes.txt"]
    for number in range(5):
        (tmp_path / f"notes{number}.txt").touch()
    first = run(*arguments).err.splitlines()[0]
    assert first.endswith(": more/, notes.txt, notes0.txt, notes1.txt, notes2.txt and 2 more")


def test_queries_are_checked_before_anything_is_sent(
    nearby: Nearby, private: Files, tmp_path: Path
) -> None:
    """However late in the files the first bad one is."""

    def late(name: str, value: float) -> Path:
        x = np.zeros((4100, 2, 2), np.float32)
        x[4099, 1, 1] = value
        np.save(tmp_path / name, x)
        return tmp_path / name

    for name, value, words in (
        ("nan.npy", np.nan, ("nan.npy", "NaN", "query 4099")),
        ("infinite.npy", np.inf, ("infinite.npy", "query 4099")),
        ("range.npy", 1.5, ("1.5", "0 to 1")),
    ):
        refused("query", URL, private.queries, late(name, value), naming=words)
    assert nearby.posts == []


def test_a_picture_damaged_in_the_middle(nearby: Nearby, private: Files, tmp_path: Path) -> None:
    """Its header is sound, so that only reading all of it finds out."""
    noisy = np.random.default_rng(0).integers(0, 256, (2, 2), dtype=np.uint8)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(noisy).save(tmp_path / name)
    whole = (tmp_path / "b.png").read_bytes()
    start = whole.index(b"IDAT") + 4
    damaged = tmp_path / "b.png"
    damaged.write_bytes(whole[: start + 3] + bytes([whole[start + 3] ^ 255]) + whole[start + 4 :])
    for batch in ((), ("--batch", "1")):
        refused("query", URL, tmp_path, *batch, naming=(str(damaged),))
    damaged.write_bytes(whole[: start + 3])
    refused("query", URL, tmp_path, naming=(str(damaged),))
    assert nearby.posts == []
