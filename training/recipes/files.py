"""Recipes that are files: TOML with what differs from another recipe, or Python."""

from __future__ import annotations

import dataclasses
import difflib
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nvg_model.errors import NVGError
from training.errors import TrainingError
from training.recipes.base import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SUFFIXES = (".toml", ".py")


def read_recipe(path: Path, known: Callable[[str], Recipe]) -> Recipe:
    """The recipe of a file.

    Args:
        known: recipe by name, for `base`.
    Raises:
        TrainingError: there is none, or a setting is unknown or of another type; one sentence that names it.
    """
    if not path.is_file():
        raise TrainingError(f"there is no recipe {path}; give the path of a .toml or .py file")
    recipe = _of_python(path) if path.suffix == ".py" else _of_toml(path, known)
    return recipe if recipe.name else dataclasses.replace(recipe, name=path.stem)


def _of_python(path: Path) -> Recipe:
    """RECIPE of a Python file, whose own mistakes show as Python shows them."""
    recipe = runpy.run_path(str(path)).get("RECIPE")
    if not isinstance(recipe, Recipe):
        raise TrainingError(f"{path} has no RECIPE; end it with RECIPE = Recipe(...) of training.recipes.base")
    return recipe


def _of_toml(path: Path, known: Callable[[str], Recipe]) -> Recipe:
    import msgspec  # here, so that the recipes that are no files need torch alone (tests/device)

    try:
        given = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} is not TOML ({error}); correct it") from error
    name = given.pop("base", None)
    if not isinstance(name, str):
        raise TrainingError(f'{path} does not say what it changes; begin it with base = "small-64" or another recipe')
    values = {"name": path.stem} | given
    try:
        return msgspec.convert(_merged(dataclasses.asdict(known(name)), values, path, ""), Recipe)
    except (msgspec.ValidationError, NVGError) as error:
        raise TrainingError(f"{path}: {str(error).replace('`', '').replace('$.', '')}; correct it") from error


def _merged(base: dict[str, Any], given: Mapping[str, Any], path: Path, where: str) -> dict[str, Any]:
    """`base` with the values that are given, table by table. Raises TrainingError: it has no such setting."""
    merged = dict(base)
    for name, value in given.items():
        if name not in base:
            near = difflib.get_close_matches(name, base, 3) or list(base)
            raise TrainingError(f"{path}: there is no setting {where}{name}; there are {', '.join(near)}")
        old = base[name]
        if isinstance(old, dict) and isinstance(value, Mapping):
            value = _merged(old, value, path, f"{where}{name}.")
        merged[name] = value
    return merged
