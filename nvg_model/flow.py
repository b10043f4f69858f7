"""The structure flow of a stage: its guided velocity, and what its evaluations share (paper section 2.2).

Shapes: B batch, R rows of a pass (B, or more where regions have classes of their own), L positions, K splits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nvg_model.errors import NVGError
from nvg_model.networks import FlowContext, StructureGenerator
from nvg_model.sampling import Guidance
from nvg_model.schedule import StageFlow


class GuidedVelocity:
    """The velocity of a stage as a function of state [B,L,K] and time.

    Every n-th evaluation (`guidance_every`) is guided. The ones between take only the rows of the classes, which come
    first among those of the guidance, and add the share that the guidance had in the last guided velocity.
    """

    def __init__(
        self,
        flow: StructureGenerator,
        passes: tuple[Guidance, Guidance],
        canvas: Tensor,
        labels: Tensor,
        stage: int,
        chosen: StageFlow,
        on_evaluation: Callable[[], None],
    ) -> None:
        """Args:
            passes: the guidance of the stage, and the same without a null class.
            canvas, labels: [B,L,C] and long [B,L] of the stage.
            on_evaluation: called before every evaluation.
        Raises:
            NVGError: a network of average velocities with settings that it does not know.
        """
        guidance, self.unguided = passes
        self.flow, self.scale, self.every, self.on_evaluation = (
            flow,
            guidance.scale,
            chosen.guidance_every,
            on_evaluation,
        )
        if flow.averages:
            _check_average(flow, chosen, float(self.scale))
        self.guidance = self.unguided if flow.averages else guidance
        stages = torch.full_like(self.guidance.classes, stage)
        rows = self.guidance.repeat(canvas), self.guidance.repeat(labels)
        self.context = flow.context(*rows, self.guidance.classes, stages)
        self.rows = len(self.unguided.classes)
        self.of_classes = _first_rows(self.context, self.rows)
        self.memory = flow.transformer.memory() if chosen.reuse else None
        self.known: dict[float, list[Tensor]] = {}
        self.count, self.share = 0, torch.zeros(())

    def prepare(self, grid: Sequence[float]) -> None:
        """Computes the modulations of the times that are certain to be asked for at once."""
        times = torch.tensor(grid).to(self.context.tokens.device)[:, None]
        spans = times - torch.cat([times[1:], times[-1:]])
        layers = self.flow.modulations(self.context, times, spans, self.scale)
        self.known = {t: [layer[index] for layer in layers] for index, t in enumerate(grid)}

    def __call__(self, z: Tensor, t: float) -> Tensor:
        """float32 [B,L,K] at state z [B,L,K] and time t."""
        self.on_evaluation()
        modulations = self.known.get(t)
        if modulations is None:
            modulations = self.flow.modulations(self.context, torch.full((1,), t, device=z.device))
        guided, self.count = self.count % self.every == 0, self.count + 1
        if not guided and self.guidance.passes > 1:
            return self._unguided(z, modulations) + self.share
        results = self.flow.step(self.guidance.repeat(z), self.context, modulations, self.memory)
        velocity = self.guidance.combine(results)
        if self.every > 1 and self.guidance.passes > 1:
            self.share = velocity - self.unguided.combine(results[: self.rows])
        return velocity

    def _unguided(self, z: Tensor, modulations: list[Tensor]) -> Tensor:
        """The velocity of the classes alone."""
        modulations = [layer[: self.rows] for layer in modulations]
        memory = self.memory and [[values[: self.rows] for values in block] for block in self.memory]
        return self.unguided.combine(self.flow.step(self.unguided.repeat(z), self.of_classes, modulations, memory))


def _first_rows(context: FlowContext, rows: int) -> FlowContext:
    """The context of the first rows alone."""
    return dataclasses.replace(
        context, tokens=context.tokens[:rows], rope=context.rope[:, :rows], condition=context.condition[:rows]
    )


def _check_average(flow: StructureGenerator, chosen: StageFlow, scale: float) -> None:
    """Euler is exact for average velocities; the other solvers would take them for velocities of one time."""
    if chosen.solver != "euler":
        raise NVGError(
            f"solver is {chosen.solver}; this few-step checkpoint gives average velocities, which need no other "
            "solver than euler: choose euler, with 1 to 8 steps"
        )
    if chosen.guidance_every != 1:
        raise NVGError(
            f"guidance_every is {chosen.guidance_every}; this few-step checkpoint has the guidance inside every "
            "evaluation: leave it at 1"
        )
    flow.check_guidance(scale)
