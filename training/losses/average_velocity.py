"""The loss of the conversion to few steps: regression of the average velocity (see `training.few_step`).

Shapes: B images, m splits of an image, R rows (one per image and split), P spans of a row, L positions, K splits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from nvg_model.model import NVG
from nvg_model.networks import StructureGenerator, known_channels
from nvg_model.sampling import time_grid
from nvg_model.solvers import multistep
from training.data.conversion_batch import FewStepBatch
from training.data.generator_batch import Batch, assemble
from training.errors import TrainingError
from training.recipes.base import FewStepRecipe

STEEPEST = 16.0
"""With a larger time factor a network is too steep in t to be differentiated by it."""


LONG = 0.75
"""Spans above it are logged by themselves: they are what one step needs."""
ERROR_FLOOR = 0.01
"""Of the adaptive weight: errors far below it count as they are."""


@dataclass(frozen=True)
class StructureRows:
    """Inputs of the structure generator beside state and time; each with R in front."""

    canvas: Tensor
    labels: Tensor
    classes: Tensor
    stage: Tensor
    guidance: Tensor
    clean: Tensor
    """float [R,L,K]: the data's embedding, all channels of it."""
    known: Tensor
    """bool [R,1,K]: the channels before the stage; none for a flow that starts from noise in all of them."""

    def at(self, index: Tensor) -> StructureRows:
        """Some of the rows, perhaps repeated."""
        return StructureRows(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    def project(self, z: Tensor) -> Tensor:
        """The state [R,L,K] with its known channels clean."""
        return torch.where(self.known, self.clean, z)


# --------------------------------------------------------------------------------------------------- the objective


@dataclass(frozen=True)
class Example:
    """Inputs of the student, and its target; each with R in front."""

    rows: StructureRows
    z: Tensor
    t: Tensor
    span: Tensor
    target: Tensor
    long: Tensor
    """long [n]: the rows whose span is longer than `LONG`."""


class FewStepObjective(nn.Module):
    """Regression of the average velocity on the target of the chosen objective."""

    def __init__(self, teacher: NVG, student: NVG, settings: FewStepRecipe) -> None:
        super().__init__()
        self.structure, self.settings = student.structure, settings
        self._frozen = (teacher,)  # in a tuple: no part of what is trained and saved
        if settings.objective == "meanflow" and self.structure.time_factor > STEEPEST:
            raise TrainingError(
                f"meanflow differentiates by the time, which a time_factor of {self.structure.time_factor:g} makes too "
                f"steep (at most {STEEPEST:g}); use --objective trajectory"
            )
        if settings.teacher_steps < 1 or settings.spans < 1:
            raise TrainingError("teacher_steps and spans must be at least 1")
        if settings.compile:
            teacher.structure.transformer.compile()
            if settings.objective != "meanflow":  # forward-mode differentiation does not go through
                self.structure.transformer.compile()

    def forward(self, batch: FewStepBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and values for the log."""
        device = self.structure.class_embedding.weight.device
        with torch.no_grad():
            example = self.example(batch, device)
        with self._precision(device):
            u = student_velocity(self.structure, example.rows, example.z, example.t, example.span)
        rows, squared = example.rows, (u - example.target).square()
        decides = squared.gather(2, rows.stage[:, None, None].expand(-1, squared.shape[1], 1)).mean(dim=(1, 2))
        unknown = (~rows.known).expand_as(squared)
        others = (squared * unknown).sum(dim=(1, 2)) / unknown.sum(dim=(1, 2))
        error = torch.lerp(others, decides, self.settings.split_weight)
        weight = (error.detach() + ERROR_FLOOR) ** -self.settings.adaptive_power
        values = {"error": error.mean(), "split_error": decides.mean()}
        if len(example.long):
            values["split_error_of_long_spans"] = decides[example.long].mean()
        return (weight * error).mean(), values

    def example(self, batch: FewStepBatch, device: torch.device) -> Example:
        """The inputs of the student in this batch, and the targets.

        Which rows are long or still is decided on the CPU, so that no GPU is waited for.
        """
        images = batch.images.to(device)
        teacher = self._frozen[0]
        rows = make_rows(images, teacher, batch.guidance.flatten().to(device, non_blocking=True))
        noise = rows.project(images.noise.repeat_interleave(images.structure_stages.shape[1], 0))
        if self.settings.objective == "trajectory":
            return self._trajectory(rows, noise, batch.jitter.flatten(0, 1), batch.parts.flatten(0, 1))
        t, r = batch.spans.flatten(0, 1).unbind(-1)
        t, span, long, still = (
            one.to(device, non_blocking=True) for one in (t, t - r, _where(t - r > LONG), _where(t == r))
        )
        z = torch.lerp(rows.clean, noise, t[:, None, None])
        if self.settings.objective == "meanflow":
            target = self._meanflow(rows, z, t, span)
        else:
            target = self._shortcut(rows, z, t, span, still)
        return Example(rows, z, t, span, target, long)

    def _trajectory(self, rows: StructureRows, noise: Tensor, jitter: Tensor, parts: Tensor) -> Example:
        """Spans of the teacher's own path from the noise."""
        grid = torch.tensor(time_grid(self.settings.teacher_steps, noise.shape[1]))
        middles = (grid[1:] + grid[:-1]) / 2
        inner = torch.lerp(middles[1:], middles[:-1], jitter)
        ends = torch.ones(len(inner), 1)
        times = torch.cat([ends, inner, 0 * ends], dim=1)  # [R,n+1]
        index = torch.arange(len(times)).repeat_interleave(parts.shape[1])
        first, last = parts.flatten(0, 1).unbind(-1)
        t = times[index, first]
        span = t - times[index, last]
        times, index, first, last, t, span, long = (
            one.to(noise.device, non_blocking=True) for one in (times, index, first, last, t, span, _where(span > LONG))
        )
        states = torch.stack(teacher_run(self._frozen[0].structure, rows, noise, times, self._precision), dim=1)
        z = states[index, first]
        return Example(rows.at(index), z, t, span, (z - states[index, last]) / span[:, None, None], long)

    def _meanflow(self, rows: StructureRows, z: Tensor, t: Tensor, span: Tensor) -> Tensor:
        """v - (t - r) du/dt at fixed r: forward-mode derivative along (v, 1, 1) in (z, t, t - r)."""
        with self._precision(z.device):
            v = guided_velocity(self._frozen[0].structure, rows, z, t)

        def u(z: Tensor, t: Tensor, span: Tensor) -> Tensor:
            return student_velocity(self.structure, rows, z, t, span)

        one = torch.ones_like(t)
        with sdpa_kernel(SDPBackend.MATH):  # the others have no forward-mode derivative
            slope: Tensor = torch.func.jvp(u, (z, t, span), (v, one, one))[1]
        return v - span[:, None, None] * slope

    def _shortcut(self, rows: StructureRows, z: Tensor, t: Tensor, span: Tensor, still: Tensor) -> Tensor:
        """The mean of the student's own two halves; the teacher's velocity in the rows `still`, whose span is 0."""
        half = span / 2
        with self._precision(z.device):
            first = student_velocity(self.structure, rows, z, t, half)
            middle = rows.project(z - half[:, None, None] * first)
            target = (first + student_velocity(self.structure, rows, middle, t - half, half)) / 2
            if len(still):
                v = guided_velocity(self._frozen[0].structure, rows.at(still), z[still], t[still])
                target = target.index_copy(0, still, v)
        return target

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.settings.bfloat16)


def _where(chosen: Tensor) -> Tensor:
    """The numbers long [n] of the rows that are chosen, bool [R] on the CPU."""
    return chosen.nonzero().squeeze(1)


def make_rows(images: Batch, teacher: NVG, guidance: Tensor) -> StructureRows:
    """A row for every image and split of a batch."""
    stages, count = assemble(images, teacher.tokenizer), images.structure_stages.shape[1]
    row = torch.arange(len(images.classes), device=guidance.device).repeat_interleave(count)
    stage, splits = images.structure_stages.flatten(), teacher.config.splits
    return StructureRows(
        canvas=stages.canvases[row, stage],
        labels=stages.structure[row, stage],
        classes=images.classes[row],
        stage=stage,
        guidance=guidance,
        clean=known_channels(stages.structure[:, -1], splits, splits)[row],
        known=(torch.arange(splits, device=stage.device) < stage[:, None, None]) & teacher.structure.partial,
    )


def student_velocity(structure: StructureGenerator, rows: StructureRows, z: Tensor, t: Tensor, span: Tensor) -> Tensor:
    """u of every row [R,L,K]; zero in the known channels, which do not move."""
    u = structure(z, t, rows.canvas, rows.labels, rows.classes, rows.stage, span, rows.guidance)
    return torch.where(rows.known, 0.0, u)


def guided_velocity(teacher: StructureGenerator, rows: StructureRows, z: Tensor, t: Tensor) -> Tensor:
    """The trained flow's velocity of every row under its guidance [R,L,K]; zero in the known channels."""
    null = torch.full_like(rows.classes, teacher.num_classes)
    double = [torch.cat([one, one]) for one in (z, t, rows.canvas, rows.labels)]
    both = teacher(*double, torch.cat([rows.classes, null]), torch.cat([rows.stage, rows.stage]))
    conditional, unconditional = both.chunk(2)
    v = torch.lerp(unconditional, conditional, rows.guidance[:, None, None])
    return torch.where(rows.known, 0.0, v)


def teacher_run(
    teacher: StructureGenerator,
    rows: StructureRows,
    noise: Tensor,
    times: Tensor,
    precision: Callable[[torch.device], torch.autocast],
) -> list[Tensor]:
    """States [R,L,K] of the trained flow at `times` [R,n+1], from the noise on; second order in the step."""
    states = [noise]

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        with precision(z.device):
            return guided_velocity(teacher, rows, z, t.flatten())

    def keep(z: Tensor) -> Tensor:
        states.append(z)
        return z

    multistep(velocity, noise, list(times.mT[:, :, None, None]), keep)
    return states
