"""From a run folder to a checkpoint that `nvg_model.load` reads: `python -m training export RECIPE`."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import nvg_model
from nvg_model.model import NVG
from training import checkpointing
from training.data import DataError
from training.generator import tokenizer_weights
from training.recipes.base import Recipe


def export(recipe: Recipe, run: Path, out: Path) -> Path:
    """Writes the averaged weights of a run as one float16 safetensors file.

    The last save of an unfinished generator run serves as well; the provenance says how many steps it had.
    """
    tokenizer = tokenizer_weights(run)
    state = checkpointing.latest(run / "generator")
    if state is None:
        raise DataError(f"there is no saved generator in {run / 'generator'}; run `python -m training generator` first")
    model = NVG(recipe.config, recipe.classes, recipe.sampling)
    model.tokenizer.load_state_dict(tokenizer)
    weights = state["module"] | state["average"]  # the buffers, and the averages of the parameters
    model.load_state_dict(weights, strict=False)
    _require_all(model, weights)
    path = nvg_model.save(model, out, _provenance(recipe, state["step"]), dtype=torch.float16)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, generator after {state['step']} steps")
    return path


def _require_all(model: NVG, weights: dict[str, Any]) -> None:
    wanted = {name for name in model.state_dict() if not name.startswith("tokenizer.")}
    if wanted != weights.keys():
        raise DataError(f"the run does not fit the recipe; they differ in {sorted(wanted ^ weights.keys())[:3]}")


def _provenance(recipe: Recipe, step: int) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "recipe": recipe.name,
        "commands": [f"python -m training {command} {recipe.name}" for command in ("tokenizer", "generator", "export")],
        "tokenizer": dataclasses.asdict(recipe.tokenizer),
        "generator": dataclasses.asdict(recipe.generator),
        "views": dataclasses.asdict(recipe.views),
        "generator_steps_done": step,
        "licence": recipe.licence,
        "attribution": recipe.attribution,
        "git_commit": commit,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
