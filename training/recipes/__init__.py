"""Recipes: typed settings of a whole training, by name."""

from __future__ import annotations

from training.data import DataError
from training.recipes.base import Recipe
from training.recipes.emoji64 import EMOJI64
from training.recipes.finetune import FINETUNE
from training.recipes.paper import PAPER
from training.recipes.smoke import SMOKE

RECIPES: dict[str, Recipe] = {"emoji64": EMOJI64, "finetune": FINETUNE, "smoke": SMOKE, **PAPER}


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises DataError for an unknown one."""
    if name not in RECIPES:
        raise DataError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
