"""Batches of the conversion to few steps: the generators' batches, and spans of time.

Shapes: B images, m splits of an image, P spans of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.augmentation import stream
from training.data.generator_batch import Batch
from training.distributed import Shard
from training.recipes.base import FewStepRecipe

# ------------------------------------------------------------------------------------------------------- the batch


@dataclass(frozen=True)
class FewStepBatch:
    """A share of a step's images, with all the random choices of the step."""

    images: Batch
    guidance: Tensor
    """float [B,m]: scales from 1 to the largest."""
    spans: Tensor
    """float [B,m,2]: t and r <= t of each row, for meanflow and shortcut."""
    jitter: Tensor
    """float [B,m,n-1] in [0,1): where the inner times of the teacher's run lie between their neighbours."""
    parts: Tensor
    """long [B,m,P,2]: first and last index, in the times of the teacher's run, of the spans that are learned."""

    @property
    def names(self) -> tuple[str, ...]:
        """The files in it."""
        return self.images.names


def draw(images: Batch, step: int, shard: Shard, settings: FewStepRecipe, seed: int) -> FewStepBatch:
    """Adds the random choices of a step, drawn for the whole step so that shares fit together."""
    generator = stream(seed, 6, step)
    rows = (settings.batch, images.structure_stages.shape[1])
    guidance = 1 + (settings.largest_guidance - 1) * torch.rand(rows, generator=generator)
    drawn = (
        guidance,
        draw_spans(rows, generator),
        torch.rand(*rows, settings.teacher_steps - 1, generator=generator),
        draw_parts((*rows, settings.spans), settings.teacher_steps, generator),
    )
    return FewStepBatch(images, *(shard.of(one) for one in drawn))


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
