"""`python -m training COMMAND RECIPE`: one entry for everything that makes weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nvg_model.errors import NVGError
from training.data import DataError
from training.loop import Interrupted
from training.recipes import recipe

RUNS = Path("~/nvg-runs").expanduser()
DATA = Path("~/nvg-data").expanduser()


def data(name: Literal["emoji64"], /, out: Path | None = None, downloads: Path = DATA / "downloads", force: bool = False) -> None:
    """Makes a data set (needs npm).

    Args:
        name: the data set.
        out: folder to make; ~/nvg-data/NAME by default.
        downloads: folder for the packages it is made from.
        force: replace an existing folder.
    """
    from training.data import emoji

    emoji.make(out or DATA / name, downloads, force)


def tokenizer(name: str, /, data: Path | None = None, run: Path | None = None) -> None:
    """Trains the tokenizer, or goes on where the last call stopped.

    Args:
        name: the recipe.
        data: folder with train/CLASS/PICTURE and held-out/CLASS/PICTURE; ~/nvg-data/RECIPE by default.
        run: folder of the run; ~/nvg-runs/RECIPE by default.
    """
    from training.tokenizer import train_tokenizer

    train_tokenizer(recipe(name), data or DATA / name, run or RUNS / name)


def main() -> int:
    """Runs a command; a mistake of the user ends with one sentence and status 2."""
    try:
        tyro.extras.subcommand_cli_from_dict({"data": data, "tokenizer": tokenizer}, prog="python -m training")
    except (DataError, NVGError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
