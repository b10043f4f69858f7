"""Nodes between pictures and sequences: tokenize, decode, and the structure of a picture alone."""

from __future__ import annotations

import torch
from torch import Tensor

from nvg_model import NVGError, VisualGranularitySequence
from nvg_nodes import host, images
from nvg_nodes.api import io, schema, words
from nvg_nodes.sockets import (
    MAIN,
    STRUCTURE,
    NVGSequence,
    NVGStructure,
    model_input,
    opacity_output,
    picture_inputs,
    seamless_input,
    structure_output,
    subject_input,
)
from nvg_nodes.types import Model, check_sequence, joined, structure_of

FINAL, ONE, ALL = "final", "one stage", "all stages"


class NVGTokenize(io.ComfyNode):
    """Picture -> sequence."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGTokenize",
            display_name="NVG Tokenize Image",
            category=MAIN,
            description="Takes pictures apart into structure, tokens and canvases of all stages. NVG Decode puts them "
            "together again.",
            search_aliases=words(
                "nvg, encode, vae encode, tokens, sequence, img2img, inpaint, edit, reference, compare"
            ),
            inputs=[
                model_input(),
                *picture_inputs(),
                subject_input(),
            ],
            outputs=[
                NVGSequence.Output(display_name="sequence", tooltip="Structure, tokens and canvases of all stages."),
                io.Image.Output(display_name="image", tooltip="The pictures as the model saw them, fitted."),
            ],
        )

    @classmethod
    def execute(cls, model: Model, image: Tensor, fit: str, subject: Tensor | None = None) -> io.NodeOutput:
        """One sequence per picture."""
        pictures = images.to_model(image, model.config.image_size, fit, subject)
        return io.NodeOutput(tokenize(model, pictures), images.from_model(pictures))


class NVGDecode(io.ComfyNode):
    """Sequence -> pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGDecode",
            display_name="NVG Decode",
            category=MAIN,
            description="Makes pictures of a sequence: the finished ones, those of one stage, or all stages as a "
            "batch.",
            search_aliases=words("nvg, vae decode, sequence to image, stages, compare"),
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
                seamless_input("For sequences that were drawn seamless: the pictures go on at their opposite edges."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The pictures, on white."), opacity_output()],
        )

    @classmethod
    def execute(
        cls, model: Model, sequence: VisualGranularitySequence, show: str, stage: int, seamless: bool = False
    ) -> io.NodeOutput:
        """One picture per image, or per image and stage."""
        check_sequence(model, sequence)
        nvg = model.ready(min(len(sequence), images.AT_ONCE))
        if show != ALL:
            pictures, mask = images.decode(nvg, sequence, stage if show == ONE else None, seamless)
            return io.NodeOutput(images.from_model(pictures), mask)
        stages = [images.decode(nvg, sequence, one, seamless) for one in range(sequence.num_stages)]
        every, masks = (torch.stack(parts, 1).flatten(0, 1) for parts in zip(*stages, strict=True))
        return io.NodeOutput(images.from_model(every), masks)


class NVGExtractStructure(io.ComfyNode):
    """Picture -> structure."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGExtractStructure",
            display_name="NVG Extract Structure",
            category=STRUCTURE,
            description="Finds the structure of pictures: which regions belong together, stage by stage. NVG Generate "
            "can follow it with another content.",
            search_aliases=words(
                "nvg, structure transfer, segmentation, layout, controlnet, composition, reference, style, control, "
                "outline, silhouette, img2img"
            ),
            inputs=[
                model_input(),
                *picture_inputs(),
                io.Int.Input(
                    "stages",
                    default=0,
                    min=0,
                    max=32,
                    tooltip="How many stages to keep, counting the first, which is one region: 2 is two regions, 4 is "
                    "eight. Fewer leave the generator more freedom. 0 keeps all.",
                ),
                subject_input(),
            ],
            outputs=[
                NVGStructure.Output(display_name="structure", tooltip="The structure of the stages kept."),
                io.Image.Output(display_name="preview", tooltip="A sheet per picture with the maps of its stages."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Model, image: Tensor, fit: str, stages: int, subject: Tensor | None = None
    ) -> io.NodeOutput:
        """One structure per picture."""
        total = model.config.num_stages
        if stages > total:
            raise NVGError(f"{stages} stages are too many: {model.name} has {total}; 0 keeps all")
        pictures = images.to_model(image, model.config.image_size, fit, subject)
        structure = structure_of(model, tokenize(model, pictures).structure[:, : stages or total])
        return structure_output(structure)


def tokenize(model: Model, pictures: Tensor) -> VisualGranularitySequence:
    """The sequence, on the CPU, of the model's images [B,3,H,W], a few at a time."""
    here = host.current()
    nvg = model.ready(min(len(pictures), images.AT_ONCE))
    parts = pictures.split(images.AT_ONCE)
    progress = here.progress(len(parts))
    done = []
    for part in parts:
        progress()
        done.append(nvg.tokenize(part).to("cpu"))
    return joined(done)
