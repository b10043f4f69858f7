"""How the weights of a checkpoint came to be, from the saves of the run: what really ran, not what the recipe says."""

from __future__ import annotations

import dataclasses
import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import nvg_model
from training import checkpointing
from training.logging import versions
from training.recipes import RECIPES
from training.recipes.base import Recipe
from training.recipes.own import own
from training.run_folder import changed_settings

States = dict[str, dict[str, Any]]
"""Saves of generators, or what is known of them (`checkpointing.about`), by what they train."""


def provenance(recipe: Recipe, run: Path, states: States, decoder: bool = False) -> dict[str, Any]:
    """Commands, settings, steps, licence and attribution of a run's generators, as plain values.

    Args:
        states: the saves that the weights are taken from.
        decoder: whether the run's decoder, trained once more, is in the model.
    """
    first = next(iter(states.values()))
    start = str(first["meta"]["recipe"]["start"])
    found: dict[str, Any] = {"recipe": recipe.name, "commands": []}
    if not start:
        found |= _part(run / "tokenizer", "tokenizer", found["commands"])
    if decoder:
        found |= _part(run / "decoder", "decoder", found["commands"])
    for state in states.values():
        found["commands"] += commands("generator", "generator", state["meta"])
    return {
        **found,
        **_generators(first),
        **_rights(recipe, start),
        **versions(),
        **{networks: _generators(state) for networks, state in states.items() if networks != "both"},
    }


def with_conversion(found: dict[str, Any], part: str, state: dict[str, Any]) -> dict[str, Any]:
    """The provenance of a model one of whose networks was converted in the training of this save: `few_step` or
    `guidance`."""
    meta = state["meta"]
    more = {part: meta["recipe"][part], f"{part}_steps_done": state["step"]}
    said = [*found.get("commands", []), *commands(part.replace("_", "-"), part, meta)]
    return found | more | {"commands": said} | _resumed(meta, part, f"{part}_")


def commands(command: str, part: str, meta: dict[str, Any]) -> list[str]:
    """The commands of a training that was started so and went on so, with the options that differ from the recipe's.

    Without the user's folders.
    """
    starts = meta.get("starts") or [{"step": 0, "recipe": meta["recipe"]}]
    return [_command(command, part, start["recipe"]) for start in starts]


def _command(command: str, part: str, recipe: dict[str, Any]) -> str:
    words, base = [command, recipe["name"]], RECIPES.get(recipe["name"]) or own(recipe["name"])
    if base is not None:
        plain = dataclasses.asdict(base)
        for name, (_, value) in changed_settings(plain, recipe, part).items():
            option = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            else:
                words += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
        if recipe["start"] != plain["start"]:
            words += ["--start-from", _without_folders(recipe["start"])]
    return shlex.join(["python", "-m", "training", *words])


def _part(folder: Path, part: str, said: list[str]) -> dict[str, Any]:
    """What a run's tokenizer or decoder was trained with, and how far; nothing where its saves are gone."""
    state = checkpointing.about(folder)
    if state is None:
        return {}
    said += commands(part, part, state["meta"])
    settings = state["meta"]["recipe"][part]
    return {part: settings, f"{part}_steps_done": state["step"]} | _resumed(state["meta"], part, f"{part}_")


def _generators(state: dict[str, Any]) -> dict[str, Any]:
    """What a save of generators was trained with, and how far."""
    recipe = state["meta"]["recipe"]
    done = {"start": _without_folders(recipe["start"]), "generator_steps_done": state["step"]}
    parts = {part: recipe[part] for part in ("generator", "views")}
    return {**parts, **done, **_resumed(state["meta"], "generator")}


def _resumed(meta: dict[str, Any], part: str, prefix: str = "") -> dict[str, Any]:
    """Where a training went on with other settings: the step and what changed, as [before, after]."""
    starts = meta.get("starts", [])
    changes = [
        {"step": then["step"], "changed": {name: list(pair) for name, pair in changed.items()}}
        for had, then in pairwise(starts)
        if (changed := changed_settings(had["recipe"], then["recipe"], part))
    ]
    return {f"{prefix}resumed": changes} if changes else {}


def _rights(recipe: Recipe, start: str) -> dict[str, Any]:
    """Licence and attribution of the recipe. A fine-tuned model has those of its start as well."""
    if not start:
        return {"licence": recipe.licence, "attribution": recipe.attribution}
    before = {key: value for key, value in nvg_model.load(start).provenance.items() if key != "file"}
    rights = {}
    for key, ours in (("licence", recipe.licence), ("attribution", recipe.attribution)):
        given = str(before.get(key) or "")
        both = f"{ours}; started from {_without_folders(start)}: {given}"
        rights[key] = both if ours and given and ours != given else ours or given
    return {**rights, "start_provenance": json.loads(json.dumps(before))}


def _without_folders(start: str) -> str:
    """The name of a start checkpoint without the maker's folders."""
    return Path(start).name if Path(start).is_file() else start
