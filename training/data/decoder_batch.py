"""Batches of the decoder's training: canvases from a cache, and what the decoder should make of them.

Shapes: B images, C channels of the latent, L positions, H W pixels of the decoder's pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nvg_model.model import NVG
from training.data.augmentation import stream
from training.data.cache import CHUNK
from training.data.canvases import CanvasCache, load_or_generate, load_or_make
from training.data.dataset import ImageDataset
from training.distributed import Shard
from training.errors import TrainingError
from training.losses import diffaug
from training.recipes.base import DecoderRecipe, Recipe


@dataclass
class Batch:
    """A share of a step's images."""

    canvas: Tensor
    """float [B,L,C]."""
    pixels: Tensor
    """float [B,4,H,W] in [0,1], premultiplied: what the decoder should make of them."""
    own_background: Tensor
    """float [B,3] in [0,1]: the one that the encoder saw."""
    background: Tensor
    """float [B,3] in [0,1]: the one that opacity is looked at on."""
    augmentation: Tensor
    """Random numbers [B,5,7] for what the discriminator sees: real; the views and the generated, in both turns."""
    names: tuple[str, ...]
    generated: Tensor | None = None
    """float [b,L,C], b <= B: canvases of generated pictures, which need only look real."""
    real: Tensor | None = None
    """What the discriminator sees as real, [B,3,H,W]."""
    made: Tensor | None = None
    """What the decoder made, [B+b,3,H,W], for the discriminator's turn."""


@dataclass(frozen=True)
class Source:
    """Where the batches come from."""

    cache: CanvasCache
    generated: Tensor | None
    """float16 [G,L,C]: canvases of generated pictures."""
    settings: DecoderRecipe
    seed: int

    @classmethod
    def make(cls, before: NVG, dataset: ImageDataset, recipe: Recipe, settings: DecoderRecipe, folder: Path) -> Source:
        """Makes the canvases in `folder` first. Raises TrainingError where some must be generated and cannot."""
        if (settings.drawn or settings.generated) and before.config.generator is None:
            raise TrainingError(
                "drawn and generated canvases need generators; give a checkpoint that has them: --start-from"
            )
        if CHUNK % settings.batch:
            raise TrainingError(
                f"the batch is {settings.batch}; {CHUNK} views are drawn together, so give 8, 16, 32 or {CHUNK}"
            )
        drawn = settings.drawn > 0
        path = folder / "canvases.safetensors"
        cache = load_or_make(path, before, dataset, recipe.views, settings.cached_views, recipe.seed, drawn)
        made = None
        if settings.generated:
            made = load_or_generate(folder / "generated.safetensors", before, settings.generated, recipe.seed)
        return cls(cache, made, settings, recipe.seed)

    def draw(self, step: int, shard: Shard) -> Batch:
        """A share of a step's batch; a pure function. Every view comes once in a pass over the cache."""
        settings, cache = self.settings, self.cache
        parts = cache.parts(settings.batch)
        order = torch.randperm(parts, generator=stream(self.seed, 21, step // parts))
        canvases, pixels, own, index = cache.part(int(order[step % parts]), settings.batch)
        generator = stream(self.seed, 22, step)
        count = len(index)
        drawn = (torch.rand(count, generator=generator) < settings.drawn).long()
        colours = torch.rand(count, 3, generator=generator)
        white = torch.rand(count, 1, generator=generator) < 0.5
        augmentation = diffaug.draw(5 * count, generator).unflatten(0, (count, 5))
        canvas = canvases[torch.arange(count), drawn]
        background = torch.where(white, 1.0, colours)
        names = tuple(cache.dataset.names[int(one)] for one in shard.of(index))
        generated = None
        if self.generated is not None and step >= settings.adversarial_start:
            chosen = torch.randint(len(self.generated), (count // 2,), generator=generator)
            generated = self.generated[shard.of(chosen)].float()
        return Batch(
            shard.of(canvas), shard.of(pixels), shard.of(own), shard.of(background), shard.of(augmentation), names,
            generated,
        )  # fmt: skip
