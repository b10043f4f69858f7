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
from nvg_model.areas import TOLERANCE, distance_to, fine_unit
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
        """Ranks positions float [L] from deep inside the lower areas to deep inside the upper areas."""
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


def nest(areas: Colours, labels: Tensor, stages: int) -> Tensor:
    """Adds stages to the structure of one picture, until every area is whole regions of about its own size.

    Every cluster's share of an area is rounded to a number of equal parts, and the positions are taken by distance to
    its outline. Then all splits follow one order: area by area as in the legend, inside of one from its lower
    neighbours to its upper ones. With one colour that is `nvg_model.areas`.

    Args:
        labels: long [S,L], the stages so far.
        stages: of the result; 0: as many as that takes.
    Returns:
        long [stages,L].
    """
    order, splits = torch.zeros(labels.shape[1]), 1
    for cluster in range(2 ** (len(labels) - 1)):
        here = labels[-1] == cluster
        depth, sizes = _sizes(areas.shares[:, here].sum(1))
        order[here] = _order(areas, here, sizes)
        splits = max(splits, depth)
    most = hierarchy.num_splits(labels.shape[1]) + 1
    return layout.grow(labels[None], [order[None]], stages or min(len(labels) + splits, most))[0]


def _sizes(wanted: Tensor) -> tuple[int, list[int]]:
    """After how many splits of a cluster its areas [n] are whole regions, and their positions then; 0 of what it lacks.

    The first area has what the others leave.
    """
    positions = round(float(wanted.sum()))
    present = (wanted > 0).nonzero().flatten().tolist()
    sizes, depth = [0] * len(wanted), 0
    sizes[int(wanted.argmax())] = positions
    for depth in range(1, hierarchy.num_splits(positions) + 1) if len(present) > 1 else ():
        unit = positions >> depth
        if 2**depth < len(present):
            continue
        sizes = [max(1, round(float(one) / unit)) if index in present[1:] else 0 for index, one in enumerate(wanted)]
        while sum(sizes) >= 2**depth:
            sizes[sizes.index(max(sizes))] -= 1
        sizes[present[0]] = 2**depth - sum(sizes)
        sizes = [size * unit for size in sizes]
        room = [TOLERANCE * min(float(one), positions - float(one)) for one in wanted]
        if all(abs(sizes[index] - float(wanted[index])) <= room[index] for index in present):
            break
    return depth, sizes


def _order(areas: Colours, here: Tensor, sizes: list[int]) -> Tensor:
    """Ranks the positions of a cluster, bool [L], area by area: float [positions]."""
    everything = range(len(areas.shares))
    owner = areas.shares.argmax(0)
    first = next(index for index, size in enumerate(sizes) if size)
    area = torch.full(owner.shape, first)
    free = here.clone()
    for index in reversed([one for one in everything if sizes[one] and one != first]):
        depth = areas.score([index], [one for one in everything if one != index])
        others = free & (owner != index) & (owner != first)  # theirs only where nothing else is left
        key = torch.where(free, -depth - 1e6 * others, -torch.inf)
        taken = torch.sort(key, descending=True, stable=True).indices[: sizes[index]]
        area[taken], free[taken] = index, False
    ranks = torch.zeros(owner.shape)
    for index in everything:
        lower, upper = everything[:index], everything[index + 1 :]
        score = areas.score(lower or [index], upper or [index])
        ranks = torch.where(area == index, score, ranks)
    return layout.then(area[here].float(), ranks[here])
