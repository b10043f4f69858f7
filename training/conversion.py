"""What the conversions of a trained model share: `training.few_step` and `training.guidance` each make one of its
networks cheaper to run, with the trained one as teacher.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import nvg_model
from nvg_model.config import GeneratorConfig
from nvg_model.model import NVG
from training.data.cache import fingerprint
from training.data.generator_batch import Source
from training.distributed import World
from training.generator import schedule
from training.logging import describe_run
from training.loop import Phase, Task
from training.optim import optimizers
from training.provenance import provenance
from training.recipes.base import ConversionRecipe, GeneratorRecipe, Recipe
from training.run_folder import Identity, generator_folder, open_run, weights_digest
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


def open_task(
    path: Path,
    recipe: Recipe,
    like: Recipe,
    data: Path | str,
    teacher: NVG,
    network: nn.Module,
    objective: nn.Module,
    draw: Callable[..., Any],
    world: World,
) -> Task[Any] | None:
    """The training of a conversion, which starts or continues in its folder; None where it is finished.

    Args:
        path: the checkpoint to write, RUN/PART/PART.safetensors.
        like: the recipe in the terms of the generators' training.
        network: the one of the teacher that is learned from.
        draw: (batch of the generators' training, step, shard, settings, seed) -> batch.
    """
    part = path.stem.replace("-", "_")
    settings: ConversionRecipe = getattr(recipe, part)
    dataset = like.dataset(data, "train", teacher.classes)
    learned = {"teacher": weights_digest(network.state_dict()), "tokenizer": fingerprint(teacher.tokenizer)}
    identity = Identity.of(dataset, data, settings.teacher, learned)
    opened = open_run(recipe, part, path.parent, identity, path, world)
    if opened.finished:
        return None
    describe_run(path.parent, recipe, world, classes=teacher.classes, data=str(data))
    # The cache of another tokenizer is another cache.
    tokens = path.parent if settings.teacher else generator_folder(path.parents[1])
    source = Source.make(like, teacher, dataset, tokens, world, identity)
    return Task(
        [Phase(objective, optimizers(objective, like.generator), schedule(like.generator))],
        lambda step, shard: draw(source.draw(step, shard), step, shard, settings, recipe.seed),
        meta=opened.meta(recipe, identity),
        seed=recipe.seed,
    )
