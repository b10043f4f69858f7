"""Bytes -> the workflow in them: JSON in any Unicode encoding, or a picture that carries its workflow."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from nvg_model import NVGError, foreign, pictures
from nvg_nodes.standalone.inputs import WorkflowError

_PICTURES = (b"\x89PNG", b"RIFF", b"\xff\xd8\xff", b"GIF8")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, UTF-32 before UTF-16, which begins alike."""
_EXIF = (0x010F, 0x0110)
"""Fields where the host keeps "workflow:{...}" and "prompt:{...}" in a WebP."""


def content(path: Path) -> Any:
    """What a workflow file holds: the JSON of the front end's graph, or of an API prompt. Raises WorkflowError."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise WorkflowError(f"{path} cannot be read ({reason})") from error
    if data.startswith(_PICTURES):
        return _carried(path)
    other = foreign.kind(data[: foreign.HEAD])
    if other:
        raise WorkflowError(f"{path} is no workflow: it is {other}")
    return _parsed(_text(data, path), str(path))


def _text(data: bytes, path: Path) -> str:
    """The text of a file. Without a byte order mark it is UTF-8, or UTF-16 where every other byte is zero."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and data[:2].count(0) == 1:
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    try:
        return data.decode(encoding)
    except ValueError as error:
        raise WorkflowError(f"{path} is not text in UTF-8 ({error}); save it as UTF-8") from error


def _parsed(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise WorkflowError(f"{source} is not JSON ({error})") from error
    except RecursionError as error:
        raise WorkflowError(f"{source} is nested too deeply to be a workflow") from error


def _carried(path: Path) -> Any:
    """The workflow in a picture's text fields: the front end's graph, else the prompt."""
    try:
        with pictures.opened(path, str(path)) as picture:
            fields = dict(picture.info)
            for tag in _EXIF:
                name, colon, text = str(picture.getexif().get(tag, "")).partition(":")
                if colon:
                    fields.setdefault(name.lower(), text)
    except NVGError as error:
        raise WorkflowError(str(error)) from error
    for name in ("workflow", "prompt"):
        if isinstance(fields.get(name), str):
            return _parsed(fields[name], f"the {name} in {path}")
    raise WorkflowError(
        f"{path} is a picture without a workflow: the host's and nvg-run's own pictures carry one, unless a program "
        "that edited them has dropped it"
    )
