"""Solvers of the structure flow: each is one function of a velocity at any time (paper section 2.2).

A new solver is a function here, named in `SOLVERS`: settings, nodes, command line and counts follow. Users read the
first line of its docstring. Torch is not imported, so that the command line can name them at once.

Shapes: B batch, L positions, K splits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Velocity = Callable[["Tensor", Any], "Tensor"]
"""(state [B,L,K], time) -> velocity [B,L,K]; the time as in `Times`, or any other."""
Times = Sequence["float | Tensor"]
"""From 1 to 0: numbers, or [B,1,1] where every item has times of its own."""
Project = Callable[["Tensor"], "Tensor"]
"""Puts the known channels of a state back; called after every change of it."""


def euler(velocity: Velocity, z: Tensor, times: Times, project: Project) -> Tensor:
    """The paper's.

    First order, one evaluation a step. Exact for a network of average velocities.
    """
    for now, then in pairwise(times):
        z = project(z + (then - now) * velocity(z, now))
    return z


def heun(velocity: Velocity, z: Tensor, times: Times, project: Project) -> Tensor:
    """Closer per step, twice the work.

    Second order (the trapezoid rule), two evaluations a step.
    """
    for now, then in pairwise(times):
        first = velocity(z, now)
        guess = project(z + (then - now) * first)
        z = project(z + (then - now) * 0.5 * (first + velocity(guess, then)))
    return z


def multistep(velocity: Velocity, z: Tensor, times: Times, project: Project) -> Tensor:
    """As much work, closer with few steps.

    Second order (Adams-Bashforth with the previous step's velocity), one evaluation a step.
    """
    previous: Tensor | None = None
    span: float | Tensor = 0.0
    for now, then in pairwise(times):
        current = velocity(z, now)
        step = then - now
        slope = current if previous is None else current + step / (2 * span) * (current - previous)
        z = project(z + step * slope)
        previous, span = current, step
    return z


Solver = Callable[[Velocity, "Tensor", Times, Project], "Tensor"]
"""(velocity, start [B,L,K] at t = 1, times, projection) -> end [B,L,K] at t = 0."""
SOLVERS: dict[str, Solver] = {solver.__name__: solver for solver in (euler, heun, multistep)}
"""Solvers by name."""


def summary() -> str:
    """All solvers with the first line of their docstrings, for help texts: "euler (the paper's), ... or ..."."""
    *most, last = (f"{name} ({_first_line(solver)})" for name, solver in SOLVERS.items())
    return f"{', '.join(most)} or {last}"


def _first_line(solver: Solver) -> str:
    line = (solver.__doc__ or "undocumented").splitlines()[0].rstrip(".")
    return line[:1].lower() + line[1:]


def evaluations(solver: str, steps: int) -> int:
    """How often a solver asks for the velocity in this many steps. It is counted, so it is right for every solver."""
    import torch

    count = 0

    def velocity(z: Tensor, t: float) -> Tensor:
        nonlocal count
        count += 1
        return z

    SOLVERS[solver](velocity, torch.zeros(()), torch.linspace(1, 0, steps + 1).tolist(), lambda z: z)
    return count
