"""From a run folder to a checkpoint that `nvg_model.load` reads: `python -m training export RECIPE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import nvg_model
from nvg_model import preview
from nvg_model.model import NVG
from training import checkpointing, few_step, guidance
from training.decoder import with_trained_decoder
from training.errors import TrainingError
from training.provenance import provenance, with_conversion
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
    if (state := _conversion(run, "guidance")) is not None:
        largest = state["meta"]["recipe"]["guidance"]["largest_guidance"]
        model = _with_weights(guidance.converted(model, largest), state)
        found = with_conversion(found, "guidance", state)
    if (state := _conversion(run, "few_step")) is not None:
        settings = state["meta"]["recipe"]["few_step"]
        steps = with_steps(model.settings, settings["sampling_steps"])
        model = _with_weights(few_step.converted(model, settings["largest_guidance"]), state)
        model.settings = steps
        found = with_conversion(found, "few_step", state)
    found["commands"].append(f"python -m training export {recipe.name}")
    model.preview_map = preview.fit(model.tokenizer, torch.float16)
    path = nvg_model.save(model, out, found, dtype=torch.float16)
    done = ", ".join(f"{networks} after {state['step']} steps" for networks, state in states.items())
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB; generators: {done}")
    return path


def _conversion(run: Path, part: str) -> dict[str, Any] | None:
    """The latest save of a conversion of the run's own generators. Raises TrainingError: it is of a checkpoint."""
    folder = run / part.replace("_", "-")
    state = checkpointing.latest(folder)
    if state is not None and (teacher := state["meta"]["recipe"][part]["teacher"]):
        raise TrainingError(
            f"{folder} was converted from {teacher}, not from this run's generator; take its "
            f"{folder.name}.safetensors, or move the folder away"
        )
    return state


def _with_weights(student: NVG, state: dict[str, Any]) -> NVG:
    """The model with the converted network of a training's state."""
    student.load_state_dict(state["phases"][0]["module"] | state["average"], strict=False)
    return student
