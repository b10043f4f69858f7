"""From a run folder to a checkpoint that `nvg_model.load` reads: `python -m training export RECIPE`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

import nvg_model
from nvg_model import preview
from nvg_model.model import NVG
from training import checkpointing
from training.data import DataError
from training.few_step import converted
from training.generator import trained_generator
from training.logging import versions
from training.recipes.base import Recipe
from training.split_agreement import with_steps
from training.tokenizer import use_trained_decoder


def export(recipe: Recipe, run: Path, out: Path, best: bool = False) -> Path:
    """Writes the averaged weights of a run as one float16 safetensors file.

    The last save of an unfinished run serves as well; the provenance says how many steps it had.

    Args:
        best: the save with the lowest loss on held-out data instead of the latest.
    Raises:
        DataError: there is no such save, or it does not fit the recipe.
    """
    model, states = trained_generator(recipe, run, best)
    model.settings = recipe.sampling
    provenance = _provenance(recipe, states)
    if use_trained_decoder(model.tokenizer, run):
        provenance["commands"].insert(1, f"python -m training decoder {recipe.name}")
        provenance["decoder"] = dataclasses.asdict(recipe.decoder)
    few_step = checkpointing.latest(run / "few-step")
    if few_step is not None:
        model = _in_few_steps(model, few_step, recipe, run)
        provenance["commands"].insert(-1, f"python -m training few-step {recipe.name}")
        provenance |= {"few_step": few_step["meta"]["recipe"]["few_step"], "few_step_steps_done": few_step["step"]}
    model.preview_map = preview.fit(model.tokenizer)
    path = nvg_model.save(model, out, provenance, dtype=torch.float16)
    done = ", ".join(f"{networks} after {state['step']} steps" for networks, state in states.items())
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB; generators: {done}")
    return path


def _in_few_steps(model: NVG, state: dict[str, Any], recipe: Recipe, run: Path) -> NVG:
    """The model with the converted structure generator of a few-step training's state."""
    settings = state["meta"]["recipe"]["few_step"]
    if settings["teacher"]:
        raise DataError(
            f"{run / 'few-step'} was converted from {settings['teacher']}, not from this run's generator; take its "
            "few-step.safetensors, or move the folder away"
        )
    student = converted(model, settings["largest_guidance"])
    student.load_state_dict(state["phases"][0]["module"] | state["average"], strict=False)
    student.settings = with_steps(model.settings, recipe.few_step.sampling_steps)
    return student


def _provenance(recipe: Recipe, states: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How the weights came to be, from the saves of the generators by what they train."""
    first = next(iter(states.values()))
    generators = (f"generator {recipe.name}" + _alone(networks) for networks in states)
    commands = (f"tokenizer {recipe.name}", *generators, f"export {recipe.name}")
    return {
        "recipe": recipe.name,
        "commands": [f"python -m training {command}" for command in commands],
        "tokenizer": first["meta"]["recipe"]["tokenizer"],
        **_training(first),
        "licence": recipe.licence,
        "attribution": recipe.attribution,
        **versions(),
        **{networks: _training(state) for networks, state in states.items() if _alone(networks)},
    }


def _alone(networks: str) -> str:
    """The option that trains one network alone; nothing for both."""
    return "" if networks == "both" else f" --networks {networks}"


def _training(state: dict[str, Any]) -> dict[str, Any]:
    """What a save of generators was trained with, and how far."""
    recipe = state["meta"]["recipe"]
    start = Path(recipe["start"])
    return {
        **{part: recipe[part] for part in ("generator", "views")},
        "start": start.name if start.is_file() else recipe["start"],  # not the maker's folders
        "generator_steps_done": state["step"],
    }
