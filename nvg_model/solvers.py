"""Solvers of the structure flow, and its time grid (paper section 2.2).

Shapes: B batch, L positions, K splits, n time steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor


def time_grid(steps: int, positions: int) -> Tensor:
    """Times from 1 to 0, float32 [n+1]: t' = e^mu / (e^mu + 1/t - 1).

    mu is linear in L, from 0.5 at 256 positions to 1.15 at 4096.
    """
    mu = 0.5 + (1.15 - 0.5) * (positions - 256) / (4096 - 256)
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    shifted = math.exp(mu) / (math.exp(mu) + 1 / t.clamp(min=1e-12) - 1)
    shifted[-1] = 0
    return shifted.float()


Velocity = Callable[[Tensor, int], Tensor]
"""(state [B,L,K], index into the time grid) -> velocity [B,L,K]."""
Times = Sequence[float | Tensor]
"""From 1 to 0: numbers, or [B,1,1] where every item has times of its own."""


def euler(velocity: Velocity, z: Tensor, times: Times, project: Callable[[Tensor], Tensor]) -> Tensor:
    """First order, one evaluation a step. `project` resets the known channels after every step."""
    for index, (now, then) in enumerate(pairwise(times)):
        z = project(z + (then - now) * velocity(z, index))
    return z


def heun(velocity: Velocity, z: Tensor, times: Times, project: Callable[[Tensor], Tensor]) -> Tensor:
    """Second order (the trapezoid rule), two evaluations a step."""
    for index, (now, then) in enumerate(pairwise(times)):
        first = velocity(z, index)
        guess = project(z + (then - now) * first)
        z = project(z + (then - now) * 0.5 * (first + velocity(guess, index + 1)))
    return z


def multistep(velocity: Velocity, z: Tensor, times: Times, project: Callable[[Tensor], Tensor]) -> Tensor:
    """Second order (Adams-Bashforth with the previous step's velocity), one evaluation a step."""
    previous: Tensor | None = None
    span: float | Tensor = 0.0
    for index, (now, then) in enumerate(pairwise(times)):
        current = velocity(z, index)
        step = then - now
        slope = current if previous is None else current + step / (2 * span) * (current - previous)
        z = project(z + step * slope)
        previous, span = current, step
    return z


SOLVERS: dict[str, Callable[[Velocity, Tensor, Times, Callable[[Tensor], Tensor]], Tensor]] = {
    "euler": euler,
    "heun": heun,
    "multistep": multistep,
}
"""Solvers by name; pure functions of (velocity, start, times, projection)."""


def evaluations(solver: str, steps: int) -> int:
    """How often a solver asks for the velocity in so many steps: counted, so it is right for every one in the table."""
    count = 0

    def velocity(z: Tensor, index: int) -> Tensor:
        nonlocal count
        count += 1
        return z

    SOLVERS[solver](velocity, torch.zeros(()), torch.linspace(1, 0, steps + 1).tolist(), lambda z: z)
    return count
