"""Nodes that make a structure: of drawn areas, of label pictures, of shapes.

All of them only rank the positions; `ranking` makes balanced halves of it. Shapes: B batch, L = h*w positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nvg_model import NVGError, areas
from nvg_nodes import images, layout
from nvg_nodes.api import io, schema, words
from nvg_nodes.sockets import (
    STRUCTURE,
    area_input,
    before_input,
    fit_input,
    model_input,
    stages_input,
    structure_output,
    structure_outputs,
)
from nvg_nodes.types import Model, Structure

PER_STAGE, PER_PICTURE = "one per stage", "one per picture"


class NVGStructureFromMask(io.ComfyNode):
    """Drawn areas -> structure."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGStructureFromMask",
            display_name="NVG Structure from Mask",
            category=STRUCTURE,
            description="Makes a structure of drawn areas. Every region must have exactly half the positions of its "
            "parent, so the splits follow lines of equal distance to the outline until the area is whole regions, of "
            "about its own size: the drawn shape stays recognisable.",
            search_aliases=words(
                "nvg, mask to structure, draw, regional, layout, outline, silhouette, composition, control, inpaint"
            ),
            inputs=[
                model_input(),
                io.Mask.Input("mask", tooltip="One drawn area, or several."),
                stages_input(0, "as many as the area needs; with half, or with several masks of a picture, one each"),
                io.Combo.Input(
                    "rule",
                    options=[layout.DISTANCE, layout.VALUE],
                    default=layout.DISTANCE,
                    tooltip="What ranks the positions of a region: the distance to the outline of the area (inside "
                    "first; its contours keep the drawn shape), or the mask's own value (for soft masks).",
                ),
                io.Combo.Input(
                    "masks",
                    options=[PER_STAGE, PER_PICTURE],
                    default=PER_STAGE,
                    tooltip="What a batch of masks means: one after the other splits the regions further (the last "
                    "one goes on), or each is for a picture of its own.",
                ),
                fit_input("a mask"),
                before_input(),
                area_input("It counts where stages is 0, and of several masks of one picture each makes one split."),
            ],
            outputs=structure_outputs(),
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        mask: Tensor,
        stages: int,
        rule: str,
        masks: str,
        fit: str,
        structure: Structure | None = None,
        area: str = areas.HALF,
    ) -> io.NodeOutput:
        """Ranks the positions of every region by the areas, and halves it."""
        drawn = images.checked_mask(mask)
        scores = [layout.mask_score(one, model.config.grid, fit, rule)[None] for one in drawn]
        if masks == PER_PICTURE:
            scores = [torch.cat(scores)]
        if area == areas.NESTED and len(scores) == 1:
            stages = stages or layout.stages_of_areas(model, structure, drawn, fit)
        return structure_output(layout.continued(model, structure, scores, stages))


class NVGStructureFromImage(io.ComfyNode):
    """Label picture -> structure."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGStructureFromImage",
            display_name="NVG Structure from Label Image",
            category=STRUCTURE,
            description="Makes a structure of a picture whose colours are labels (a segmentation, a palette picture, "
            "a map painted elsewhere). Labels that come after each other in the order share regions; one that has to "
            "be cut is cut along its neighbours.",
            search_aliases=words(
                "nvg, segmentation, palette, label map, image to structure, regional, composition, layout, control"
            ),
            inputs=[
                model_input(),
                io.Image.Input("image", tooltip="Label or palette pictures; sampled without smoothing."),
                stages_input(0, "as many as tell all labels apart"),
                io.Combo.Input(
                    "order",
                    options=[layout.AUTO, layout.HUE, layout.BRIGHTNESS],
                    default=layout.AUTO,
                    tooltip="How the labels follow each other: by hue (as in the pictures of NVG Structure to Image), "
                    "by brightness, or auto (hue where there is any colour).",
                ),
                fit_input("a picture"),
                before_input(),
            ],
            outputs=structure_outputs(),
        )

    @classmethod
    def execute(
        cls, model: Model, image: Tensor, stages: int, order: str, fit: str, structure: Structure | None = None
    ) -> io.NodeOutput:
        """Ranks the positions of every region by their label, and halves it."""
        values = layout.label_values(images.checked_image(image), model.config.grid, order, fit)
        labels = max(len(one.unique()) for one in values)
        if labels == 1:
            raise NVGError("the picture has one colour only, which divides nothing; give one with several labels")
        splits = min(model.config.splits, math.ceil(math.log2(labels)))
        score = torch.stack([layout.label_order(one) for one in values])
        first = structure.stages if structure else 1
        return structure_output(
            layout.continued(model, structure, [score], stages or min(model.config.num_stages, first + splits))
        )


class NVGStructureShape(io.ComfyNode):
    """Numbers -> structure."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        def number(name: str, default: float, least: float, most: float, tooltip: str) -> io.Input:
            return io.Float.Input(name, default=default, min=least, max=most, step=0.01, tooltip=tooltip)

        return schema(
            node_id="NVGStructureShape",
            display_name="NVG Structure Shape",
            category=STRUCTURE,
            description="Makes a structure of a shape placed by numbers. Its area becomes exactly one half; more "
            "stages repeat it as rings or bands.",
            search_aliases=words("nvg, circle, rectangle, gradient, layout, composition, regional"),
            inputs=[
                model_input(),
                io.Combo.Input(
                    "shape",
                    options=[layout.CIRCLE, layout.RECTANGLE, layout.GRADIENT],
                    default=layout.CIRCLE,
                    tooltip="circle and rectangle: inside against outside. gradient: one side against the other.",
                ),
                number("x", 0.5, -1.0, 2.0, "Centre from left (0) to right (1)."),
                number("y", 0.5, -1.0, 2.0, "Centre from top (0) to bottom (1)."),
                number(
                    "width", 0.5, 0.01, 4.0, "Width, as a share of the picture's. Only its ratio to the height counts."
                ),
                number(
                    "height", 0.5, 0.01, 4.0, "Height, as a share of the picture's. Only its ratio to the width counts."
                ),
                io.Float.Input(
                    "angle",
                    default=0.0,
                    min=-360.0,
                    max=360.0,
                    step=1.0,
                    tooltip="Turns the shape clockwise, in degrees. A gradient rises to the right at 0.",
                ),
                stages_input(2, "all"),
                before_input(),
            ],
            outputs=structure_outputs(),
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        shape: str,
        x: float,
        y: float,
        width: float,
        height: float,
        angle: float,
        stages: int,
        structure: Structure | None = None,
    ) -> io.NodeOutput:
        """Ranks the positions of every region by the shape, and halves it."""
        score = layout.shape_score(shape, model.config.grid, model.config.image_size, (x, y), (width, height), angle)
        return structure_output(layout.continued(model, structure, [score[None]], stages or model.config.num_stages))
