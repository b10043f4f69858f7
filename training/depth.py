"""More blocks for a trained generator: it draws the same until they are trained (LLaMA Pro, Wu et al. 2024)."""

from __future__ import annotations

import dataclasses

import torch

from nvg_model.config import GeneratorConfig
from nvg_model.model import NVG
from nvg_model.transformer import Transformer
from training.errors import TrainingError
from training.recipes.base import GeneratorRecipe


def with_depths(config: GeneratorConfig, settings: GeneratorRecipe) -> GeneratorConfig:
    """The configuration with the numbers of blocks that a training asks for. Raises TrainingError: one is negative."""
    for network, depth in (("content", settings.content_depth), ("structure", settings.structure_depth)):
        if depth < 0:
            raise TrainingError(f"--{network}-depth {depth} is not a number of blocks; give 1 or more, or leave it out")
    return dataclasses.replace(
        config,
        content_depth=settings.content_depth or config.content_depth,
        structure_depth=settings.structure_depth or config.structure_depth,
    )


def deepened(start: NVG, settings: GeneratorRecipe) -> NVG:
    """The model with as many blocks as a training asks for; it computes what `start` does.

    The blocks are repeated in order, the last ones first where there are not enough new ones for all, and every copy
    adds nothing to what it gets until it is trained.

    Raises:
        TrainingError: fewer blocks are asked for than there are.
    """
    old = start.config.generator
    assert old is not None
    new = with_depths(old, settings)
    if new == old:
        return start
    for network in ("content", "structure"):
        had, asked = getattr(old, f"{network}_depth"), getattr(new, f"{network}_depth")
        if asked < had:
            raise TrainingError(
                f"the {network} network of the checkpoint has {had} blocks and cannot be made {asked} deep; "
                f"give --{network}-depth {had} or more, or leave it out"
            )
    deep = NVG(dataclasses.replace(start.config, generator=new), start.classes, start.settings)
    outside = {name: value for name, value in start.state_dict().items() if ".blocks." not in name}
    deep.load_state_dict(outside, strict=False)
    _repeat(start.content.transformer, deep.content.transformer)
    _repeat(start.structure.transformer, deep.structure.transformer)
    return deep


def _repeat(start: Transformer, deep: Transformer) -> None:
    """Fills the blocks of the deeper one with those of the other."""
    had, wanted = len(start.blocks), len(deep.blocks)
    before = None
    for index, block in enumerate(deep.blocks):
        source = had - 1 - (wanted - 1 - index) * had // wanted
        weights = start.blocks[source].state_dict()
        if source == before:
            silent = ("linear_out.weight", "linear_out.bias")
            weights |= {name: torch.zeros_like(weights[name]) for name in silent}
        block.load_state_dict(weights)
        before = source
