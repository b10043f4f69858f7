"""Nodes that make a structure: of drawn areas, of label pictures, of shapes.

All of them only rank the positions; `ranking` makes balanced halves of it. Shapes: B batch, L = h*w positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nvg_model import NVGError
from nvg_nodes import images, layout
from nvg_nodes.api import io, schema
from nvg_nodes.nodes_tokenize import fit_input, model_input
from nvg_nodes.types import Model, NVGStructure, Structure, structure_of

CATEGORY = "NVG/structure"
DISTANCE, VALUE = "outline distance", "mask value"
PER_STAGE, PER_PICTURE = "one per stage", "one per picture"
AUTO, HUE, BRIGHTNESS = "auto", "hue", "brightness"
CIRCLE, RECTANGLE, GRADIENT = "circle", "rectangle", "gradient"
_FINE = 128
"""Pixels along the longer side at which distances to an outline are measured."""


def stages_input(default: int, what: str) -> io.Input:
    """How many stages a tool makes."""
    return io.Int.Input(
        "stages",
        default=default,
        min=0,
        max=32,
        tooltip="How many stages the structure has, counting the first, which is one region: 2 is two regions, 3 is "
        f"four. The generator adds the rest. 0: {what}.",
    )


def before_input() -> io.Input:
    """A structure to go on from."""
    return NVGStructure.Input(
        "structure", optional=True, tooltip="Its stages come first, and what is given here splits its regions further."
    )


def structure_outputs() -> list[io.Output]:
    """A structure and the picture of it."""
    return [
        NVGStructure.Output(display_name="structure", tooltip="For NVG Generate, NVG Start and other structure tools."),
        io.Image.Output(display_name="preview", tooltip="A sheet per picture with the maps of its stages."),
    ]


def output(structure: Structure) -> io.NodeOutput:
    """What `structure_outputs` says."""
    return io.NodeOutput(structure, images.structure_sheet(structure))


def grown(model: Model, before: Structure | None, scores: list[Tensor], stages: int) -> Structure:
    """A structure that follows scores [B,L], one per split, after the stages of another one.

    Args:
        stages: of the result; 0: as many as there are scores.
    """
    labels = before.fitting(model) if before else torch.zeros(1, 1, model.config.positions, dtype=torch.long)
    stages = layout.checked_stages(stages or labels.shape[1] + len(scores), model.config.positions)
    if before is not None and stages < before.stages:
        raise NVGError(f"the structure to go on from has {before.stages} stages already, more than {stages}")
    batch = max(len(labels), *map(len, scores))
    if {len(labels), *map(len, scores)} - {1, batch}:
        raise NVGError(f"the structure to go on from has {len(labels)} items for {len(scores[0])} pictures")
    return structure_of(model, layout.grow(labels.expand(batch, -1, -1), scores, stages))


class NVGStructureFromMask(io.ComfyNode):
    """Drawn areas -> structure."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGStructureFromMask",
            display_name="NVG Structure from Mask",
            category=CATEGORY,
            description="Makes a structure of drawn areas. Every region must have exactly half the positions of its "
            "parent, so an area of any size is grown or shrunk along lines of equal distance to its outline until it "
            "fits: the drawn shape stays recognisable.",
            search_aliases=[
                "nvg",
                "mask to structure",
                "draw",
                "regional",
                "layout",
                "outline",
                "silhouette",
                "composition",
                "control",
                "inpaint",
            ],
            inputs=[
                model_input(),
                io.Mask.Input("mask", tooltip="One drawn area, or several."),
                stages_input(0, "one for every mask"),
                io.Combo.Input(
                    "rule",
                    options=[DISTANCE, VALUE],
                    default=DISTANCE,
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
    ) -> io.NodeOutput:
        """Ranks the positions of every region by the areas, and halves it."""
        scores = [mask_score(one, model.config.grid, fit, rule)[None] for one in images.checked_mask(mask)]
        if masks == PER_PICTURE:
            scores = [torch.cat(scores)]
        return output(grown(model, structure, scores, stages))


def mask_score(mask: Tensor, grid: tuple[int, int], fit: str, rule: str) -> Tensor:
    """Ranks positions by an area: float [L], inside first.

    By outline distance, a position counts by the mean signed distance of its pixels to the outline: halving a region
    by it grows or shrinks the area along its iso-distance contours, which keep the drawn shape.

    Args:
        mask: [H,W] in [0,1]; above one half is inside.
    Raises:
        NVGError: nothing or everything is inside, or (by value) all is equal.
    """
    unit = max(1, _FINE // max(grid))
    fine = images.resize(mask[None, None], (grid[0] * unit, grid[1] * unit), fit, "area")
    values = torch.nn.functional.avg_pool2d(fine, unit).flatten()
    inside = fine[0, 0] >= 0.5
    has_outline = bool(inside.any()) and not bool(inside.all())
    if rule == VALUE and float(values.max() - values.min()) < 1e-6:
        raise NVGError("the mask has the same value everywhere, which ranks nothing; draw an area or a gradient")
    if rule == DISTANCE and not has_outline:
        what = "covers everything" if bool(inside.any()) else "is empty"
        raise NVGError(f"the mask {what}, so it has no outline; draw an area that leaves some of the picture free")
    distance = torch.zeros_like(values)
    if has_outline:
        distance = torch.nn.functional.avg_pool2d(layout.signed_distance(inside)[None, None], unit).flatten()
    return layout.then(values, distance) if rule == VALUE else distance


class NVGStructureFromImage(io.ComfyNode):
    """Label picture -> structure."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGStructureFromImage",
            display_name="NVG Structure from Label Image",
            category=CATEGORY,
            description="Makes a structure of a picture whose colours are labels (a segmentation, a palette picture, "
            "a map painted elsewhere). Labels that come after each other in the order share regions; one that has to "
            "be cut is cut along its neighbours.",
            search_aliases=[
                "nvg",
                "segmentation",
                "palette",
                "label map",
                "image to structure",
                "regional",
                "composition",
                "layout",
                "control",
            ],
            inputs=[
                model_input(),
                io.Image.Input("image", tooltip="Label or palette pictures; sampled without smoothing."),
                stages_input(0, "as many as tell all labels apart"),
                io.Combo.Input(
                    "order",
                    options=[AUTO, HUE, BRIGHTNESS],
                    default=AUTO,
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
        values = label_values(images.checked_image(image), model.config.grid, order, fit)
        labels = max(len(one.unique()) for one in values)
        if labels == 1:
            raise NVGError("the picture has one colour only, which divides nothing; give one with several labels")
        splits = min(model.config.splits, math.ceil(math.log2(labels)))
        score = torch.stack([layout.label_order(one) for one in values])
        first = structure.stages if structure else 1
        return output(grown(model, structure, [score], stages or min(model.config.num_stages, first + splits)))


def label_values(image: Tensor, grid: tuple[int, int], order: str, fit: str) -> Tensor:
    """One number per label of pictures [B,H,W,C] in [0,1], sampled on the grid: float [B,h,w]."""
    small = images.resize(image[..., :3].permute(0, 3, 1, 2), grid, fit, "nearest-exact")
    most, least = small.amax(1), small.amin(1)
    if order == BRIGHTNESS or (order == AUTO and float((most - least).max()) < 0.02):
        return small.mean(1)
    red, green, blue = small.unbind(1)
    spread = (most - least).clamp(min=1e-6)
    sector = torch.where(
        most == red,
        ((green - blue) / spread) % 6,
        torch.where(most == green, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    # Greys have no hue: they come before all colours, by brightness. Equal hues go by brightness too.
    return torch.where(spread < 0.02, most - 1, sector / 6 + 1e-4 * most)


class NVGStructureShape(io.ComfyNode):
    """Numbers -> structure."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        def number(name: str, default: float, least: float, most: float, tooltip: str) -> io.Input:
            return io.Float.Input(name, default=default, min=least, max=most, step=0.01, tooltip=tooltip)

        return schema(
            node_id="NVGStructureShape",
            display_name="NVG Structure Shape",
            category=CATEGORY,
            description="Makes a structure of a shape placed by numbers. Its area becomes exactly one half; more "
            "stages repeat it as rings or bands.",
            search_aliases=["nvg", "circle", "rectangle", "gradient", "layout", "composition", "regional"],
            inputs=[
                model_input(),
                io.Combo.Input(
                    "shape",
                    options=[CIRCLE, RECTANGLE, GRADIENT],
                    default=CIRCLE,
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
        score = shape_score(shape, model.config.grid, model.config.image_size, (x, y), (width, height), angle)
        return output(grown(model, structure, [score[None]], stages or model.config.num_stages))


def shape_score(
    shape: str,
    grid: tuple[int, int],
    size: tuple[int, int],
    centre: tuple[float, float],
    extent: tuple[float, float],
    angle: float,
) -> Tensor:
    """Ranks positions by a shape: float [L], largest in its middle (or at the gradient's upper end).

    Args:
        size: (H, W) of the picture.
        centre, extent: (x, y) and (width, height) as shares of the picture's width and height.
        angle: in degrees, clockwise.
    """
    down = ((torch.arange(grid[0]) + 0.5) / grid[0] - centre[1]) * size[0]
    across = ((torch.arange(grid[1]) + 0.5) / grid[1] - centre[0]) * size[1]
    y, x = torch.meshgrid(down, across, indexing="ij")
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = x * cosine + y * sine, y * cosine - x * sine
    if shape == GRADIENT:
        # Rounded, so that what is equal but for the last digit is ranked by position on every machine.
        return (x * 1024).round().flatten()
    x, y = x / (extent[0] * size[1]), y / (extent[1] * size[0])
    radius = torch.hypot(x, y) if shape == CIRCLE else torch.maximum(x.abs(), y.abs())
    return -(radius * 1024 * 1024).round().flatten()
