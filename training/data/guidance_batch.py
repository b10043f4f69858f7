"""Batches of the conversion to guidance inside: the generators' batches, and guidance scales.

Shapes: B images, n content stages of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.augmentation import stream
from training.data.generator_batch import Batch
from training.distributed import Shard
from training.recipes.base import GuidanceRecipe


@dataclass(frozen=True)
class GuidanceBatch:
    """A share of a step's images, with the scales of their rows."""

    images: Batch
    guidance: Tensor
    """float [B,n]: scales from 1 to the largest."""

    @property
    def names(self) -> tuple[str, ...]:
        """The files in it."""
        return self.images.names


def draw(images: Batch, step: int, shard: Shard, settings: GuidanceRecipe, seed: int) -> GuidanceBatch:
    """Adds the scales of a step, drawn for the whole step so that shares fit together."""
    rows = (settings.batch, images.content_stages.shape[1])
    scales = 1 + (settings.largest_guidance - 1) * torch.rand(rows, generator=stream(seed, 7, step))
    return GuidanceBatch(images, shard.of(scales))
