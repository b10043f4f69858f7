"""The V3 node API: the host's where there is a host, else our own small equal.

    from nvg_nodes.api import io, ui, schema, advanced, once_absent

`HOSTED` says which of the two it is.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import TYPE_CHECKING, Any, TypeVar

HOSTED = importlib.util.find_spec("comfy_api") is not None
"""Whether ComfyUI is around. Its node API is a package that no index carries, so nothing else has that name."""

if TYPE_CHECKING or not HOSTED:
    from nvg_nodes.standalone import schema as io
    from nvg_nodes.standalone import schema as ui
    from nvg_nodes.standalone.schema import ComfyExtension
else:
    from comfy_api.latest import ComfyExtension, io, ui

_Input = TypeVar("_Input", bound="io.Input")

__all__ = ["HOSTED", "ComfyExtension", "advanced", "io", "once_absent", "schema", "ui", "words"]


def schema(**words: Any) -> io.Schema:
    """An `io.Schema` of the keywords that this host knows; older hosts refuse others."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{word: value for word, value in words.items() if word in known})


def advanced(input: _Input) -> _Input:
    """The same input, shown among the advanced inputs only, where the host has these.

    Set as an extra entry of the catalogue, because hosts before 0.15 have no keyword for it.
    """
    input.extra_dict = {**input.extra_dict, "advanced": True}
    return input


def once_absent(input: _Input, value: Any) -> _Input:
    """The same input, appended later with another default: without it, prompts and workflows mean this value.

    An extra entry of the catalogue, which the front-end extension reads where an older workflow is opened.
    """
    input.extra_dict = {**input.extra_dict, "absent": value}
    return input


def words(text: str) -> list[str]:
    """What users may type to find a node: words and phrases, separated by commas."""
    return text.split(", ")
