"""Pictures that tile: the networks see a picture as it is and moved by half over its edges, and what they say of a
position counts the more, the farther it is from the edges of the view.

So a picture and the same one moved by half are drawn alike, and its edges like its middle.

Shapes: B batch, L = h*w positions, row-major.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class View:
    """A picture moved over its edges."""

    grid: tuple[int, int]
    """h, w."""
    steps: tuple[int, int]
    """Positions down and to the right."""
    weights: Tensor
    """float [L,1]: how much what is seen here counts, by the position of the unmoved picture."""

    def move(self, values: Tensor, axis: int = 1) -> Tensor:
        """What the view shows of values [...,L,...] of the picture."""
        return self._rolled(values, self.steps, axis)

    def back(self, values: Tensor, axis: int = 1) -> Tensor:
        """Values [...,L,...] of the picture, from those of the view."""
        return self._rolled(values, (-self.steps[0], -self.steps[1]), axis)

    def _rolled(self, values: Tensor, steps: tuple[int, int], axis: int) -> Tensor:
        return values.unflatten(axis, self.grid).roll(steps, (axis, axis + 1)).flatten(axis, axis + 1)


def views(grid: tuple[int, int]) -> tuple[View, ...]:
    """The picture as it is, and moved by half down and to the right; the weights sum to one everywhere."""
    height, width = half = grid[0] // 2, grid[1] // 2
    middle = _nearness(grid[0])[:, None] * _nearness(grid[1])
    moved = middle.roll((-height, -width), (0, 1))
    return tuple(
        View(grid, steps, (weights / (middle + moved)).flatten()[:, None])
        for steps, weights in (((0, 0), middle), (half, moved))
    )


def _nearness(side: int) -> Tensor:
    """Of positions [side] to the middle, in (0, 1]."""
    distance = torch.arange(side) + 0.5
    return torch.minimum(distance, side - distance) / (side / 2)


def mixed(grid: tuple[int, int], of_view: Callable[[View], Tensor]) -> Tensor:
    """The mean [B,L,...] over the views of a picture.

    Args:
        of_view: what networks say of a view, [B,L,...] in the order of its own positions.
    """
    plain, moved = views(grid)
    first, second = plain.back(of_view(plain)), moved.back(of_view(moved))
    return first * plain.weights.to(first) + second * moved.weights.to(second)
