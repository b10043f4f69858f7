"""The node that interpolates: frames between two pictures, or between two layouts.

Shapes: F frames, S stages, L positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nvg_model import NVGError, VisualGranularitySequence, interpolation
from nvg_nodes import host, images
from nvg_nodes.api import io, schema, words
from nvg_nodes.nodes_generate import batch_of_classes, draw, picture_output, picture_outputs
from nvg_nodes.sockets import (
    MAIN,
    SEEDS,
    NVGSequence,
    NVGStructure,
    Options,
    class_input,
    model_input,
    seamless_input,
    settings_input,
)
from nvg_nodes.types import Model, Settings, Structure, check_sequence, joined


class NVGInterpolate(io.ComfyNode):
    """Two sequences or two structures -> frames between them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGInterpolate",
            display_name="NVG Interpolate",
            category=MAIN,
            description="Makes frames on the way from one picture to another: outlines move, colours go along. Between "
            "two structures, every frame is drawn with the same noise. Connect image to Save Animated WEBP or Create "
            "Video.",
            search_aliases=words(
                "nvg, in-betweens, inbetween, tween, morph, animation, animate, video, frames, transition, blend, "
                "interpolation"
            ),
            inputs=[
                model_input(),
                io.Int.Input("frames", default=9, min=2, max=512, tooltip="How many frames, both ends included."),
                io.Combo.Input(
                    "content",
                    options=list(interpolation.CONTENT),
                    default="blend",
                    tooltip="How colours change between two sequences: blend mixes them little by little, nearer jumps "
                    "in the middle (sharper), stages changes them stage by stage, coarse ones first.",
                ),
                io.Boolean.Input(
                    "there_and_back",
                    default=False,
                    tooltip="Add the frames of the way back, so that an animation repeats without a jump.",
                ),
                *_end_inputs(),
                *_drawing_inputs(),
                seamless_input("For pictures that tile: decode, or draw, frames that go on at their opposite edges."),
            ],
            outputs=picture_outputs(),
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        frames: int,
        content: str,
        there_and_back: bool,
        first: VisualGranularitySequence | None = None,
        second: VisualGranularitySequence | None = None,
        first_structure: Structure | None = None,
        second_structure: Structure | None = None,
        class_name: str = "heart",
        seed: int = 0,
        settings: Settings | None = None,
        seamless: bool = False,
    ) -> io.NodeOutput:
        """Frames of every pair, one pair after the other."""
        layouts = first_structure, second_structure
        if first is not None and second is not None and layouts == (None, None):
            drawn = _between_sequences(model, first, second, frames, content, there_and_back, seamless)
        elif first_structure is not None and second_structure is not None and first is None and second is None:
            labels = _between_structures(model, first_structure, second_structure, frames, there_and_back)
            options = Options(settings=settings, shared_noise=True, seamless=seamless)
            classes = batch_of_classes(model, class_name, 1, options)
            if len(classes) != 1:
                raise NVGError(f"class_name names {len(classes)} classes; the frames between two structures have one")
            drawn = draw(model, classes.expand(len(labels)), seed, options, structure=labels)
        else:
            raise NVGError("connect two ends of one kind: first and second, or first_structure and second_structure")
        return picture_output(model, *drawn)


def _end_inputs() -> list[io.Input]:
    """The two ends."""
    return [
        NVGSequence.Input(
            "first", optional=True, tooltip="The picture to begin with, from NVG Generate or NVG Tokenize Image."
        ),
        NVGSequence.Input("second", optional=True, tooltip="The picture to end with. Batches are taken pair by pair."),
        NVGStructure.Input("first_structure", optional=True, tooltip="Instead of pictures: the layout to begin with."),
        NVGStructure.Input("second_structure", optional=True, tooltip="Instead of pictures: the layout to end with."),
    ]


def _drawing_inputs() -> list[io.Input]:
    """What frames between structures are drawn of."""
    name, seed = (
        class_input("What is drawn between two structures: one class."),
        io.Int.Input(
            "seed",
            optional=True,
            default=0,
            min=0,
            max=SEEDS,
            control_after_generate=True,
            tooltip="The noise of the frames between two structures, the same for all.",
        ),
    )
    name.optional = True
    return [name, seed, settings_input()]


def _pairs(first: int, second: int, what: str) -> list[tuple[int, int]]:
    """Which item goes to which. Raises NVGError."""
    items = max(first, second)
    if not {first, second} <= {1, items}:
        raise NVGError(f"there are {first} {what} to begin with and {second} to end with; give one, or equally many")
    return [(min(item, first - 1), min(item, second - 1)) for item in range(items)]


def _order(frames: int, there_and_back: bool) -> list[int]:
    """Numbers of the frames in the order shown."""
    return [*range(frames), *(range(frames - 2, 0, -1) if there_and_back else ())]


def _between_sequences(
    model: Model,
    first: VisualGranularitySequence,
    second: VisualGranularitySequence,
    frames: int,
    content: str,
    there_and_back: bool,
    seamless: bool,
) -> tuple[VisualGranularitySequence, Tensor, Tensor]:
    """The frames, the model's images of them, and the MASK of what is opaque."""
    for sequence in (first, second):
        check_sequence(model, sequence)
    pairs = _pairs(len(first), len(second), "pictures")
    bar = host.current().progress(len(pairs) + 1)
    nvg = model.ready(min(frames, images.AT_ONCE))
    parts = []
    for one, other in pairs:
        bar()
        found = nvg.interpolate(first.items([one]), second.items([other]), frames, content)
        parts.append(found.items(_order(frames, there_and_back)).to("cpu"))
    whole = joined(parts)
    bar()
    pictures, mask = images.decode(nvg, whole, seamless=seamless)
    bar.show(lambda: images.contact_sheet(pictures))
    return whole, pictures, mask


def _between_structures(model: Model, first: Structure, second: Structure, frames: int, there_and_back: bool) -> Tensor:
    """Labels long [F,S,L] of the frames, with as many stages as both have."""
    ends = first.fitting(model), second.fitting(model)
    stages = min(first.stages, second.stages)
    shares, grid = torch.linspace(0, 1, frames), model.config.grid
    order = _order(frames, there_and_back)
    return torch.cat(
        [
            interpolation.structures_between(ends[0][one, :stages], ends[1][other, :stages], shares, grid)[order]
            for one, other in _pairs(len(ends[0]), len(ends[1]), "structures")
        ]
    )
