"""Batches of the tokenizer's training.

Shapes: images [B,3,H,W] in [-1,1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.augmentation import draw_balanced, draw_epochs, draw_views, stream
from training.data.dataset import ImageDataset
from training.distributed import Shard
from training.losses import diffaug
from training.recipes.base import Recipe, TokenizerRecipe


@dataclass
class Batch:
    """A share of a step's images."""

    images: Tensor
    """float [B,3,H,W] in [-1,1]."""
    names: tuple[str, ...]
    augmentation: Tensor
    """Random numbers [B,3,7] for what the discriminator sees: the output in the autoencoder's turn, real, output."""
    places: Tensor
    """Random numbers [B,3,3] for where the discriminator looks, in the same three turns."""
    opacity: Tensor | None = None
    """float [B,H,W] in [0,1] of the pictures within their views; what is opaque is the subject."""
    output: Tensor | None = None
    """What the autoencoder made of them in this step, for the discriminator's turn."""


@dataclass(frozen=True)
class Source:
    """Where the batches come from."""

    dataset: ImageDataset
    recipe: Recipe
    settings: TokenizerRecipe

    def draw(self, step: int, shard: Shard) -> Batch:
        """This shard of a step's batch; a pure function."""
        dataset, size, seed = self.dataset, self.settings.batch, self.recipe.seed
        generator = stream(seed, step * size)
        if self.settings.order == "epochs":
            index = draw_epochs(len(dataset), step * size, size, seed)
        else:
            index = draw_balanced(dataset.labels, len(dataset.classes), size, generator)
        views = draw_views(dataset, index, self.recipe.views, generator, shard.slice(size))
        augmentation = diffaug.draw(3 * size, generator).unflatten(0, (size, 3))
        places = torch.rand(size, 3, 3, generator=generator)
        return Batch(
            images=views.images,
            names=tuple(dataset.names[int(one)] for one in shard.of(index)),
            augmentation=shard.of(augmentation),
            places=shard.of(places),
            opacity=views.opacity,
        )
