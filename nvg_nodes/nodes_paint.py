"""The painter's Python side: what was painted in the browser, as a structure.

The widget's value is text, kept in the workflow: a picture as a data URL ("data:image/png;base64,..."), which is one
mask, or JSON {"version": 1, "masks": [data URL or null, ...]} with a mask for every split; null repeats the one before.
What is painted is what is opaque; in a picture without transparency, what is bright.
"""

from __future__ import annotations

import base64
import binascii
import io as streams
import json

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nvg_model import NVGError
from nvg_model.errors import shortened
from nvg_nodes import images, layout
from nvg_nodes.api import io, schema, words
from nvg_nodes.sockets import STRUCTURE, before_input, model_input, stages_input, structure_outputs
from nvg_nodes.types import Model, Structure

VERSION = 1
_KINDS = {f"image/{kind}" for kind in ("png", "jpeg", "jpg", "webp", "gif", "bmp", "tiff", "avif")}
"""What a painting may be: pictures of pixels. (An SVG is a drawing in words, which Pillow cannot read.)"""
_LARGEST = 4096
"""Pixels that a painting may have along a side."""


class NVGPaintStructure(io.ComfyNode):
    """Painting -> structure."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGPaintStructure",
            display_name="NVG Paint Structure",
            category=STRUCTURE,
            description="Paint the first structure maps in the node. Every region must have exactly half the positions "
            "of its parent, so a painted area is grown or shrunk along lines of equal distance to its outline.",
            search_aliases=words(
                "nvg, draw, painter, sketch, layout, mask editor, outline, silhouette, composition, control, edit, "
                "regional"
            ),
            inputs=[
                model_input(),
                io.String.Input(
                    "painting",
                    default="",
                    tooltip="What is painted, kept in the workflow: a picture as a data URL, or JSON with one per "
                    "split.",
                ),
                stages_input(0, "one for every painted map"),
                before_input(),
            ],
            outputs=[
                *structure_outputs(),
                io.Mask.Output(display_name="mask", tooltip="What was painted, one mask per split."),
            ],
        )

    @classmethod
    def execute(cls, model: Model, painting: str, stages: int, structure: Structure | None = None) -> io.NodeOutput:
        """Every map splits the regions of the one before."""
        masks = read_painting(painting)
        scores = [layout.mask_score(mask, model.config.grid, "stretch", layout.DISTANCE)[None] for mask in masks]
        result = layout.continued(model, structure, scores, stages)
        size = model.config.image_size
        shown = [layout.resize(mask[None, None], size, "stretch", "area")[0] for mask in masks]
        return io.NodeOutput(result, images.structure_sheet(result), torch.cat(shown))


def read_painting(text: str) -> list[Tensor]:
    """The masks [H,W] in [0,1] of a painting, one per split. Raises NVGError where there is none or it is damaged."""
    if not text.strip():
        raise NVGError("nothing is painted yet; draw an area in the node")
    if text.lstrip().startswith("<"):
        raise NVGError("the painting is SVG or other markup; save it as PNG, or clear it and paint again")
    urls: list[str | None] = [text.strip()]
    if not text.lstrip().startswith("data:"):
        urls = _urls(text)
    masks: list[Tensor] = []
    for url in urls:
        if url is None and not masks:
            raise NVGError("the first map is not painted; draw an area on it, or remove it")
        masks.append(_mask(url) if url is not None else masks[-1])
    return masks


def _urls(text: str) -> list[str | None]:
    """The pictures of a painting in JSON."""
    try:
        content = json.loads(text)
        version, urls = content["version"], content["masks"]
        if not isinstance(urls, list) or not urls or not all(url is None or isinstance(url, str) for url in urls):
            raise ValueError("masks must be a list of pictures")
    except (ValueError, KeyError, TypeError) as error:
        raise NVGError(f"the painting is neither a picture nor JSON with version and masks ({error})") from error
    if version != VERSION:
        raise NVGError(f"the painting has version {version}, and this nvg reads version {VERSION}; update nvg")
    return urls


def _mask(url: str) -> Tensor:
    """What is painted in a data URL."""
    head, _, data = url.partition(",")
    kind, *options = head.lower().removeprefix("data:").split(";")
    if not head.startswith("data:image/"):
        raise NVGError(
            f"the painting holds {shortened(head, 40)!r}, not a picture as a data URL; clear it and paint again"
        )
    if kind not in _KINDS:
        raise NVGError(
            f"the painting is a picture of the kind {shortened(kind.removeprefix('image/'), 20)}, which cannot be read "
            "here; save it as PNG, or clear it and paint again"
        )
    try:
        if options[-1:] != ["base64"]:
            raise ValueError("its data is not in base64")
        with Image.open(streams.BytesIO(base64.b64decode(data, validate=True))) as opened:
            if max(opened.size) > _LARGEST:
                raise NVGError(
                    f"the painting is {opened.width} x {opened.height} pixels, and at most {_LARGEST} a side are read; "
                    "make it smaller"
                )
            picture = opened.convert("RGBA")
    except NVGError:
        raise
    except Image.DecompressionBombError as error:
        raise NVGError(
            f"the painting is too large; at most {_LARGEST} pixels a side are read: make it smaller"
        ) from error
    except (ValueError, binascii.Error, UnidentifiedImageError, OSError, SyntaxError) as error:
        raise NVGError(f"the painting is damaged ({_reason(error)}); clear it and paint again") from error
    alpha = np.array(picture.getchannel("A"))
    painted = alpha if alpha.min() < 255 else np.array(picture.convert("L"))
    return torch.from_numpy(painted).float() / 255


def _reason(error: Exception) -> str:
    """Why a picture could not be read; Pillow names an object in memory where it knows no format."""
    return "no picture that can be read" if isinstance(error, UnidentifiedImageError) else shortened(str(error))
