"""Settings of the structure flow that can differ from stage to stage: which values they take, and how they are written.

Torch is not imported, so that the command line can read a schedule at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nvg_model.errors import NVGError
from nvg_model.solvers import SOLVERS


@dataclass(frozen=True)
class _Kind:
    """What values a setting takes."""

    fits: Callable[[Any], bool]
    wanted: str
    read: Callable[[str], Any]
    """From a word; ValueError or KeyError for another."""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_SWITCH = {"on": True, "true": True, "off": False, "false": False}
_AT_LEAST_1 = _Kind(_whole, "a whole number of at least 1", int)
_KINDS = {
    "structure_steps": _AT_LEAST_1,
    "solver": _Kind(lambda value: value in SOLVERS, f"one of {', '.join(SOLVERS)}", str),
    "reuse": _Kind(lambda value: isinstance(value, bool), "true or false", lambda word: _SWITCH[word.lower()]),
    "guidance_every": _AT_LEAST_1,
    "time_shift": _Kind(
        lambda value: value is None or (isinstance(value, int | float) and abs(value) <= 10),
        "a number from -10 to 10, or none for the paper's",
        lambda word: None if word.lower() == "none" else _finite(word),
    ),
}
BY_STAGE = tuple(_KINDS)
"""The settings that can differ from stage to stage."""


def _finite(word: str) -> float:
    if not math.isfinite(number := float(word)):
        raise ValueError(word)
    return number


def checked(name: str, value: Any) -> Any:
    """The value of a setting, lists as tuples. Raises NVGError."""
    kind = _KINDS[name]
    if not isinstance(value, list | tuple):
        if not kind.fits(value):
            raise NVGError(f"{name} is {value!r}; it must be {kind.wanted}")
        return value
    if not value or not all(map(kind.fits, value)):
        raise NVGError(f"{name} is {tuple(value)!r}; give one value, or one for each stage, each {kind.wanted}")
    return tuple(value)


def read(name: str, text: str) -> Any:
    """The value of a setting from its text: one word, or one for each stage with commas or spaces between.

    Raises:
        NVGError: another text.
    """
    words = re.split(r"[,\s]+", text.strip(" ,\t\n"))
    try:
        values = [_KINDS[name].read(word) for word in words]
    except (ValueError, KeyError):
        raise NVGError(
            f"{name} is {text!r}; give one value, or one for each stage with commas between, each {_KINDS[name].wanted}"
        ) from None
    return checked(name, values[0] if len(values) == 1 else values)


def read_all(text: str) -> dict[str, Any]:
    """Several settings from a text such as "structure_steps 4 4 2 2 1; guidance_every 2".

    Raises:
        NVGError: a setting that cannot differ from stage to stage, one named twice, or a value that it does not take.
    """
    found: dict[str, Any] = {}
    for part in filter(None, map(str.strip, re.split(r"[;\n]", text))):
        name, *rest = re.split(r"[\s:=]+", part, maxsplit=1)
        if name not in _KINDS:
            raise NVGError(f"the schedule sets {name!r}; it can set {', '.join(BY_STAGE)}")
        if name in found:
            raise NVGError(f"the schedule sets {name} twice; leave one of them out")
        found[name] = read(name, rest[0] if rest else "")
    return found


def shown(value: Any) -> str:
    """A value as `read` reads it."""
    if isinstance(value, tuple):
        return " ".join(map(shown, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
