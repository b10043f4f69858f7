"""Batches of the conversions: the generators' batches with guidance scales and, for few steps, spans of time.

Shapes: B images, n content stages or splits of an image, P spans of a row, T steps of the teacher's run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.augmentation import stream
from training.data.generator_batch import Batch
from training.distributed import Shard
from training.recipes.base import ConversionRecipe, FewStepRecipe, GuidanceRecipe


@dataclass(frozen=True)
class _ConversionBatch:
    """A share of a step's images, with the scales of their rows."""

    images: Batch
    guidance: Tensor
    """float [B,n]: scales from 1 to the largest."""

    @property
    def names(self) -> tuple[str, ...]:
        """The files in it."""
        return self.images.names


@dataclass(frozen=True)
class GuidanceBatch(_ConversionBatch):
    """Of the conversion to guidance inside. (No base of the other: each takes fields of its own.)"""


@dataclass(frozen=True)
class FewStepBatch(_ConversionBatch):
    """Of the conversion to few steps, with all other random choices of the step."""

    spans: Tensor
    """float [B,n,2]: t and r <= t of each row, for meanflow and shortcut."""
    jitter: Tensor
    """float [B,n,T-1] in [0,1): where the inner times of the teacher's run lie between their neighbours."""
    parts: Tensor
    """long [B,n,P,2]: first and last index, in the times of the teacher's run, of the spans that are learned."""


def draw_guidance(images: Batch, step: int, shard: Shard, settings: GuidanceRecipe, seed: int) -> GuidanceBatch:
    """Adds the scales of a step, drawn for the whole step so that shares fit together."""
    scales = draw_scales(images.content_stages, settings, stream(seed, 7, step))
    return GuidanceBatch(images, shard.of(scales))


def draw_few_step(images: Batch, step: int, shard: Shard, settings: FewStepRecipe, seed: int) -> FewStepBatch:
    """Adds the random choices of a step, drawn for the whole step so that shares fit together."""
    generator = stream(seed, 6, step)
    guidance = draw_scales(images.structure_stages, settings, generator)
    drawn = (
        guidance,
        draw_spans(guidance.shape, generator),
        torch.rand(*guidance.shape, settings.teacher_steps - 1, generator=generator),
        draw_parts((*guidance.shape, settings.spans), settings.teacher_steps, generator),
    )
    return FewStepBatch(images, *(shard.of(one) for one in drawn))


def draw_scales(stages: Tensor, settings: ConversionRecipe, generator: torch.Generator) -> Tensor:
    """Guidance scales of the whole step, one for each of the stages [.,n] that an image is trained at."""
    rows = (settings.batch, stages.shape[1])
    return 1 + (settings.largest_guidance - 1) * torch.rand(rows, generator=generator)


def draw_spans(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """t and r [...,2], two uniform times in order; a quarter each has t = 1, r = 0, and r = t, the flow itself."""
    r, t = torch.rand(2, *shape, generator=generator).sort(dim=0).values
    start, end, same = torch.rand(3, *shape, generator=generator) < 0.25
    t, r = torch.where(start, 1.0, t), torch.where(end, 0.0, r)
    return torch.stack([t, torch.where(same, t, r)], dim=-1)


def draw_parts(shape: tuple[int, ...], steps: int, generator: torch.Generator) -> Tensor:
    """First and last index of spans over n times: long [...,2]. Spans of n, n/2, n/4 ... 1 are equally likely."""
    lengths = torch.tensor([steps >> halvings for halvings in range(steps.bit_length())])
    length = lengths[torch.randint(len(lengths), shape, generator=generator)]
    first = (torch.rand(shape, generator=generator) * (steps - length + 1)).long()
    return torch.stack([first, first + length], dim=-1)
