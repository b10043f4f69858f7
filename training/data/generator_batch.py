"""Batches of the generators' training: all stages of images, from cached tokens or from the images themselves.

Shapes: B images, S = K+1 stages, L positions, C latent channels, R rows (one per image and stage trained in a step).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nvg_model import hierarchy
from nvg_model.config import NVGConfig
from nvg_model.model import NVG
from nvg_model.tokenizer import Tokenizer
from training.data.augmentation import draw_balanced, draw_epochs, draw_views, stream
from training.data.cache import TokenCache, load_or_make
from training.data.dataset import ImageDataset
from training.distributed import Shard, World
from training.errors import TrainingError
from training.recipes.base import GeneratorRecipe, Recipe
from training.run_folder import CACHE, Identity, alone_in, claim

VIEWS_EACH, MOST_VIEWS = 32, 24_000  # that are cached of a picture, and of a set, unless a recipe says otherwise


@dataclass(frozen=True)
class Batch:
    """A share of a step's images, with all the random choices of the step."""

    classes: Tensor
    """long [B], some of them dropped to the null class."""
    content_stages: Tensor
    """long [B,n]: the stages of the content generator that are trained. Stays on the CPU, where reading it is free."""
    structure_stages: Tensor
    """long [B,m]: the splits of the structure generator that are trained."""
    noise: Tensor
    """float [B,L,K], one for all splits of an image."""
    times: Tensor
    """float [B,m] in (0, 1)."""
    finest: Tensor | None = None
    """long [B,L]: labels of the last stage, from the cache; None when the images are tokenized in the step."""
    codes: tuple[Tensor, ...] = ()
    """long [B,2^i] of each stage, from the cache."""
    images: Tensor | None = None
    """float [B,3,H,W] in [-1,1]."""
    canvas_noise: Tensor | None = None
    """float [B,L,C], for a content generator that sees noised canvases."""
    wrong: Tensor | None = None
    """bool [B,2^S-1]: the tokens, of all stages one after the other, that are exchanged for wrong ones."""
    start: Tensor | None = None
    """long [B]: the stage from which on the content generator draws the tokens of what is seen itself. Stays on the
    CPU, as `content_stages`."""
    chance: Tensor | None = None
    """float [B,2^S-1] in [0,1): which tokens it draws."""
    names: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The batch with its tensors there. What is read to choose rows stays on the CPU."""

        def moved(value: object) -> object:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            return tuple(moved(one) for one in value) if isinstance(value, tuple) else value

        stay = {"content_stages": self.content_stages, "start": self.start}
        there = {one.name: moved(getattr(self, one.name)) for one in dataclasses.fields(self) if one.name not in stay}
        return Batch(**stay, **there)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Source:
    """Where the batches of a generator's training come from: cached tokens, or images."""

    settings: GeneratorRecipe
    recipe: Recipe
    config: NVGConfig
    dataset: ImageDataset
    cache: TokenCache | None

    @classmethod
    def make(
        cls, recipe: Recipe, nvg: NVG, dataset: ImageDataset, folder: Path, world: World, identity: Identity
    ) -> Source:
        """Makes the cache in `folder`, if it is wanted. Raises TrainingError where the cache there is of other data."""
        settings, cache = recipe.generator, None
        views = number_of_views(settings, len(dataset))
        if views:
            if settings.repa_weight:
                raise TrainingError(
                    "REPA needs the images, which a token cache does not hold; train with --cached-views 0"
                )
            claim(folder, identity, world, cache_only=True)
            with alone_in(folder, world, ".cache.lock"):
                cache = load_or_make(
                    folder / CACHE,
                    nvg.tokenizer,
                    dataset,
                    recipe.views,
                    views,
                    recipe.seed,
                    rank=world.rank,
                    world=world.size,
                    wait=world.wait,
                    workers=settings.workers,
                )
        return cls(settings, recipe, nvg.config, dataset, cache)

    def draw(self, step: int, shard: Shard) -> Batch:
        """This share of a step; everything random is drawn for the whole step, so that shares fit together."""
        settings, config = self.settings, self.config
        generator = stream(self.recipe.seed, 2, step * settings.batch)
        index = self._index(step, generator)
        dropped = torch.rand(settings.batch, generator=generator) < settings.label_dropout
        content = draw_stages(
            settings.batch, config.splits + 1, settings.content_stages, generator, settings.content_stage_odds
        )
        structure = draw_stages(
            settings.batch, config.splits - 1, settings.structure_stages, generator, settings.structure_stage_odds
        )
        noise = torch.randn(settings.batch, config.positions, config.splits, generator=generator)
        mean, deviation = settings.time_logit
        times = (mean + deviation * torch.randn(structure.shape, generator=generator)).sigmoid()
        canvas_noise = None
        if config.generator is not None and config.generator.content_input != "canvas":
            shape = settings.batch, config.positions, config.autoencoder.latent_channels
            canvas_noise = shard.of(torch.randn(shape, generator=generator))
        mistakes = self._mistakes(generator, shard)
        what = self._images(index, generator, shard) if self.cache is None else self._tokens(shard.of(index))
        classes = what.pop("classes")
        return Batch(
            classes=torch.where(shard.of(dropped), len(self.dataset.classes), classes),
            content_stages=shard.of(content),
            structure_stages=shard.of(structure),
            noise=shard.of(noise),
            canvas_noise=canvas_noise,
            times=shard.of(times),
            **mistakes,
            **what,
        )

    def _mistakes(self, generator: torch.Generator, shard: Shard) -> dict[str, Any]:
        """Which tokens of this shard are exchanged, and which the content generator draws, where a recipe has it so."""
        settings, splits = self.settings, self.config.splits
        batch, tokens, drawn = settings.batch, 2 ** (splits + 1) - 1, {}
        if settings.token_noise:
            rate = settings.token_noise * torch.rand(batch, 1, generator=generator)
            drawn["wrong"] = torch.rand(batch, tokens, generator=generator) < rate
        if settings.own_tokens:
            own = torch.rand(batch, generator=generator) < settings.own_tokens
            late = torch.randint(splits // 2, splits, (batch,), generator=generator)
            drawn["start"] = torch.where(own, late, splits)
            drawn["chance"] = torch.rand(batch, tokens, generator=generator)
        return {name: shard.of(one) for name, one in drawn.items()}

    def _index(self, step: int, generator: torch.Generator) -> Tensor:
        """Of the step's views in the cache, or of its pictures."""
        if self.settings.order == "epochs":
            total = len(self.dataset if self.cache is None else self.cache)
            return draw_epochs(total, step * self.settings.batch, self.settings.batch, self.recipe.seed)
        if self.cache is not None:
            return torch.randint(len(self.cache), (self.settings.batch,), generator=generator)
        return draw_balanced(self.dataset.labels, len(self.dataset.classes), self.settings.batch, generator)

    def _tokens(self, index: Tensor) -> dict[str, Any]:
        assert self.cache is not None
        return {
            "classes": self.cache.classes[index].long(),
            "finest": self.cache.finest[index].long(),
            "codes": tuple(self.cache.codes(index, stage) for stage in range(self.config.splits + 1)),
            "names": tuple(self.cache.name(int(one)) for one in index),
        }

    def _images(self, index: Tensor, generator: torch.Generator, shard: Shard) -> dict[str, Any]:
        own = shard.of(index)
        return {
            "classes": self.dataset.labels[own],
            "images": draw_views(self.dataset, index, self.recipe.views, generator, shard.slice(len(index))).images,
            "names": tuple(self.dataset.names[int(one)] for one in own),
        }


def number_of_views(settings: GeneratorRecipe, pictures: int) -> int:
    """How many views are cached of this many pictures. Raises TrainingError: a negative number was asked for."""
    if settings.cached_views is None:
        return max(pictures, min(VIEWS_EACH * pictures, MOST_VIEWS))
    if settings.cached_views < 0:
        raise TrainingError(
            f"--cached-views {settings.cached_views} is no number of views; give 0 for no cache, or leave it out"
        )
    return settings.cached_views


def draw_stages(
    batch: int, stages: int, count: int, generator: torch.Generator, odds: tuple[float, ...] = ()
) -> Tensor:
    """`count` different stages of every image: long [B,n].

    Args:
        odds: how likely each of the `stages` is drawn first, relative to the others; empty: all alike.
    Raises:
        TrainingError: not as many odds as stages, or one that is not positive.
    """
    if odds and (len(odds) != stages or min(odds) <= 0):
        raise TrainingError(f"{len(odds)} stage odds {odds} for {stages} stages; give one positive number for each")
    # The smallest of exponential times with these rates: drawing without replacement.
    times = -torch.rand(batch, stages, generator=generator).log() / torch.tensor(odds or (1.0,))
    return times.argsort(dim=1)[:, : min(count, stages)]


@dataclass(frozen=True)
class Stages:
    """All stages of B images, for teacher forcing."""

    structure: Tensor
    """long [B,S,L]."""
    canvases: Tensor
    """float [B,S,L,C], after each stage."""
    codes: tuple[Tensor, ...]
    """long [B,2^i] of each stage."""


@torch.no_grad()
def assemble(batch: Batch, tokenizer: Tokenizer) -> Stages:
    """Structure, canvases and codes of a batch, from its cached tokens or its images."""
    if batch.finest is None:
        assert batch.images is not None
        sequence = tokenizer.tokenize(batch.images)
        codes = tuple(sequence.cluster_tokens(stage) for stage in range(sequence.num_stages))
        return Stages(sequence.structure, sequence.canvases, codes)
    structure, quantizer = hierarchy.all_stages(batch.finest), tokenizer.quantizer
    canvas = torch.zeros(*structure.shape[::2], quantizer.channels, device=structure.device)
    canvases = []
    for stage, code in enumerate(batch.codes):
        canvas = quantizer.add_stage(canvas, code, structure[:, stage], stage)
        canvases.append(canvas)
    return Stages(structure, torch.stack(canvases, 1), batch.codes)


def rows_of(stages: Tensor) -> tuple[Tensor, Tensor]:
    """(image [R], stage [R]) of stages [B,n]."""
    images = torch.arange(len(stages), device=stages.device)
    return images.repeat_interleave(stages.shape[1]), stages.flatten()


@dataclass(frozen=True)
class ContentRows:
    """Inputs of the content generator, each with R in front, and where they are from."""

    canvas: Tensor
    """float [R,L,C], before the stage."""
    labels: Tensor
    classes: Tensor
    stage: Tensor
    noise: Tensor | None
    image: Tensor
    """long [R]: their places in the batch."""
    own_stage: Tensor
    """`stage` on the CPU, where reading it is free."""

    @classmethod
    def of(cls, batch: Batch, stages: Stages) -> ContentRows:
        """A row for every image and each of its content stages."""
        device, (own_image, own_stage) = stages.canvases.device, rows_of(batch.content_stages)  # the latter on the CPU
        image, stage = own_image.to(device, non_blocking=True), own_stage.to(device, non_blocking=True)
        before = torch.where(stage[:, None, None] > 0, stages.canvases[image, stage - 1], 0.0)
        noise = None if batch.canvas_noise is None else batch.canvas_noise[image]
        return cls(before, stages.structure[image, stage], batch.classes[image], stage, noise, image, own_stage)


def stage_weights(stage: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Weight [R] of every row; the mean over all stages is 1."""
    if not weights:
        return torch.ones(len(stage), device=stage.device)
    table = torch.tensor(weights, dtype=torch.float32).to(stage.device, non_blocking=True)
    return (table / table.mean())[stage]
