"""Nodes that finish pictures: cut-outs without their ground, and labelled sheets that compare.

Shapes: IMAGE [B,H,W,C] and MASK [B,H,W] in [0,1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from nvg_model import NVGError, VisualGranularitySequence, sheets
from nvg_nodes import host, images, layout
from nvg_nodes.api import io, schema, words
from nvg_nodes.sockets import MAIN, NVGSequence, model_input, opacity_output, seamless_input
from nvg_nodes.types import Model, check_sequence


class NVGCutOut(io.ComfyNode):
    """Pictures or sequences -> pictures whose ground is transparent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGCutOut",
            display_name="NVG Cut Out",
            category=MAIN,
            description="Makes the ground of pictures transparent. The model's own opacity is used where it has any; "
            "otherwise the first split tells subject from ground, and the outline is brought to the picture's edges.",
            search_aliases=words(
                "nvg, cutout, remove background, rembg, matting, segmentation, alpha, transparent, transparency, rgba, "
                "mask, sticker"
            ),
            inputs=[
                model_input(),
                io.Image.Input(
                    "image", optional=True, tooltip="Pictures of any size, with one subject on a plain ground."
                ),
                NVGSequence.Input(
                    "sequence",
                    optional=True,
                    tooltip="Instead of pictures, or with them: from NVG Generate, NVG Inpaint or NVG Interpolate.",
                ),
                seamless_input("For sequences that were drawn seamless: the pictures go on at their opposite edges."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The pictures with 4 channels; Save Image keeps the transparency."
                ),
                opacity_output(),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        image: Tensor | None = None,
        sequence: VisualGranularitySequence | None = None,
        seamless: bool = False,
    ) -> io.NodeOutput:
        """A few pictures at a time."""
        if sequence is not None:
            check_sequence(model, sequence)
        if image is None and sequence is None:
            raise NVGError("there is nothing to cut out; connect image, or sequence")
        pictures = None if image is None else images.checked_image(image).movedim(-1, 1)
        numbers = [len(one) for one in (pictures, sequence) if one is not None]
        if len(set(numbers)) > 1:
            raise NVGError("image has {} pictures and sequence {}; connect one of them".format(*numbers))
        whole = None if pictures is None else layout.framed(pictures, model.config.image_size, "pad", None)
        made = _cut_out(model, whole, sequence, numbers[0], seamless)
        if pictures is not None:
            made = layout.middle(made, pictures.shape[2:])
        made = made.movedim(1, -1)
        return io.NodeOutput(made, made[..., 3])


def _cut_out(
    model: Model, pictures: Tensor | None, sequence: VisualGranularitySequence | None, items: int, seamless: bool
) -> Tensor:
    """IMAGE values [B,4,H,W], of a sequence or of pictures [B,C,H,W]."""
    nvg = model.ready(min(items, images.AT_ONCE))
    starts = range(0, items, images.AT_ONCE)
    bar, made = host.current().progress(len(starts)), []
    for start in starts:
        bar()
        some = slice(start, start + images.AT_ONCE)
        given = None if sequence is None else sequence.items(some)
        shown = None if pictures is None else pictures[some] * 2 - 1
        made.append(images.from_model(nvg.cut_out(given, shown, seamless)))
    return torch.cat(made).movedim(-1, 1)


class NVGGrid(io.ComfyNode):
    """Batch -> a sheet with texts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGGrid",
            display_name="NVG Grid",
            category=MAIN,
            description="Puts a batch on one sheet, with a text above every column and before every row; or pictures "
            "before and after, side by side.",
            search_aliases=words(
                "nvg, contact sheet, xy plot, x/y plot, xyz, plot, labels, captions, compare, before after, image "
                "grid, montage, collage"
            ),
            inputs=[
                io.Image.Input("image", tooltip="The pictures, row by row. With after connected: those before."),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="How many pictures stand in a row. 0: as many as there are column texts, as fill the row "
                    "texts, or about a square.",
                ),
                _texts_input("column_texts", "What stands above the columns"),
                _texts_input("row_texts", "What stands before the rows"),
                io.Image.Input(
                    "after",
                    optional=True,
                    tooltip="What became of the pictures: each pair makes a row. One picture before serves all after.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The sheet.")],
        )

    @classmethod
    def execute(
        cls, image: Tensor, columns: int, column_texts: str, row_texts: str, after: Tensor | None = None
    ) -> io.NodeOutput:
        """One sheet of all."""
        tiles = images.to_pil(images.checked_image(image))
        above, before = _lines(column_texts), _lines(row_texts)
        if after is not None:
            if len(tiles) not in (1, len(after)):
                raise NVGError(
                    f"image has {len(tiles)} pictures and after {len(after)}; give equally many, or one before"
                )
            tiles = sheets.paired(tiles, images.to_pil(images.checked_image(after)))
            columns, above = 2, above or ["before", "after"]
        columns = columns or len(above) or math.ceil(len(tiles) / len(before) if before else math.sqrt(len(tiles)))
        rows = math.ceil(len(tiles) / columns)
        blank = Image.new("RGB", tiles[0].size, "white")
        tiles += [blank] * (rows * columns - len(tiles))
        above, before = _filled(above, columns, "columns"), _filled(before, rows, "rows")
        return io.NodeOutput(images.from_pil([sheets.labelled(tiles, above, before)]))


def _texts_input(name: str, what: str) -> io.Input:
    return io.String.Input(
        name, default="", multiline=True, tooltip=f"{what}: a line each, or one line with commas. Empty: nothing."
    )


def _lines(text: str) -> list[str]:
    """Texts of several lines, or of one line with commas."""
    lines = text.strip().splitlines()
    return [part.strip() for part in (lines[0].split(",") if len(lines) == 1 else lines)]


def _filled(texts: Sequence[str], count: int, what: str) -> list[str]:
    """One text for each, none where there are none. Raises NVGError."""
    if texts and len(texts) != count:
        raise NVGError(f"there are {len(texts)} texts for {count} {what}; give one for each, or none")
    return list(texts) or [""] * count
