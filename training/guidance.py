"""Guidance in one pass: `python -m training guidance RECIPE` gives a trained content generator its guidance scale as an
input.

The trained network, the teacher, is guided by two passes: null + g (class - null). Its copy, the student, learns the
result for every scale g from 1 to the largest (guidance distillation, Meng et al. 2023). Scores of tokens are linear in
the predicted canvas, so a guided canvas gives guided scores. Sampling then takes half the content passes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

import nvg_model
from nvg_model.model import NVG
from training import distributed
from training.conversion import as_generator, changed_copy, load_teacher, open_task
from training.data.conversion_batch import draw_guidance
from training.data.generator_batch import Batch
from training.distributed import Shard, World
from training.errors import TrainingError
from training.generator import held_out_loss
from training.loop import train
from training.losses.guidance import GuidanceObjective
from training.precision import with_precision
from training.provenance import with_conversion
from training.recipes.base import Recipe
from training.run_folder import alone_in


def train_guidance(recipe: Recipe, data: Path | str, run: Path) -> Path:
    """Converts, or continues to convert, the content generator of `run`/generator (or a checkpoint) into
    `run`/guidance.

    Returns:
        The whole model as a checkpoint, `run`/guidance/guidance.safetensors.
    Raises:
        TrainingError: there is no trained generator, or one that has its guidance inside already.
    """
    world = distributed.start(recipe.guidance.timeout)
    with alone_in(run / "guidance", world):
        return _train(recipe, data, run, world)


def _train(recipe: Recipe, data: Path | str, run: Path, world: World) -> Path:
    settings, path = with_precision(recipe.guidance, world), run / "guidance" / "guidance.safetensors"
    recipe = dataclasses.replace(recipe, guidance=settings)
    torch.manual_seed(recipe.seed)  # the initial weights
    teacher = load_teacher(recipe, settings, run).to(world.device)
    student = converted(teacher, settings.largest_guidance).to(world.device)
    objective = GuidanceObjective(teacher, student, settings)
    own = {"content_stages": settings.content_stages, "token_noise": settings.token_noise, "own_tokens": 0.0}
    like = dataclasses.replace(recipe, config=teacher.config, generator=as_generator(recipe, settings, **own))
    held_out = like.dataset(data, "held-out", teacher.classes)
    task = open_task(path, recipe, like, data, teacher, teacher.content, objective, draw_guidance, world)
    if task is None:
        return path
    task.validate = held_out_loss(like, student, _Measured(objective, recipe), held_out, world.first)
    average = train(task, settings, path.parent, world)
    if world.first:
        done = {"step": settings.steps, "meta": task.meta}
        with average.applied():
            nvg_model.save(student, path, with_conversion(teacher.provenance, "guidance", done))
        print(f"guidance: {path}")
    world.wait()
    return path


class _Measured(nn.Module):
    """The loss of batches without scales, with some that are always the same."""

    def __init__(self, objective: GuidanceObjective, recipe: Recipe) -> None:
        super().__init__()
        self.objective, self.recipe = objective, recipe

    def forward(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """As of the objective."""
        own = dataclasses.replace(self.recipe.guidance, batch=len(batch.classes))
        with torch.no_grad():
            return self.objective(draw_guidance(batch, step, Shard(), own, self.recipe.seed), step)


def converted(teacher: NVG, largest_guidance: float) -> NVG:
    """A copy whose content generator has the guidance scale as an input.

    Until it is trained it gives the teacher's result without guidance, whatever the scale.

    Raises:
        TrainingError: the teacher has no generator, has been converted before, or the largest scale is no guidance.
    """
    generator = teacher.config.generator
    if generator is None or generator.largest_content_guidance > 1:
        had = "no generator" if generator is None else "its content guidance inside already"
        raise TrainingError(f"the model has {had}; convert a trained generator that takes two passes")
    if largest_guidance <= 1:
        raise TrainingError(f"the largest guidance is {largest_guidance:g}, and 1 is none; give more than 1")
    student = changed_copy(teacher, dataclasses.replace(generator, largest_content_guidance=largest_guidance))
    for parameter in student.content.guidance_mlp[-1].parameters():
        nn.init.zeros_(parameter)
    student.content.requires_grad_(True)
    student.content.code_head.requires_grad_(False)  # its scores are those of the teacher's, for the same canvas
    return student
