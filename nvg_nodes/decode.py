"""The node that makes pictures of a sequence."""

from __future__ import annotations

import torch

from nvg_model import NVGError, VisualGranularitySequence
from nvg_nodes import images
from nvg_nodes.api import io, schema
from nvg_nodes.tokens import CATEGORY, model_input
from nvg_nodes.types import Model, NVGSequence

FINAL, ONE, ALL = "final", "one stage", "all stages"


class NVGDecode(io.ComfyNode):
    """Sequence -> pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGDecode",
            display_name="NVG Decode",
            category=CATEGORY,
            description="Makes pictures of a sequence: the finished ones, those of one stage, or all stages as a "
            "batch.",
            search_aliases=["nvg", "vae decode", "sequence to image", "stages", "compare"],
            inputs=[
                model_input(),
                NVGSequence.Input("sequence", tooltip="From NVG Tokenize Image, NVG Generate or a content stage."),
                io.Combo.Input(
                    "show",
                    options=[FINAL, ONE, ALL],
                    default=FINAL,
                    tooltip="The picture after the last stage, after the one below, or after every stage: all of the "
                    "first image, then all of the second, and so on.",
                ),
                io.Int.Input("stage", default=0, min=0, max=31, tooltip="Which one, if one is shown; 0 is the first."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The pictures.")],
        )

    @classmethod
    def execute(cls, model: Model, sequence: VisualGranularitySequence, show: str, stage: int) -> io.NodeOutput:
        """One picture per image, or per image and stage."""
        check_sequence(model, sequence)
        nvg = model.ready(min(len(sequence), images.AT_ONCE))
        if show != ALL:
            return io.NodeOutput(images.from_model(images.decode(nvg, sequence, stage if show == ONE else None)))
        stages = [images.decode(nvg, sequence, one) for one in range(sequence.num_stages)]
        return io.NodeOutput(images.from_model(torch.stack(stages, 1).flatten(0, 1)))


def check_sequence(model: Model, sequence: VisualGranularitySequence) -> None:
    """Raises NVGError unless a sequence is of the model's sizes."""
    channels = model.config.autoencoder.latent_channels
    if sequence.grid != model.config.grid or sequence.canvases.shape[-1] != channels:
        rows, columns = sequence.grid
        raise NVGError(
            f"the sequence is of a grid of {rows} x {columns} positions with {sequence.canvases.shape[-1]} channels, "
            f"but {model.name} has {model.config.grid[0]} x {model.config.grid[1]} with {channels}: tokenize or "
            "generate with the same model"
        )
