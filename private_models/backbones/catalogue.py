"""Backbones by name, so that a client finds the one that a head was trained on.

    efficientnet-lite0, 128 px       pictures
    all-MiniLM-L6-v2, 256 tokens     texts
    orientations, 28 x 28            digits
    pixels, 28 x 28                  digits

The first two need packages of their own, and are loaded when they are asked for.
"""

import re
from collections.abc import Callable
from typing import Literal

from private_models.backbones import NAMES
from private_models.backbones.extraction import Backbone
from private_models.backbones.orientations import orientations
from private_models.backbones.pixels import pixels
from private_models.errors import BackboneError, OptionError

Kind = Literal["picture", "text", "digit", "vector"]
"""What goes in: a PIL image, a str, a grey picture, or an array for a module of one's own."""


def efficientnet(side: int = 128) -> Backbone:
    """Raises `BackboneError` where its packages are not installed, `InputError` for a size."""
    try:
        from private_models.backbones.efficientnet import efficientnet_lite0
    except ModuleNotFoundError as error:
        raise _missing("efficientnet-lite0", error, "backbones") from None
    return efficientnet_lite0(side)


def minilm(tokens: int = 256) -> Backbone:
    """Raises `BackboneError` where its packages are not installed, `InputError` for a length."""
    try:
        from private_models.backbones.minilm import minilm as made
    except ModuleNotFoundError as error:
        raise _missing("all-MiniLM-L6-v2", error, "text") from None
    return made(tokens)


_KNOWN: tuple[tuple[str, Kind, Callable[..., Backbone]], ...] = (
    (r"efficientnet-lite0, (\d{1,4}) px", "picture", efficientnet),
    (r"all-MiniLM-L6-v2, (\d{1,4}) tokens", "text", minilm),
    (r"orientations, (\d{1,4}) x (\d{1,4})", "digit", orientations),
    (r"pixels, (\d{1,4}) x (\d{1,4})", "digit", pixels),
)


def kind_of(name: str) -> Kind:
    """`"vector"` for a backbone that is not in the catalogue."""
    return next((kind for form, kind, _ in _KNOWN if re.fullmatch(form, name)), "vector")


def usual_norm(name: str) -> float:
    """L2 norm of the features of a usual input: what rows are clipped to where nothing is known.

    Public knowledge: measured on public pictures and digits, and 1 for texts by construction.
    """
    norms = {"efficientnet-lite0": 31.0, "orientations": 4.7, "pixels": 9.2}
    return norms.get(name.split(",")[0], 1.0)


def named(name: str) -> Backbone:
    """The backbone of that full name. Raises `BackboneError` for one that is not here."""
    for form, _, make in _KNOWN:
        if found := re.fullmatch(form, name):
            return make(*map(int, found.groups()))
    raise BackboneError(f"backbone {name!r:.100} is not in the catalogue: pass it as backbone=")


def short_named(name: str, side: int | None = None, tokens: int = 256) -> Backbone:
    """One of NAMES with its size. Raises `OptionError` for another.

    side: of pictures: what EfficientNet resizes them to, 128 unless it is said, and what those of
        the backbone "pixels" have, 28.
    """
    if name not in NAMES:
        raise OptionError(f"backbone {name!r}: expected one of {', '.join(NAMES)}")
    makers: dict[str, Callable[[], Backbone]] = {
        "efficientnet-lite0": lambda: efficientnet(128 if side is None else side),
        "minilm": lambda: minilm(tokens),
        "orientations": orientations,
        "pixels": lambda: pixels() if side is None else pixels(side, side),
    }
    return makers[name]()


def _missing(name: str, error: ModuleNotFoundError, extra: str) -> BackboneError:
    return BackboneError(
        f"backbone {name} needs {error.name}: pip install 'sottovoce[heads,{extra}]'"
    )
