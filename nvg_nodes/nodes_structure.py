"""Nodes that change structures, combine them and show them. All give exactly valid hierarchies.

Shapes: B batch, S stages, L = h*w positions.
"""

from __future__ import annotations

import math

import torch

from nvg_model import NVGError
from nvg_nodes import images, layout
from nvg_nodes.api import io, schema, ui, words
from nvg_nodes.sockets import STRUCTURE, NVGStructure, structure_output, structure_outputs
from nvg_nodes.types import Structure

TOGETHER, EACH = "one mask", "one mask each"


def structure_input(what: str, name: str = "structure") -> io.Input:
    """The socket of a structure."""
    return NVGStructure.Input(name, tooltip=what)


def stage_input(what: str) -> io.Input:
    """Which stage to show."""
    return io.Int.Input(
        "stage", default=-1, min=-1, max=31, tooltip=f"{what} 0 is one region, 1 is two, 2 is four. -1: the last."
    )


class NVGStructureTransform(io.ComfyNode):
    """Flipped, turned, scaled, shifted."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        def number(name: str, default: float, least: float, most: float, step: float, tooltip: str) -> io.Input:
            return io.Float.Input(name, default=default, min=least, max=most, step=step, tooltip=tooltip)

        return schema(
            node_id="NVGStructureTransform",
            display_name="NVG Structure Transform",
            category=STRUCTURE,
            description="Flips, scales, turns and shifts a structure, in this order. Regions are balanced again.",
            search_aliases=words("nvg, flip, mirror, shift, rotate, scale, edit, composition"),
            inputs=[
                structure_input("The structure to move."),
                io.Combo.Input(
                    "flip", options=layout.FLIPS, default="none", tooltip="Mirrors sideways, upside down or both."
                ),
                number("scale", 1.0, 0.05, 20.0, 0.05, "Enlarges about the centre; below 1 shrinks."),
                number("angle", 0.0, -360.0, 360.0, 1.0, "Turns clockwise about the centre, in degrees."),
                number("shift_x", 0.0, -1.0, 1.0, 0.01, "Moves to the right, as a share of the width."),
                number("shift_y", 0.0, -1.0, 1.0, 0.01, "Moves down, as a share of the height."),
                io.Combo.Input(
                    "edges",
                    options=[layout.WRAP, layout.EXTEND],
                    default=layout.WRAP,
                    tooltip="What fills the gap: wrap takes the other side of the picture, extend repeats its edge.",
                ),
            ],
            outputs=structure_outputs(),
        )

    @classmethod
    def execute(
        cls,
        structure: Structure,
        flip: str,
        scale: float,
        angle: float,
        shift_x: float,
        shift_y: float,
        edges: str,
    ) -> io.NodeOutput:
        """Looks up every position's label where it comes from, and halves by them."""
        source = layout.source_positions(structure, flip, scale, angle, (shift_x, shift_y), edges)
        order = layout.position_order(structure.finest[:, source], structure.grid)
        return structure_output(structure.replace(layout.from_order([order], structure.stages)))


class NVGStructureBlend(io.ComfyNode):
    """Between two structures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGStructureBlend",
            display_name="NVG Structure Blend",
            category=STRUCTURE,
            description="Goes from one structure to another: positions are ranked by a mean of both orders.",
            search_aliases=words("nvg, mix, morph, interpolate, edit"),
            inputs=[
                structure_input("What amount 0 gives.", "structure_a"),
                structure_input("What amount 1 gives.", "structure_b"),
                io.Float.Input(
                    "amount", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="0 is the first, 1 is the second."
                ),
            ],
            outputs=structure_outputs(),
        )

    @classmethod
    def execute(cls, structure_a: Structure, structure_b: Structure, amount: float) -> io.NodeOutput:
        """Has the stages that both have."""
        if not math.isfinite(amount):
            raise NVGError(f"amount is {amount}; give a number from 0 to 1")
        a, b = layout.same_batch(structure_a, structure_b)
        stages = min(a.shape[1], b.shape[1])
        orders = [layout.position_order(one[:, stages - 1], structure_a.grid) for one in (a, b)]
        labels = layout.from_order([torch.lerp(orders[0], orders[1], amount)], stages)
        return structure_output(structure_a.replace(labels))


class NVGStructureSwap(io.ComfyNode):
    """The beginning of one structure, the rest of another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGStructureSwap",
            display_name="NVG Structure Swap",
            category=STRUCTURE,
            description="Takes the first stages of one structure, then the splits of another: every region is halved "
            "in the other's order.",
            search_aliases=words("nvg, combine, exchange, layout and detail, composition, style, reference"),
            inputs=[
                structure_input("Its first stages are taken: the layout.", "structure_a"),
                structure_input("Its splits follow: the detail.", "structure_b"),
                io.Int.Input(
                    "stages",
                    default=2,
                    min=1,
                    max=32,
                    tooltip="How many stages of the first are taken, counting the first, which is one region.",
                ),
            ],
            outputs=structure_outputs(),
        )

    @classmethod
    def execute(cls, structure_a: Structure, structure_b: Structure, stages: int) -> io.NodeOutput:
        """Has as many stages as the second."""
        first = structure_a.replace(layout.first_stages(structure_a, stages, "the first structure"))
        a, b = layout.same_batch(first, structure_b)
        order = layout.position_order(b[:, -1], structure_b.grid)
        return structure_output(structure_a.replace(layout.grow(a, [order], b.shape[1])))


class NVGStructureKeep(io.ComfyNode):
    """The first stages."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGStructureKeep",
            display_name="NVG Structure Keep Stages",
            category=STRUCTURE,
            description="Keeps the first stages of a structure; the generator makes the others anew.",
            search_aliases=words("nvg, truncate, variations, edit, composition"),
            inputs=[
                structure_input("The structure to shorten."),
                io.Int.Input(
                    "stages",
                    default=3,
                    min=1,
                    max=32,
                    tooltip="How many, counting the first, which is one region: 2 is two regions, 3 is four.",
                ),
            ],
            outputs=structure_outputs(),
        )

    @classmethod
    def execute(cls, structure: Structure, stages: int) -> io.NodeOutput:
        """Refuses to keep what is not there."""
        return structure_output(structure.replace(layout.first_stages(structure, stages)))


class NVGStructureToMask(io.ComfyNode):
    """Regions -> masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGStructureToMask",
            display_name="NVG Structure to Mask",
            category=STRUCTURE,
            description="Masks of regions of one stage, at the size of the model's pictures.",
            search_aliases=words("nvg, region mask, segment, regional, outline, silhouette"),
            inputs=[
                structure_input("The structure whose regions are wanted."),
                stage_input("The stage whose regions are wanted."),
                io.String.Input(
                    "regions",
                    default="",
                    tooltip="Numbers of the regions, such as 1 or 0, 2-3. Left empty: all of them.",
                ),
                io.Combo.Input(
                    "combine",
                    options=[TOGETHER, EACH],
                    default=TOGETHER,
                    tooltip="one mask: all these regions together, per picture. one mask each: a mask for every "
                    "region.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="1 inside. All masks of the first picture come first.")
            ],
        )

    @classmethod
    def execute(cls, structure: Structure, stage: int, regions: str, combine: str) -> io.NodeOutput:
        """Masks are 1 inside."""
        stage = layout.checked_stage(structure, stage)
        wanted = torch.tensor(layout.parse_regions(regions, 2**stage))
        inside = structure.labels[:, stage, None] == wanted[:, None]  # [B,regions,L]
        chosen = inside.any(1, keepdim=True) if combine == TOGETHER else inside
        masks = chosen.flatten(0, 1).unflatten(1, structure.grid)[:, None].float()
        return io.NodeOutput(layout.resize(masks, structure.size, "stretch", "nearest-exact")[:, 0])


class NVGStructureToImage(io.ComfyNode):
    """One stage as a palette picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGStructureToImage",
            display_name="NVG Structure to Image",
            category=STRUCTURE,
            description="The map of one stage, a colour per region, at the size of the model's pictures. NVG Structure "
            "from Label Image reads it again.",
            search_aliases=words("nvg, palette, segmentation map, label map"),
            inputs=[structure_input("The structure to draw."), stage_input("The stage to draw.")],
            outputs=[io.Image.Output(display_name="image", tooltip="One map per picture of the batch.")],
        )

    @classmethod
    def execute(cls, structure: Structure, stage: int) -> io.NodeOutput:
        """Colours are the same in every picture."""
        return io.NodeOutput(images.from_pil(images.structure_map(structure, layout.checked_stage(structure, stage))))


class NVGStructurePreview(io.ComfyNode):
    """All stages at a glance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGStructurePreview",
            display_name="NVG Structure Preview",
            category=STRUCTURE,
            description="Shows the maps of all stages of a structure on the node.",
            search_aliases=words("nvg, show structure, grid, preview, compare"),
            inputs=[structure_input("The structure to show.")],
            outputs=[io.Image.Output(display_name="image", tooltip="A sheet per picture with the maps of its stages.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, structure: Structure) -> io.NodeOutput:
        """A sheet per item."""
        sheet = images.structure_sheet(structure)
        return io.NodeOutput(sheet, ui=ui.PreviewImage(sheet, cls=cls))
