"""From a run folder to a checkpoint that `nvg_model.load` reads: `python -m training export RECIPE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import nvg_model
from nvg_model import preview
from nvg_model.model import NVG
from training import checkpointing
from training.decoder import with_trained_decoder
from training.errors import TrainingError
from training.few_step import converted
from training.provenance import provenance, with_few_step
from training.recipes.base import Recipe
from training.split_agreement import with_steps
from training.warm_start import trained_generator, use_trained_decoder


def export(recipe: Recipe, run: Path, out: Path, best: bool = False) -> Path:
    """Writes the averaged weights of a run as one float16 safetensors file.

    The last save of an unfinished run serves as well; the provenance says how many steps it had.

    Args:
        best: the save with the lowest loss on held-out data instead of the latest.
    Raises:
        TrainingError: there is no such save, or it does not fit the recipe.
    """
    model, states = trained_generator(recipe, run, best)
    model = with_trained_decoder(model, run)
    model.settings = recipe.sampling or model.settings
    found = provenance(recipe, run, states, use_trained_decoder(model.tokenizer, run))
    few_step = checkpointing.latest(run / "few-step")
    if few_step is not None:
        model = _in_few_steps(model, few_step, run)
        found = with_few_step(found, few_step)
    found["commands"].append(f"python -m training export {recipe.name}")
    model.preview_map = preview.fit(model.tokenizer, torch.float16)
    path = nvg_model.save(model, out, found, dtype=torch.float16)
    done = ", ".join(f"{networks} after {state['step']} steps" for networks, state in states.items())
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB; generators: {done}")
    return path


def _in_few_steps(model: NVG, state: dict[str, Any], run: Path) -> NVG:
    """The model with the converted structure generator of a few-step training's state."""
    settings = state["meta"]["recipe"]["few_step"]
    if settings["teacher"]:
        raise TrainingError(
            f"{run / 'few-step'} was converted from {settings['teacher']}, not from this run's generator; take its "
            "few-step.safetensors, or move the folder away"
        )
    student = converted(model, settings["largest_guidance"])
    student.load_state_dict(state["phases"][0]["module"] | state["average"], strict=False)
    student.settings = with_steps(model.settings, settings["sampling_steps"])
    return student
