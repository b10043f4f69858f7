"""The small picture beside a workflow file: what its nodes showed, on one sheet.

Shapes: IMAGE [B,H,W,C] in [0,1].
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageOps
from torch import Tensor

from nvg_nodes import images
from nvg_nodes.standalone.graph import Workflow

SIDE = 384
"""Pixels along each side."""
MOST_BYTES = 40_000
_GAP = 6
_FRAMES = 8
"""Frames of an animation that are shown."""
_QUALITIES = range(92, 20, -6)
"""Of the JPEG, tried from the best on until the file is small enough."""


def make(workflow: Workflow, shown: Mapping[str, Tensor]) -> bytes:
    """A JPEG of at most MOST_BYTES: every picture that was saved, some frames of animations, the last of every preview.

    Args:
        shown: IMAGE by the id of the node that showed it, as in `Runner.shown`.
    """
    tiles: list[Image.Image] = []
    for id, pictures in shown.items():
        kind = workflow.prompt[id]["class_type"]
        if kind == "SaveAnimatedWEBP":
            pictures = pictures[:: math.ceil(len(pictures) / _FRAMES)]
        elif kind != "SaveImage":
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
    """The best JPEG that is small enough; the smallest where none is."""
    for quality in _QUALITIES:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= MOST_BYTES:
            break
    return file.getvalue()
