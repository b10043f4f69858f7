"""What the conversions of a trained model share: `training.few_step` and `training.guidance` each make one of its
networks cheaper to run, with the trained one as teacher.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

import nvg_model
from nvg_model.config import GeneratorConfig
from nvg_model.model import NVG
from training.provenance import provenance
from training.recipes.base import ConversionRecipe, GeneratorRecipe, Recipe
from training.warm_start import trained_generator


def load_teacher(recipe: Recipe, settings: ConversionRecipe, run: Path) -> NVG:
    """The trained model to convert, frozen: the checkpoint that the settings name, or the run's generators.

    Raises:
        TrainingError: there is no trained generator.
    """
    if settings.teacher:
        return nvg_model.load(settings.teacher, dtype=torch.float32)
    teacher, states = trained_generator(recipe, run)
    teacher.settings = recipe.sampling or teacher.settings
    teacher.provenance = provenance(recipe, run, states)
    return teacher.eval().requires_grad_(False)


def changed_copy(teacher: NVG, generator: GeneratorConfig) -> NVG:
    """A frozen copy with another configuration; parts that the teacher lacks keep their first, random weights."""
    student = NVG(dataclasses.replace(teacher.config, generator=generator), teacher.classes, teacher.settings)
    student.load_state_dict(teacher.state_dict(), strict=False)
    student.preview_map = teacher.preview_map  # the tokenizer is the same
    return student.requires_grad_(False).eval()


def as_generator(recipe: Recipe, settings: ConversionRecipe, **more: Any) -> GeneratorRecipe:
    """The conversion's settings in the terms of the generators' training, whose data and optimisers it takes."""
    names = ("steps", "batch", "warmup", "learning_rate", "matrix_learning_rate", "label_dropout")
    values: dict[str, Any] = {name: getattr(settings, name) for name in names}
    values |= {"content_stages": 1, "structure_stages": 1, "class_steps": 0, "repa_weight": 0.0, "parallel": "ddp"}
    return dataclasses.replace(recipe.generator, **values | more)
