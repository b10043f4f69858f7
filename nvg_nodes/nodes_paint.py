"""The painter's Python side: what was painted in the browser, as a structure and as regions with classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nvg_model import NVGError, Region, areas
from nvg_nodes import colours, images, layout
from nvg_nodes.api import io, schema, words
from nvg_nodes.nodes_generate import one_class
from nvg_nodes.painting import Colour, read_painting
from nvg_nodes.sockets import (
    STRUCTURE,
    NVGRegions,
    area_input,
    before_input,
    model_input,
    stages_input,
    structure_outputs,
)
from nvg_nodes.types import Model, Regions, Structure, structure_of


class NVGPaintStructure(io.ComfyNode):
    """Painting -> structure and regions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGPaintStructure",
            display_name="NVG Paint Structure",
            category=STRUCTURE,
            description="Paint areas in colours in the node: the structure follows them, and each can have a class of "
            "its own. Every region must have exactly half the positions of its parent, so the splits follow lines of "
            "equal distance to the outlines until every colour is whole regions, of about its own size.",
            search_aliases=words(
                "nvg, draw, painter, sketch, layout, mask editor, outline, silhouette, composition, control, edit, "
                "regional, regional prompt, lasso, segmentation"
            ),
            inputs=[
                model_input(),
                io.String.Input(
                    "painting",
                    default="",
                    tooltip="What is painted, kept in the workflow: a picture as a data URL, or JSON with colours, "
                    "their classes and maps.",
                ),
                stages_input(0, "as many as the painting needs; with several maps one for each"),
                before_input(),
                area_input("Of several maps each makes one split."),
            ],
            outputs=[
                *structure_outputs(),
                io.Mask.Output(display_name="mask", tooltip="What was painted, one mask per map, or per colour."),
                NVGRegions.Output(
                    display_name="regions", tooltip="The colours that have classes, for NVG Generate and NVG Inpaint."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Model, painting: str, stages: int, structure: Structure | None = None, area: str = areas.HALF
    ) -> io.NodeOutput:
        """Every map splits the regions of the one before; without maps, the colours do."""
        found, nested = read_painting(painting), area == areas.NESTED
        if found.maps:
            grid = model.config.grid
            scores = [layout.mask_score(mask, grid, "stretch", layout.DISTANCE)[None] for mask in found.maps]
            if nested and len(scores) == 1:
                stages = stages or layout.stages_of_areas(model, structure, found.maps[0][None], "stretch")
            result = layout.continued(model, structure, scores, stages)
        else:
            result = _following(model, structure, found.masks, stages, nested)
        regions = Regions(tuple(_region(model, colour) for colour in found.colours if colour.class_name))
        shown = torch.cat([_sized(model, mask) for mask in found.masks])
        opened = images.structure_ui(result)
        return io.NodeOutput(result, images.structure_sheet(result), shown, regions, ui=opened)


def _following(model: Model, before: Structure | None, masks: Sequence[Tensor], stages: int, nested: bool) -> Structure:
    """The structure that follows the areas of colours, with this many stages; 0: as many as needed."""
    labels = layout.begun(model, before, stages)
    found = colours.areas_of(masks, model.config.grid)
    grow = colours.nest if nested else colours.grow
    grown = [grow(found, one, stages) for one in labels]
    stages = max(map(len, grown))  # another picture of the batch may need more of them
    whole = [one if len(one) == stages else grow(found, one[: labels.shape[1]], stages) for one in grown]
    return structure_of(model, torch.stack(whole))


def _region(model: Model, colour: Colour) -> Region:
    """A colour as a region. Raises NVGError where its class is not one of the model's."""
    try:
        name = one_class(model, colour.class_name)
    except NVGError as error:
        raise NVGError(f"colour {colour.number} of the painting: {error}") from error
    return Region(_sized(model, colour.mask), name)


def _sized(model: Model, mask: Tensor) -> Tensor:
    """A mask [H,W] at the size of the model's images, float [1,H,W]."""
    return layout.resize(mask[None, None], model.config.image_size, "stretch", "area")[0]
