"""Nodes that edit: regions with classes of their own, and pictures with a part redrawn.

Shapes: IMAGE [B,H,W,C] and MASK [B,H,W] in [0,1].
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model import NVGError, Region, editing
from nvg_model.tokenizer import from_white
from nvg_nodes import images, layout
from nvg_nodes.api import advanced, io, schema, words
from nvg_nodes.nodes_generate import batch_of_classes, draw, one_class
from nvg_nodes.nodes_tokenize import tokenize
from nvg_nodes.sockets import (
    MAIN,
    NVGRegions,
    NVGSequence,
    NVGStructure,
    Options,
    class_input,
    first_item_input,
    fit_input,
    model_input,
    optional_whole,
    partner_inputs,
    regions_input,
    request_inputs,
    seamless_input,
    settings_input,
    variation_inputs,
)
from nvg_nodes.types import Model, Regions

AS_SETTINGS = -1.0
"""The guidance that means that of the settings."""


class NVGRegion(io.ComfyNode):
    """Mask and class -> regions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGRegion",
            display_name="NVG Region",
            category=MAIN,
            description="Gives a part of the picture a class of its own. Chain several through regions, and connect "
            "the last one to NVG Generate or NVG Inpaint, whose class_name is drawn everywhere else.",
            search_aliases=words(
                "nvg, regional, regional prompt, area, mask, conditioning set mask, attention couple, latent couple, "
                "composition, layout, control, edit"
            ),
            inputs=[
                model_input(),
                io.Mask.Input(
                    "mask",
                    tooltip="Where the class is drawn. Soft values mix it with what is below. A batch has one mask for "
                    "every picture.",
                ),
                class_input("What to draw there: the name of one class of the model, or its number."),
                io.Float.Input(
                    "guidance",
                    default=AS_SETTINGS,
                    min=AS_SETTINGS,
                    max=100.0,
                    step=0.05,
                    tooltip="How strongly the content there follows the class, at every stage. -1: as everywhere.",
                ),
                fit_input("a mask"),
                NVGRegions.Input(
                    "regions", optional=True, tooltip="Regions before this one. Their masks must not overlap with it."
                ),
            ],
            outputs=[NVGRegions.Output(display_name="regions", tooltip="Those before, and this one.")],
        )

    @classmethod
    def execute(
        cls, model: Model, mask: Tensor, class_name: str, guidance: float, fit: str, regions: Regions | None = None
    ) -> io.NodeOutput:
        """One more region."""
        framed = layout.framed(images.checked_mask(mask)[:, None], model.config.image_size, fit)[:, 0]
        own = None if guidance == AS_SETTINGS else guidance
        region = Region(framed, one_class(model, class_name), own)
        return io.NodeOutput(Regions((*(regions or Regions()).items, region)))


class NVGInpaint(io.ComfyNode):
    """Picture, mask and class -> the picture with that part redrawn."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGInpaint",
            display_name="NVG Inpaint",
            category=MAIN,
            description="Draws a part of a picture anew, or what is beyond its edges. All pixels outside the mask come "
            "back as they were.",
            search_aliases=words(
                "nvg, inpaint, outpaint, outpainting, fill, erase, replace, mask, img2img, edit, reference, vae encode "
                "for inpainting, set latent noise mask, extend, uncrop"
            ),
            inputs=[
                *request_inputs(),
                *_picture_inputs(),
                *_place_inputs(),
                _keep_input(
                    "keep_structure", "Keep the structure of so many stages inside the mask too, so that outlines stay."
                ),
                NVGStructure.Input(
                    "structure", optional=True, tooltip="A layout for the new part; what is kept stays as it is."
                ),
                regions_input(),
                settings_input(),
                first_item_input(),
                *variation_inputs(),
                *partner_inputs(),
                _keep_input("keep_content", "Keep the content of so many stages inside the mask too: its colours."),
                seamless_input("Let what is drawn go on at the opposite edges, for pictures that tile."),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The pictures, in the size that came in."),
                io.Mask.Output(display_name="mask", tooltip="What was drawn anew, 1 where it was."),
                NVGSequence.Output(display_name="sequence", tooltip="All stages of the whole pictures."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        class_name: str,
        seed: int,
        batch_size: int,
        image: Tensor,
        mask: Tensor | None = None,
        scale: float = 1.0,
        right: int = 0,
        down: int = 0,
        **given: Any,
    ) -> io.NodeOutput:
        """Draws what is masked or uncovered, and lays it into the picture."""
        options = Options(**given)
        placed, free = _placed(images.checked_image(image), mask, scale, right, down)
        old, free, classes = _batch(placed, free, batch_of_classes(model, class_name, 1, Options()), batch_size)
        size = model.config.image_size
        whole = layout.framed(old.movedim(-1, 1), size, "pad", None)
        kept = tokenize(model, images.to_model(whole.movedim(1, -1), size, "stretch"))
        keep = (layout.framed(free[:, None], size, "pad")[:, 0] == 0).float()
        sequence, pictures, opacity = draw(model, classes, seed, options, sequence=kept, keep=keep)
        new = _of_size(torch.cat([pictures, opacity[:, None] * 2 - 1], 1), whole, old)
        return io.NodeOutput(editing.paste(new, old.movedim(-1, 1), free).movedim(1, -1), free, sequence)


def _picture_inputs() -> list[io.Input]:
    """What is there, and what of it may change."""
    return [
        io.Image.Input(
            "image", tooltip="One or more pictures of any size with 1, 3 or 4 channels. They keep their size."
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="What is drawn anew: all that is above 0. Values below 1 blend with the old picture. A batch makes "
            "a batch.",
        ),
    ]


def _place_inputs() -> list[io.Input]:
    """Where the picture lies on its canvas: what it leaves free is drawn."""

    def pixels(name: str, tooltip: str) -> io.Input:
        return io.Int.Input(name, optional=True, default=0, min=-16384, max=16384, tooltip=tooltip)

    return [
        io.Float.Input(
            "scale",
            optional=True,
            default=1.0,
            min=0.05,
            max=8.0,
            step=0.05,
            tooltip="For outpainting: shows the picture so much smaller, and draws what is left free around it.",
        ),
        pixels("right", "For outpainting: moves the picture so many pixels to the right, and draws what is left free."),
        pixels("down", "For outpainting: moves the picture so many pixels down, and draws what is left free."),
    ]


def _keep_input(name: str, what: str) -> io.Input:
    return advanced(optional_whole(name, 32, f"{what} 0 keeps none."))


def _placed(image: Tensor, mask: Tensor | None, scale: float, right: int, down: int) -> tuple[Tensor, Tensor]:
    """Pictures [B,H,W,C] at their place on the canvas, and the MASK of what is drawn. Raises NVGError without any."""
    size = image.shape[1:3]
    free = torch.zeros(1, *size) if mask is None else images.checked_mask(mask)
    if free.shape[1:] != size:
        free = F.interpolate(free[:, None], size=size, mode="nearest-exact")[:, 0]
    if (scale, right, down) != (1, 0, 0):
        image, uncovered = editing.place(image.movedim(-1, 1), scale, right, down)
        image = image.movedim(1, -1).clamp(0, 1)
        moved = editing.place(free[:, None], scale, right, down)[0][:, 0]
        moved = torch.where(moved < 1 / 255, 0, moved)  # what the filter left of nothing
        free = torch.maximum(moved, uncovered[:1])
    if not bool((free > 0).flatten(1).any(1).all()):
        raise NVGError(
            "nothing is to be drawn: paint a mask (1 is drawn anew), or make room with scale below 1, right or down"
        )
    return image, free


def _batch(image: Tensor, mask: Tensor, classes: Tensor, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, masks and classes, one each for everything that is drawn. Raises NVGError where they do not fit."""
    numbers = len(image), len(mask), len(classes)
    items = max(numbers)
    if not {*numbers} <= {1, items}:
        raise NVGError(
            f"there are {numbers[0]} pictures, {numbers[1]} masks and {numbers[2]} classes; give one of each, or "
            "equally many"
        )
    image, mask, classes = (
        one.expand(items, *one.shape[1:]).repeat_interleave(batch_size, 0) for one in (image, mask, classes)
    )
    return image, mask, classes


def _of_size(drawn: Tensor, whole: Tensor, old: Tensor) -> Tensor:
    """What the model drew [B,4,h,w] as IMAGE values [B,C,H,W] like `old` [B,H,W,C], the middle of `whole` [B,C,..]."""
    new = from_white(drawn) if old.shape[-1] == 4 else drawn[:, :3]
    if new.shape[-2:] != whole.shape[-2:]:
        new = F.interpolate(new, whole.shape[-2:], mode="bicubic", antialias=True).clamp(-1, 1)
    return images.from_model(layout.middle(new, old.shape[1:3])).movedim(-1, 1)
