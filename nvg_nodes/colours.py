"""A structure that follows areas of several colours: pure functions, as those of layout.py.

Shapes: n areas, what is in none of them among these; N clusters, L = h*w positions; pictures of areas are [H,W].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model import NVGError, hierarchy
from nvg_model.areas import distance_to, fine_unit
from nvg_nodes import layout


@dataclass(frozen=True, eq=False)
class Colours:
    """Where the colours are on a grid, in the order of the legend, what is free first."""

    shares: Tensor
    """float [n,L]: the part of every position that an area has; above 0 somewhere for each."""
    distances: Tensor
    """float [n,H,W]: of every fine pixel to the nearest one of the area; 0 inside."""
    unit: int
    """Fine pixels along a position."""

    def score(self, lower: Sequence[int], upper: Sequence[int]) -> Tensor:
        """Ranks positions float [L] from deep inside the lower areas to deep inside the upper ones."""
        difference = self.distances[list(lower)].amin(0) - self.distances[list(upper)].amin(0)
        return F.avg_pool2d(difference[None, None], self.unit).flatten()


def areas_of(masks: Sequence[Tensor], grid: tuple[int, int]) -> Colours:
    """The areas of masks [H,W] that do not overlap, and what is free of them. Raises NVGError where one has all."""
    unit = fine_unit(grid)
    size = grid[0] * unit, grid[1] * unit
    fine = torch.cat([layout.resize(mask[None, None], size, "stretch", "area")[0] for mask in masks])
    # What is free comes last here, so that at half a pixel each the painted one wins, as of a single mask.
    owner = (torch.cat([fine, 1 - fine.sum(0, keepdim=True)]).argmax(0) + 1) % (len(masks) + 1)
    inside = torch.stack([owner == index for index in owner.unique()])
    if len(inside) == 1:
        raise NVGError("one colour covers everything, so it has no outline; leave some of the picture free of it")
    shares = F.avg_pool2d(inside[None].float(), unit).flatten(2)[0]
    return Colours(shares, torch.stack([distance_to(one) for one in inside]), unit)


def grow(areas: Colours, labels: Tensor, stages: int) -> Tensor:
    """Adds stages to the structure of one picture, so that its splits follow the areas.

    A cluster of several areas is split between two that follow each other in the legend, where both sides come nearest
    to half of it; one of a single area, by the depth inside. The smaller side grows along lines of equal distance.

    Args:
        labels: long [S,L], the stages so far.
        stages: of the result; 0: until no cluster is to be split between areas.
    Returns:
        long [stages,L].
    """
    grown = list(labels)
    everything = range(len(areas.shares))
    held = [
        [one for one in everything if areas.shares[one, grown[-1] == cluster].sum() > 0]
        for cluster in range(2 ** (len(grown) - 1))
    ]
    most = stages or hierarchy.num_splits(labels.shape[1]) + 1
    while len(grown) < most and (stages or len(grown) == len(labels) or any(len(one) > 1 for one in held)):
        score, held = _next(areas, grown[-1], held)
        grown.append(hierarchy.split(grown[-1][None], score[None])[0])
    return torch.stack(grown)


def _next(areas: Colours, labels: Tensor, held: list[list[int]]) -> tuple[Tensor, list[list[int]]]:
    """The score float [L] of the next split, and the areas of its clusters."""
    score = torch.zeros(labels.shape)
    children: list[list[int]] = []
    for cluster, own in enumerate(held):
        here = labels == cluster
        if len(own) > 1:
            cut = _cut(areas.shares[own][:, here].sum(1))
            lower, upper = own[:cut], own[cut:]
            children += [lower, upper]
        else:
            others = [one for one in range(len(areas.shares)) if one not in own]
            lower, upper = (own, others) if own == [0] else (others, own)  # with one colour: as of a map
            children += [own, own]
        score[here] = areas.score(lower, upper)[here]
    return score, children


def _cut(sizes: Tensor) -> int:
    """After how many of the sizes [n] their sum is nearest to half of the whole; n >= 2."""
    return int((sizes.cumsum(0) - sizes.sum() / 2).abs()[:-1].argmin()) + 1
