"""Noise: streams of the CPU keyed by (seed, item, use, stage), so that a seed means the same on every device, and an
item is the same alone or in a batch.

Shapes: B batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Use(IntEnum):
    """What a noise stream is for."""

    STRUCTURE = 0
    SPLIT = 1
    TOKEN = 2
    CANVAS = 3

    @property
    def is_normal(self) -> bool:
        """Whether it is normal noise; that of choices is Gumbel's."""
        return self in (Use.STRUCTURE, Use.CANVAS)


def stream(*keys: int) -> torch.Generator:
    """A CPU generator of its own for every tuple of keys."""
    low, high = np.random.SeedSequence([int(key) for key in keys]).generate_state(2, np.uint32).tolist()
    return torch.Generator().manual_seed(high << 32 | low)


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise."""
    return -torch.empty(shape).exponential_(generator=generator).log()


@dataclass(frozen=True)
class Noise:
    """All noise of a run."""

    seed: int = 0
    first_item: int = 0
    """Number of the first item: item b of the batch draws from (seed, first_item + b) alone."""
    shared: bool = False
    """Whether every item draws the noise of the first one: frames of one picture."""
    variation_seed: int = 0
    variation: float = 0.0
    """How far towards the noise of `variation_seed`, on the sphere: 0 is this seed, 1 is that one."""

    def draw(self, shape: tuple[int, ...], use: Use, stage: int, batch: int) -> Tensor:
        """Noise [B,*shape] for a use and stage, on the CPU."""
        if self.shared:
            return self._item(shape, use, stage, self.first_item).expand(batch, *shape)
        return torch.stack([self._item(shape, use, stage, self.first_item + item) for item in range(batch)])

    def _item(self, shape: tuple[int, ...], use: Use, stage: int, item: int) -> Tensor:
        draw = torch.randn if use.is_normal else gumbel_noise
        first, second = ((seed, item, use, stage) for seed in (self.seed, self.variation_seed))
        if self.variation in (0, 1):
            return draw(shape, generator=stream(*(second if self.variation else first)))
        start, end = draw(shape, generator=stream(*first)), draw(shape, generator=stream(*second))
        if use.is_normal:
            return between(start, end, self.variation)
        return normal_to_gumbel(between(gumbel_to_normal(start), gumbel_to_normal(end), self.variation))


def between(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Standard normal noise on the arc from one sample to another independent one, at a share of its length."""
    angle = share * math.pi / 2
    return math.cos(angle) * first + math.sin(angle) * second


def gumbel_to_normal(noise: Tensor) -> Tensor:
    """Standard normal values of the same rank as standard Gumbel ones, float64."""
    upper_tail = -torch.expm1(-torch.exp(-noise.double()))
    return -torch.special.ndtri(upper_tail)


def normal_to_gumbel(noise: Tensor) -> Tensor:
    """The inverse of `gumbel_to_normal`, float32."""
    return -torch.log(-torch.special.log_ndtr(noise.double())).float()
