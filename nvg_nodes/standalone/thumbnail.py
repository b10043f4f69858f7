"""The small picture beside a workflow file: what its nodes showed, on one sheet.

Shapes: IMAGE [B,H,W,C] in [0,1].
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageOps
from torch import Tensor

from nvg_nodes import images
from nvg_nodes.standalone.graph import Workflow

SIDE = 384
"""Pixels along each side."""
MOST_BYTES = 40_000
_GAP = 6
_FRAMES = 12
"""The most frames of an animation."""
_SECONDS = 2.75
"""How long it takes."""
_QUALITIES = range(92, 20, -6)
"""Of the file, tried from the best on until it is small enough."""


def make(workflow: Workflow, shown: Mapping[str, Tensor]) -> bytes:
    """A file of at most MOST_BYTES: every picture that was saved and the last of every preview, or an animation.

    Pictures make a JPEG, animations a WebP: ComfyUI asks for `.jpg` files only, but browsers look into a picture.

    Args:
        shown: IMAGE by the id of the node that showed it, as in `Runner.shown`.
    """
    tiles: list[Image.Image] = []
    for id, pictures in shown.items():
        kind = workflow.prompt[id]["class_type"]
        if kind == "SaveAnimatedWEBP":
            pictures = pictures[:: math.ceil(len(pictures) / _FRAMES)]
            return _webp([_sheet([frame]) for frame in images.to_pil(images.checked_image(pictures))])
        if kind != "SaveImage":
            pictures = pictures[-1:]
        tiles += images.to_pil(images.checked_image(pictures))
    return _jpeg(_sheet(tiles))


def _sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    """The pictures on a white square, row by row, each as large as there is room."""
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    side = (SIDE - (columns + 1) * _GAP) // columns
    step = side + _GAP
    left, top = (SIDE - columns * step + _GAP) // 2, (SIDE - rows * step + _GAP) // 2
    sheet = Image.new("RGB", (SIDE, SIDE), "white")
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        opaque = Image.alpha_composite(Image.new("RGBA", tile.size, "white"), tile.convert("RGBA")).convert("RGB")
        fitted = ImageOps.pad(opaque, (side, side), Image.Resampling.LANCZOS, "white")
        sheet.paste(fitted, (left + column * step, top + row * step))
    return sheet


def _jpeg(picture: Image.Image) -> bytes:
    return _smallest(picture, "JPEG", optimize=True)


def _webp(frames: Sequence[Image.Image]) -> bytes:
    """Every frame, or every second, fourth ... where they make too large a file."""
    duration = round(1000 * _SECONDS / len(frames))
    file = _smallest(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=duration, loop=0)
    return file if len(file) <= MOST_BYTES or len(frames) < 3 else _webp(frames[::2])


def _smallest(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The best file that is small enough; the smallest where none is."""
    for quality in _QUALITIES:
        file = io.BytesIO()
        picture.save(file, kind, quality=quality, **options)
        if file.tell() <= MOST_BYTES:
            break
    return file.getvalue()
