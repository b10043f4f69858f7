"""Structure in few steps: `python -m training few-step RECIPE` turns a trained flow into one of average velocities.

The trained flow, the teacher, stays as it is. Its copy, the student, learns u(z, r, t, g): the average over the times
from r to t of the teacher's velocity along its own path, under the guidance scale g. One evaluation then makes a step
of any length, z_r = z_t - (t - r) u, and needs no second pass for the guidance. Three objectives lead there:

- trajectory: the teacher runs from noise to data, and u is regressed on (z_t - z_r) / (t - r) for spans of its path
  (distillation as in Luhman and Luhman 2021, for every span as in flow maps, Boffi et al. 2024);
- meanflow: u = v - (t - r) du/dt, with the derivative along the path by forward-mode differentiation (MeanFlow, Geng et
  al. 2025), and as tangent a velocity without the noise of a single pair (improved MeanFlow, Geng et al. 2025): here
  the teacher's, guidance and all;
- shortcut: u over a span is the mean of u over its halves (shortcut models, Frans et al. 2024), which needs neither.

Shapes: B images, m splits of an image, R rows (one per image and split), P spans of a row, L positions, K splits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import nvg_model
from nvg_model.model import NVG
from training import distributed
from training.conversion import as_generator, changed_copy, load_teacher, open_task
from training.data.conversion_batch import draw_few_step
from training.distributed import World
from training.errors import TrainingError
from training.loop import train
from training.losses.average_velocity import FewStepObjective
from training.precision import with_precision
from training.provenance import with_conversion
from training.recipes.base import Recipe
from training.run_folder import alone_in
from training.split_agreement import Images, agreement, picture_measure, splits, table, with_steps, write_table


def train_few_step(recipe: Recipe, data: Path | str, run: Path) -> Path:
    """Converts, or continues to convert, the structure flow of `run`/generator (or a checkpoint) into `run`/few-step.

    Prints and writes a table of steps and methods at the end.

    Returns:
        The whole model as a checkpoint, `run`/few-step/few-step.safetensors.
    Raises:
        TrainingError: there is no trained generator, or one that gives average velocities already.
    """
    world = distributed.start(recipe.few_step.timeout)
    with alone_in(run / "few-step", world):
        return _train(recipe, data, run, world)


def _train(recipe: Recipe, data: Path | str, run: Path, world: World) -> Path:
    settings, path = with_precision(recipe.few_step, world), run / "few-step" / "few-step.safetensors"
    recipe = dataclasses.replace(recipe, few_step=settings)
    torch.manual_seed(recipe.seed)  # the initial weights
    teacher = load_teacher(recipe, settings, run).to(world.device)
    student = converted(teacher, settings.largest_guidance).to(world.device)
    student.settings = with_steps(teacher.settings, settings.sampling_steps)
    objective = FewStepObjective(teacher, student, settings)
    own = as_generator(recipe, settings, structure_stages=settings.structure_stages)
    like = dataclasses.replace(recipe, config=teacher.config, generator=own)
    task = open_task(path, recipe, like, data, teacher, teacher.structure, objective, draw_few_step, world)
    if task is None:
        return path
    images = Images.generate(teacher, settings.table_images, with_steps(teacher.settings, 25))
    task.validate, task.best = split_error(teacher, student, images), ("smallest", "split_error")
    average = train(task, settings, path.parent, world)
    if world.first:
        done = {"step": settings.steps, "meta": task.meta}
        with average.applied():
            nvg_model.save(student, path, with_conversion(teacher.provenance, "few_step", done))
            count, margin = settings.frechet_pictures, recipe.views.margin
            measure = picture_measure(teacher, data, count, margin=margin) if count else None
            write_table(table(teacher, student, images, measure), path.parent)
        print(f"few-step: {path}")
    world.wait()
    return path


def converted(teacher: NVG, largest_guidance: float) -> NVG:
    """A copy whose structure generator gives average velocities.

    Until it is trained it gives the teacher's velocity at t without guidance, for every span.

    Raises:
        TrainingError: the teacher has no generator, has been converted before, or is sampled with a larger guidance.
    """
    generator = teacher.config.generator
    if generator is None or generator.flow == "average":
        had = "no generator" if generator is None else "a structure generator of few steps already"
        raise TrainingError(f"the model has {had}; convert a trained generator of many steps")
    usual = teacher.settings.structure_guidance
    if min(usual) < 1 or max(usual) > largest_guidance:
        raise TrainingError(
            f"the model is sampled with structure guidance {usual}, and the converted one knows the scales from 1 to "
            f"{largest_guidance:g}; choose another --largest-guidance"
        )
    student = changed_copy(teacher, dataclasses.replace(generator, flow="average", largest_guidance=largest_guidance))
    for parameter in student.structure.average_mlp[-1].parameters():
        nn.init.zeros_(parameter)
    student.structure.requires_grad_(True)
    return student


def split_error(teacher: NVG, student: NVG, images: Images) -> Callable[[], dict[str, float]]:
    """Measures the share of positions that 1, 2 and 4 steps put into another child than 25 of the teacher do."""
    wanted: list[Tensor] = []

    def measure() -> dict[str, float]:
        if not wanted:
            wanted.append(splits(teacher, images, with_steps(teacher.settings, 25)))
        errors = {}
        for steps in (1, 2, 4):
            found = agreement(splits(student, images, with_steps(teacher.settings, steps)), wanted[0])
            errors[f"{steps}_step_split_error"] = 1 - sum(found) / len(found)
        return {"split_error": math.fsum(errors.values()) / len(errors), **errors}

    return measure
