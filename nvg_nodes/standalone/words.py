"""Words in file names that the front end fills in: `%date:yyyy-MM-dd%` and `%Node.widget%`.

Those of the host (`%year%`, `%width%` and so on) are left for the node that saves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

_WORD = re.compile(r"%([^%]+)%")
_DATE = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyy?y?")
_UNFIT = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
"""Characters of a widget's value that no file name may have."""


class Named(NamedTuple):
    """A node as words see it."""

    id: str
    name: Any
    """Its "Node name for S&R", which is looked for first."""
    title: Any
    values: Mapping[str, Any]
    """Of its widgets."""


def filled(text: str, nodes: Sequence[Named], now: datetime | None = None) -> str:
    """The text with its words replaced; a word that means nothing stays as it is."""

    def replacement(found: re.Match[str]) -> str:
        parts = found[1].split(".")
        if len(parts) != 2:
            return date(parts[0][5:], now or datetime.now()) if parts[0].startswith("date:") else found[0]
        name, widget = parts
        matching = [node for node in nodes if node.name == name] or [node for node in nodes if node.title == name]
        if not matching or widget not in matching[0].values:
            return found[0]
        return _UNFIT.sub("_", _as_text(matching[0].values[widget]))

    return _WORD.sub(replacement, text)


def date(pattern: str, now: datetime) -> str:
    """The time in the front end's notation: d, M, h (0 to 23), m, s and yy or yyyy; doubled letters have two digits."""
    numbers = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(found: re.Match[str]) -> str:
        letters = found[0]
        if letters[0] == "y":
            return {"yy": f"{now.year % 100:02}", "yyyy": str(now.year)}.get(letters, letters)
        return str(numbers[letters[0]]).zfill(len(letters))

    return _DATE.sub(part, pattern)


def _as_text(value: Any) -> str:
    """A value as JavaScript writes it: whole numbers without a point."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)
