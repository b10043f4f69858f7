"""Recipes: typed settings of a whole training, by name or from a file."""

from __future__ import annotations

from pathlib import Path

from training.errors import TrainingError
from training.recipes.base import Recipe
from training.recipes.emoji64 import EMOJI64
from training.recipes.emoji128 import EMOJI128
from training.recipes.files import SUFFIXES, read_recipe
from training.recipes.finetune import FINETUNE
from training.recipes.own import IMAGE_SIZE, OWN, own
from training.recipes.paper import PAPER
from training.recipes.smoke import SMOKE

RECIPES: dict[str, Recipe] = {"emoji64": EMOJI64, "emoji128": EMOJI128, "finetune": FINETUNE, "smoke": SMOKE, **PAPER}


def recipe(name: str) -> Recipe:
    """The recipe of that name (small-64: the preset small at 64 pixels) or file.

    Raises:
        TrainingError: it is unknown, or the file cannot be used.
    """
    if Path(name).suffix in SUFFIXES:
        return read_recipe(Path(name).expanduser(), recipe)
    found = RECIPES.get(name) or own(name)
    if found is None:
        there = ", ".join((*RECIPES, *(f"{one}-{IMAGE_SIZE}" for one in OWN)))
        raise TrainingError(f"there is no recipe {name!r}; there are {there}, and recipes that are .toml or .py files")
    return found
