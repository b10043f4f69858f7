"""`python -m training COMMAND RECIPE`: one entry for everything that makes weights."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import tyro

from nvg_model.errors import NVGError
from training.data import DataError
from training.loop import Interrupted
from training.recipes import recipe

RUNS = Path("~/nvg-runs").expanduser()
DATA = Path("~/nvg-data").expanduser()


def data(
    name: Literal["emoji64"], /, out: Path | None = None, downloads: Path = DATA / "downloads", force: bool = False
) -> None:
    """Makes a data set (needs npm).

    Args:
        name: the data set.
        out: folder to make; ~/nvg-data/NAME by default.
        downloads: folder for the packages it is made from.
        force: replace an existing folder.
    """
    from training.data import emoji

    emoji.make(out or DATA / name, downloads, force)


def tokenizer(name: str, /, data: Path | None = None, run: Path | None = None, steps: int | None = None) -> None:
    """Trains the tokenizer, or goes on where the last call stopped.

    Args:
        name: the recipe.
        data: folder with train/CLASS/PICTURE and held-out/CLASS/PICTURE; ~/nvg-data/RECIPE by default.
        run: folder of the run; ~/nvg-runs/RECIPE by default.
        steps: instead of the recipe's.
    """
    from training.tokenizer import train_tokenizer

    chosen = recipe(name)
    if steps is not None:
        chosen = dataclasses.replace(chosen, tokenizer=dataclasses.replace(chosen.tokenizer, steps=steps))
    train_tokenizer(chosen, data or DATA / name, run or RUNS / name)


def generator(name: str, /, data: Path | None = None, run: Path | None = None, steps: int | None = None) -> None:
    """Trains both generators on the run's tokenizer, or goes on where the last call stopped.

    Args:
        name: the recipe.
        data: folder with train/CLASS/PICTURE; ~/nvg-data/RECIPE by default.
        run: folder of the run; ~/nvg-runs/RECIPE by default.
        steps: instead of the recipe's.
    """
    from training.generator import train_generator

    chosen = recipe(name)
    if steps is not None:
        chosen = dataclasses.replace(chosen, generator=dataclasses.replace(chosen.generator, steps=steps))
    train_generator(chosen, data or DATA / name, run or RUNS / name)


def export(name: str, /, run: Path | None = None, out: Path | None = None) -> None:
    """Writes the run's averaged weights as a checkpoint for nvg_model and ComfyUI.

    Args:
        name: the recipe.
        run: folder of the run; ~/nvg-runs/RECIPE by default.
        out: the file; RUN/RECIPE.safetensors by default.
    """
    from training.export import export as write

    folder = run or RUNS / name
    write(recipe(name), folder, out or folder / f"{name}.safetensors")


COMMANDS: dict[str, Callable[..., None]] = {
    "data": data,
    "tokenizer": tokenizer,
    "generator": generator,
    "export": export,
}


def main() -> int:
    """Runs a command; a mistake of the user ends with one sentence and status 2."""
    try:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="python -m training")
    except (DataError, NVGError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
