"""The weights that a training starts from: random, of another run, of a checkpoint with other classes or fewer blocks,
or with low-rank changes (LoRA).
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import nvg_model
from nvg_model.config import GeneratorConfig
from nvg_model.model import NVG
from nvg_model.networks import time_sinusoid
from nvg_model.tokenizer import Decoder, Tokenizer
from nvg_model.transformer import Transformer
from training import checkpointing
from training.data.cache import fingerprint
from training.errors import TrainingError
from training.recipes.base import GeneratorRecipe, Recipe
from training.run_folder import generator_folder

WEIGHTS = "tokenizer.pt"
DECODER = "decoder"
"""Folder of a run for the decoder trained once more."""


def starting_point(recipe: Recipe, run: Path, classes: tuple[str, ...]) -> NVG:
    """The model before training: on the run's tokenizer, or a checkpoint to fine-tune with the data's classes."""
    if recipe.start:
        start = without_conversions(nvg_model.load(recipe.start, dtype=torch.float32), recipe.start)
        return with_classes(resized(start, recipe.generator), classes)
    assert recipe.config.generator is not None
    generator = with_depths(recipe.config.generator, recipe.generator)
    config = dataclasses.replace(recipe.config, generator=dataclasses.replace(generator, num_classes=len(classes)))
    nvg = NVG(config, classes)
    nvg.tokenizer.load_state_dict(tokenizer_weights(run))
    nvg.content.initialize()
    nvg.structure.initialize()
    if recipe.generator.initialisation == "xavier":
        as_released(nvg)
    nvg.tokenizer.requires_grad_(False).eval()
    return nvg


def tokenizer_weights(run: Path) -> dict[str, Tensor]:
    """The averaged weights of the run's finished tokenizer. Raises TrainingError where there are none."""
    path = run / "tokenizer" / WEIGHTS
    if not path.is_file():
        raise TrainingError(
            f"there is no trained tokenizer {path}; run `python -m training tokenizer` to its end first"
        )
    return checkpointing.read(path)


def use_trained_decoder(tokenizer: Tokenizer, run: Path) -> bool:
    """Loads the decoder that the run has trained once more, if it has; returns whether it has.

    Raises:
        TrainingError: that was the decoder of another tokenizer.
    """
    path = run / DECODER / WEIGHTS
    if not path.is_file():
        return False
    weights, own = checkpointing.read(path), tokenizer.state_dict()
    if any(not torch.equal(value, weights[name]) for name, value in own.items() if not name.startswith("decoder.")):
        raise TrainingError(f"{path} belongs to another tokenizer than {run / 'tokenizer'}; move {path.parent} away")
    tokenizer.load_state_dict(weights)
    return True


def has_trained_generator(run: Path) -> bool:
    """Whether a run has saves of both networks, trained together or each alone."""
    both, content, structure = (
        checkpointing.newest(generator_folder(run, networks)) for networks in ("both", "content", "structure")
    )
    return both is not None or (content is not None and structure is not None)


def trained_generator(recipe: Recipe, run: Path, best: bool = False) -> tuple[NVG, dict[str, dict[str, Any]]]:
    """The averaged weights of a run's newest saves (or the best ones) as a model, and the saves by what they train.

    A network that was trained alone as well is taken from there.

    Raises:
        TrainingError: there is no such save, one of the networks was never trained, or a save does not fit the recipe.
    """
    states = {}
    for networks in ("both", "content", "structure"):
        folder = generator_folder(run, networks)
        newest = checkpointing.newest(folder)
        if newest is not None:
            states[networks] = checkpointing.read(folder / checkpointing.BEST if best else newest)
    if not states:
        raise TrainingError(f"there is no saved generator in {run}; run `python -m training generator` first")
    first = next(iter(states.values()))["meta"]
    start = first["recipe"]["start"]
    recipe = dataclasses.replace(recipe, start=start, generator=with_depths_of(recipe.generator, states))
    nvg = starting_point(recipe, run, tuple(first["classes"]))
    require_same_tokenizer(nvg, states, run)
    missing = set() if start or "both" in states else {"content", "structure"} - states.keys()
    if missing:
        raise TrainingError(
            f"the {missing.pop()} network was never trained in {run}; run `python -m training generator`"
        )
    for networks, state in states.items():
        if state["meta"]["classes"] != first["classes"]:
            raise TrainingError(
                f"the networks of {run} were trained on other classes than each other; train them alike"
            )
        own = ("content.", "structure.") if networks == "both" else (f"{networks}.",)
        use_weights(nvg, saved_weights(state), own, run)
    return nvg, states


def saved_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """The averaged weights of both generators in a save."""
    return network_weights(state["phases"][0]["module"], state["average"])


def network_weights(state: dict[str, Tensor], average: dict[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights of both generators, named as in NVG, from the saved state of an objective."""
    weights = plain_weights(state, average)
    return {name: value for name, value in weights.items() if name.startswith(("content.", "structure."))}


def require_same_tokenizer(nvg: NVG, states: dict[str, dict[str, Any]], run: Path) -> None:
    """Raises TrainingError where the generators have learned the tokens of another tokenizer."""
    for state in states.values():
        learned = state["meta"].get("weights", {}).get("tokenizer")  # not in saves older than this
        if learned not in (None, fingerprint(nvg.tokenizer)):
            raise TrainingError(
                f"the tokenizer of {run} has been trained on, or exchanged, since its generators were trained; train "
                "these on it in another --folder"
            )


def with_depths_of(settings: GeneratorRecipe, states: dict[str, dict[str, Any]]) -> GeneratorRecipe:
    """Settings with the depth of each network as in the training that it is taken from, which may be of it alone."""
    for networks, state in states.items():
        saved = state["meta"]["recipe"]["generator"]  # without depths if it is older than they are
        if networks != "structure":
            settings = dataclasses.replace(settings, content_depth=saved.get("content_depth", 0))
        if networks != "content":
            settings = dataclasses.replace(settings, structure_depth=saved.get("structure_depth", 0))
    return settings


def use_weights(nvg: NVG, weights: dict[str, Tensor], own: tuple[str, ...], run: Path) -> None:
    """Loads the weights whose names begin with a prefix. Raises TrainingError where the model has others."""
    weights = {name: value for name, value in weights.items() if name.startswith(own)}
    differ = weights.keys() ^ {name for name in nvg.state_dict() if name.startswith(own)}
    if differ:
        raise TrainingError(f"the run {run} does not fit the recipe; they differ in {sorted(differ)[:3]}")
    nvg.load_state_dict(weights, strict=False)


@torch.no_grad()
def without_conversions(start: NVG, name: str) -> NVG:
    """The model as it was trained before its guidance was put inside: the loss of the data is that of scale 1.

    Its content generator gives what it gave at scale 1, and two passes guide it again.

    Raises:
        TrainingError: its structure flow was converted to few steps, which the loss of the data would undo.
    """
    generator = start.config.generator
    if generator is not None and generator.flow == "average":
        raise TrainingError(
            f"{name} has a structure flow of few steps, which cannot be trained on; start from the checkpoint that it "
            "was converted from"
        )
    if generator is None or generator.largest_content_guidance == 1:
        return start
    config = dataclasses.replace(generator, largest_content_guidance=1.0)
    plain = NVG(dataclasses.replace(start.config, generator=config), start.classes, start.settings)
    weights = {name: value for name, value in start.state_dict().items() if ".guidance_mlp." not in name}
    weights["content.stage_embedding.weight"] = start.content.stage_embedding.weight + start.content.guidance_mlp(
        time_sinusoid(torch.ones(1))
    )
    plain.load_state_dict(weights)
    plain.provenance, plain.preview_map = start.provenance, start.preview_map
    return plain


def with_classes(start: NVG, classes: tuple[str, ...]) -> NVG:
    """A model with other classes: those that it had before keep what was learned, new ones start from their mean."""
    assert start.config.generator is not None
    generator = dataclasses.replace(start.config.generator, num_classes=len(classes))
    nvg = NVG(dataclasses.replace(start.config, generator=generator), classes, start.settings)
    weights = start.state_dict()
    for name in ("content.class_embedding.weight", "structure.class_embedding.weight"):
        old = weights[name]
        rows = [old[start.classes.index(one)] if one in start.classes else old[:-1].mean(0) for one in classes]
        weights[name] = torch.stack([*rows, old[-1]])  # the null class is the last
    nvg.load_state_dict(weights)
    nvg.tokenizer.requires_grad_(False).eval()
    return nvg


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


def resized(start: NVG, settings: GeneratorRecipe) -> NVG:
    """The model with as many blocks as a training asks for; with more of them it computes what `start` does.

    More: the blocks are repeated in order, the last ones first where there are not enough new ones for all, and every
    copy adds nothing to what it gets until it is trained. Fewer: evenly chosen ones, the first and the last among them.
    """
    old = start.config.generator
    assert old is not None
    new = with_depths(old, settings)
    if new == old:
        return start
    changed = NVG(dataclasses.replace(start.config, generator=new), start.classes, start.settings)
    outside = {name: value for name, value in start.state_dict().items() if ".blocks." not in name}
    changed.load_state_dict(outside, strict=False)
    for network in ("content", "structure"):
        _copy_blocks(getattr(start, network).transformer, getattr(changed, network).transformer)
    return changed


def _copy_blocks(start: Transformer, changed: Transformer) -> None:
    """Copies the blocks of a network into one that has more of them, or fewer."""
    had, wanted = len(start.blocks), len(changed.blocks)
    before = None
    for index, block in enumerate(changed.blocks):
        if wanted < had:
            source = round(index * (had - 1) / (wanted - 1)) if wanted > 1 else had - 1
        else:
            source = had - 1 - (wanted - 1 - index) * had // wanted
        weights = start.blocks[source].state_dict()
        if source == before:
            silent = ("linear_out.weight", "linear_out.bias")
            weights |= {name: torch.zeros_like(weights[name]) for name in silent}
        block.load_state_dict(weights)
        before = source


ADAPTED = ("linear_in", "linear_out", "modulation")
"""The matrices of a block that are adapted."""


class LowRank(nn.Module):
    """Adds a product of two thin matrices to a weight [out,in]; at the start it adds nothing."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, weight.shape[1]) / math.sqrt(weight.shape[1]))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight."""
        return torch.addmm(weight, self.up, self.down)


def adapt(module: nn.Module, rank: int) -> None:
    """Freezes `module` but for its class embeddings, and adds trained low-rank changes to the blocks' matrices."""
    trained = {name for name, one in module.named_parameters() if one.requires_grad}
    module.requires_grad_(False)
    for name, part in list(module.named_modules()):
        if name.rpartition(".")[2] in ADAPTED and ".blocks." in name and f"{name}.weight" in trained:
            parametrize.register_parametrization(part, "weight", LowRank(part.weight, rank).to(part.weight.device))
    for name, parameter in module.named_parameters():
        if name.endswith("class_embedding.weight") and name in trained:
            parameter.requires_grad_(True)


def plain_weights(state: dict[str, Tensor], average: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a module as it was before `adapt`, with the averages in and the changes added."""
    weights = state | average
    plain = {}
    for name, value in weights.items():
        if ".parametrizations." not in name:
            plain[name] = value
        elif name.endswith(".original"):
            parts = name.removesuffix("original") + "0."
            change = weights[f"{parts}up"] @ weights[f"{parts}down"]
            plain[name.removesuffix(".original").replace(".parametrizations.", ".")] = value + change
    return plain


def as_released(nvg: NVG) -> None:
    """Both generators: Xavier-uniform matrices, zero biases, embeddings normal 0.02, a standard normal start canvas."""
    for network in (nvg.content, nvg.structure):
        xavier(network)
    nn.init.normal_(nvg.content.start_canvas)


def xavier(module: nn.Module) -> None:
    """Linear layers and embeddings of a module; everything else stays as it is."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)


WIDENING_NOISE = 0.05
"""Deviation of the noise, as a share of the weights' own."""


def widened(weights: dict[str, Tensor], decoder: Decoder, groups: int) -> dict[str, Tensor] | None:
    """Weights for `decoder` of a smaller one's; None where that has other blocks, or more channels somewhere.

    Args:
        groups: of the normalisation; the same in both.
    """
    wanted = decoder.state_dict()
    if weights.keys() != wanted.keys() or any(
        weights[name].shape[axis] > value.shape[axis] for name, value in wanted.items() for axis in range(value.ndim)
    ):
        return None
    if all(weights[name].shape == value.shape for name, value in wanted.items()):
        return weights
    generator = torch.Generator().manual_seed(0)
    result = {}
    for name, value in wanted.items():
        old = weights[name].float()
        if name.startswith("head.2."):
            result[name] = _widened_head(old, value, decoder, groups)
            continue
        rows = _channel_copies(len(old), len(value), groups)
        new = old[rows]
        if new.ndim == 4:
            if not name.startswith("stem."):
                new = _shared_input(new, value.shape[1], groups)
            if new.shape[1:] != old.shape[1:] or len(new) != len(old):
                new = new + WIDENING_NOISE * new.std() * torch.randn(new.shape, generator=generator)
        result[name] = new
    return result


def _channel_copies(old: int, new: int, groups: int) -> Tensor:
    """For each of the `new` channels, the `old` one that it copies: long [new], group by group."""
    group = torch.arange(groups)[:, None] * (old // groups)
    return (group + torch.arange(new // groups) % (old // groups)).flatten()


def _shared_input(weight: Tensor, channels: int, groups: int) -> Tensor:
    """The weight [O,I,k,k] of a convolution that reads copied channels. Copies share the original's weight."""
    columns = _channel_copies(weight.shape[1], channels, groups)
    count = torch.bincount(columns, minlength=weight.shape[1])
    return weight[:, columns] / count[columns][None, :, None, None]


def _widened_head(old: Tensor, wanted: Tensor, decoder: Decoder, groups: int) -> Tensor:
    """The last convolution: every colour for all pixels of a position alike; an opacity of one half."""
    pixels = decoder.scale**2
    before, after = len(old), len(wanted) // pixels
    new = torch.zeros(after, *old.shape[1:])
    new[: min(before, after)] = old[: min(before, after)]
    if new.ndim == 4:
        new = _shared_input(new, wanted.shape[1], groups)
    return new.repeat_interleave(pixels, dim=0)
