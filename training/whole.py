"""A whole training in one call that can be stopped and called again: `python -m training all RECIPE`.

Needs torch, numpy, pillow, einops, safetensors and tqdm alone, so that a bare machine can call `train_all` from Python.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from training import distributed
from training.decoder import train_decoder
from training.distributed import World
from training.export import export
from training.generator import train_generator
from training.guidance import train_guidance
from training.recipes.base import FINISH, GuidanceRecipe, Recipe
from training.stopping import Clock, Interrupted
from training.tokenizer import finish_decoder, train_tokenizer

Part = Callable[[Recipe, Path | str, Path], Path]


def train_all(
    recipe: Recipe,
    data: Path | str,
    run: Path,
    out: Path,
    decoder_data: Path | str | None = None,
    minutes: float = 0.0,
) -> Path | None:
    """Trains every part of a recipe in `run`, each from where an earlier call left it, and writes the checkpoint.

    Args:
        out: the file.
        decoder_data: the pictures of the decoder's training, if it makes larger ones than are encoded; None: `data`.
        minutes: save and stop after this many; 0: never.
    Returns:
        The file; None where the time did not suffice, which a sentence says: the same call goes on.
    Raises:
        Interrupted: SIGTERM or Ctrl-C came; all that was done is saved.
        TrainingError: a part cannot be trained, or `minutes` is no length of time.
    """
    world = distributed.start(recipe.tokenizer.timeout)
    with Clock(minutes, world) as clock:
        try:
            for train, pictures in parts_of(recipe, data, decoder_data):
                clock.check()
                part = "tokenizer" if train is train_tokenizer else "generator"
                train(dataclasses.replace(recipe, views=recipe.views_of(part)), pictures, run)
            clock.check()
            return _exported(recipe, run, out, world)
        except Interrupted as stopped:
            if not clock.over_for_all():
                raise
            if world.first:
                print(f"the limit of {minutes:g} minutes is over: {stopped}", flush=True)
            return None


def parts_of(recipe: Recipe, data: Path | str, decoder_data: Path | str | None) -> list[tuple[Part, Path | str]]:
    """The trainings of a recipe in order, and the pictures of each.

    The decoder comes last, because it may learn from what the generators draw, and only where a recipe says how; so
    does the guidance inside. What starts from a checkpoint keeps that one's tokenizer.
    """
    generators: list[tuple[Part, Path | str]] = [(train_generator, data)]
    if recipe.guidance != GuidanceRecipe():
        generators.append((train_guidance, data))
    if recipe.start:
        return generators
    parts: list[tuple[Part, Path | str]] = [(train_tokenizer, data), *generators]
    if recipe.decoder != FINISH:
        train = train_decoder if recipe.decoder.cached_views else finish_decoder
        parts.append((train, decoder_data or data))
    return parts


def _exported(recipe: Recipe, run: Path, out: Path, world: World) -> Path:
    if world.first:
        export(recipe, run, out)
    world.wait()
    return out
