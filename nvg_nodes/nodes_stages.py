"""Nodes that generate stage by stage: start, then structure and content in turn. Together they equal NVG Generate.

Shapes: B batch, S' stages present, L positions.
"""

from __future__ import annotations

import dataclasses
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from nvg_model import NVGError, VisualGranularitySequence, hierarchy
from nvg_model.generation import count_evaluations
from nvg_nodes import host, images, layout
from nvg_nodes.api import io, schema, words
from nvg_nodes.nodes_generate import batch_of_classes
from nvg_nodes.sockets import (
    BY_STAGE,
    SEEDS,
    NVGRegions,
    NVGSequence,
    NVGState,
    NVGStructure,
    Options,
    first_item_input,
    model_input,
    regions_input,
    request_inputs,
    settings_input,
)
from nvg_nodes.types import Model, Regions, Settings, State, Structure, check_sequence, structure_of


def chain_inputs() -> list[io.Input]:
    """The model, and the chain so far."""
    return [model_input(), NVGState.Input("state", tooltip="From NVG Start or the node before in the chain.")]


class NVGStart(io.ComfyNode):
    """Begins a chain."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGStart",
            display_name="NVG Start",
            category=BY_STAGE,
            description="Begins a generation stage by stage. Connect NVG Generate Structure and NVG Generate Content "
            "Stage in turn, once per stage; a change to a late stage runs only what follows it.",
            search_aliases=words("nvg, stage by stage, chain, empty latent, edit"),
            inputs=[
                *request_inputs(),
                NVGStructure.Input(
                    "structure",
                    optional=True,
                    tooltip="Structure of the first stages, which the chain will follow; the rest is generated.",
                ),
                settings_input(),
                first_item_input(),
                regions_input(),
            ],
            outputs=[NVGState.Output(display_name="state", tooltip="The chain, before its first stage.")],
        )

    @classmethod
    def execute(cls, model: Model, class_name: str, seed: int, batch_size: int, **given: Any) -> io.NodeOutput:
        """A state without stages."""
        options = Options(**given)
        options.request(model)  # complains here rather than stages later
        classes = batch_of_classes(model, class_name, batch_size, options)
        structure = options.structure
        if structure is not None:
            layout.for_batch(structure.labels, len(classes), _too_many(structure.labels, classes, "structure"))
        settings, regions = options.settings or Settings(), options.regions or Regions()
        return io.NodeOutput(State(classes, seed, options.first_item, settings, structure, regions=regions))


class NVGGenerateStructure(io.ComfyNode):
    """The structure of the next stage."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGGenerateStructure",
            display_name="NVG Generate Structure",
            category=BY_STAGE,
            description="Splits every region in half for the next stage. The first stage is one region.",
            search_aliases=words("nvg, structure, stage, split, layout, composition"),
            inputs=[
                *chain_inputs(),
                NVGStructure.Input(
                    "structure",
                    optional=True,
                    tooltip="Followed instead of generating: exactly where it continues the chain's regions, otherwise "
                    "each region of the chain is halved in its order.",
                ),
                _stage_regions_input(),
            ],
            outputs=[
                NVGState.Output(display_name="state", tooltip="The chain with the structure of the next stage."),
                NVGStructure.Output(display_name="structure", tooltip="The structure so far, the new stage included."),
                io.Image.Output(display_name="preview", tooltip="The map of the new stage, in colours."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Model, state: State, structure: Structure | None = None, regions: Regions | None = None
    ) -> io.NodeOutput:
        """Generates it, or takes it from what is given here or was given at the start."""
        stage = checked_stage(model, state)
        if state.labels is not None:
            raise NVGError(f"stage {stage} has its structure already; connect NVG Generate Content Stage next")
        source = structure
        if source is not None and source.stages <= stage:
            raise NVGError(
                f"the structure given has the stages 0 to {source.stages - 1} and the chain is at stage {stage}; give "
                "more stages, or none to generate it"
            )
        if source is None and state.plan is not None and state.plan.stages > stage:
            source = state.plan
        labels = _next_labels(model, state, source, regions or state.regions)
        whole = structure_of(model, _structure_with(state, labels))
        preview = images.from_pil(images.structure_map(whole))
        opened = images.structure_ui(whole)
        return io.NodeOutput(dataclasses.replace(state, labels=labels), whole, preview, ui=opened)


class NVGGenerateContentStage(io.ComfyNode):
    """The content of the next stage."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NVGGenerateContentStage",
            display_name="NVG Generate Content Stage",
            category=BY_STAGE,
            description="Fills the regions of the next stage, one token each. It comes after the stage's structure; "
            "the first stage needs none.",
            search_aliases=words("nvg, content, stage, tokens, inpaint, edit, style"),
            inputs=[
                *chain_inputs(),
                NVGSequence.Input(
                    "sequence",
                    optional=True,
                    tooltip="Keeps this stage's content of that picture instead of generating: every region takes its "
                    "token.",
                ),
                io.Int.Input(
                    "stage_seed",
                    optional=True,
                    default=-1,
                    min=-1,
                    max=SEEDS,
                    tooltip="Another seed for this stage's content. -1: the chain's, as in NVG Generate.",
                ),
                _stage_regions_input(),
            ],
            outputs=[
                NVGState.Output(display_name="state", tooltip="The chain with the stage finished."),
                io.Image.Output(display_name="image", tooltip="The pictures after this stage."),
                NVGSequence.Output(display_name="sequence", tooltip="The stages so far; whole after the last one."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Model,
        state: State,
        sequence: VisualGranularitySequence | None = None,
        stage_seed: int = -1,
        regions: Regions | None = None,
    ) -> io.NodeOutput:
        """Generates it, or keeps it from a sequence."""
        stage = checked_stage(model, state)
        if state.labels is None and stage > 0:
            raise NVGError(f"stage {stage} has no structure yet; connect NVG Generate Structure before its content")
        if sequence is not None:
            check_sequence(model, sequence)
            if sequence.num_stages <= stage:
                raise NVGError(
                    f"the sequence to keep has the stages 0 to {sequence.num_stages - 1} and the chain is at stage "
                    f"{stage}"
                )
        result = _next_content(model, state, sequence, stage_seed, regions or state.regions)
        pictures = images.from_model(images.decode(model.nvg, result)[0])
        return io.NodeOutput(dataclasses.replace(state, sequence=result, labels=None), pictures, result)


def _stage_regions_input() -> io.Input:
    """The socket of other regions than those of the start."""
    return NVGRegions.Input(
        "regions", optional=True, tooltip="Regions of this stage only. Without it, those that NVG Start was given."
    )


def checked_stage(model: Model, state: State) -> int:
    """Number of the chain's next stage. Raises NVGError for another model's chain, or one that is finished."""
    if state.sequence is not None:
        check_sequence(model, state.sequence)
    if state.stage == model.config.num_stages:
        raise NVGError(f"the chain is finished: {model.name} has {state.stage} stages; take its image")
    return state.stage


def _next_labels(model: Model, state: State, source: Structure | None, regions: Regions) -> Tensor:
    """Labels [B,L] of the next stage: of a source that is followed, or generated."""
    if state.sequence is None:
        return _one_region(model, state)
    before = state.sequence.structure[:, -1]
    if source is not None:
        # The order of the finest labels holds the source's splits at all stages: where its regions are the chain's,
        # halving by it repeats the source exactly.
        source.fitting(model)
        order = layout.position_order(source.finest, source.grid)
        order = layout.for_batch(order, len(before), _too_many(order, before, "structure"))
        return hierarchy.split(before, order)
    settings, splits = state.settings.over(model.nvg.settings), model.config.splits
    known, after = (count_evaluations(settings, splits, stages) for stages in (state.stage, state.stage + 1))
    nvg = model.ready(len(state.classes), len(regions.items))
    labels = nvg.next_structure(
        state.sequence,
        state.classes,
        state.seed,
        settings,
        first_item=state.first_item,
        on_evaluation=host.current().progress(known - after),
        regions=regions.items,
    )
    return labels.cpu()


def _next_content(
    model: Model, state: State, kept: VisualGranularitySequence | None, stage_seed: int, regions: Regions
) -> VisualGranularitySequence:
    """The chain's sequence with the next stage, on the CPU; the stages before are kept, without networks."""
    labels = state.labels if state.labels is not None else _one_region(model, state)
    sequence = state.sequence
    if kept is not None:
        codes = kept.cluster_tokens(state.stage)
        codes = layout.for_batch(codes, len(labels), _too_many(codes, labels, "sequence"))
        sequence = _with_stage(state, labels, hierarchy.place(codes, labels))
    nvg = model.ready(len(state.classes), len(regions.items))
    states = nvg.stages(
        state.classes,
        state.seed if stage_seed < 0 else stage_seed,
        state.settings.over(nvg.settings),
        structure=_structure_with(state, labels),
        sequence=sequence,
        keep_content=sequence.num_stages if sequence else 0,
        first_item=state.first_item,
        on_evaluation=host.current().progress(1),
        regions=regions.items,
    )
    return next(islice(states, state.stage, None)).to("cpu")


def _one_region(model: Model, state: State) -> Tensor:
    """Labels [B,L] of the first stage."""
    return torch.zeros(len(state.classes), model.config.positions, dtype=torch.long)


def _structure_with(state: State, labels: Tensor) -> Tensor:
    """Labels [B,S'+1,L] of the chain's stages and a new one [B,L]."""
    return labels[:, None] if state.sequence is None else torch.cat([state.sequence.structure, labels[:, None]], 1)


def _with_stage(state: State, labels: Tensor, tokens: Tensor) -> VisualGranularitySequence:
    """The chain's sequence with one more stage [B,L], to keep stages of, without canvases."""
    structure, before = _structure_with(state, labels), state.sequence
    tokens = tokens[:, None] if before is None else torch.cat([before.tokens, tokens[:, None]], 1)
    return VisualGranularitySequence(structure, tokens, torch.empty(*structure.shape, 0), (1, labels.shape[-1]))


def _too_many(given: Tensor, wanted: Tensor, name: str) -> str:
    """The error text for a number of items that is neither 1 nor the number of pictures."""
    return f"the {name} has {len(given)} items for {len(wanted)} pictures; give one, or one per picture"
