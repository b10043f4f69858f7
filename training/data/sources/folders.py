"""A folder per class: FOLDER/CLASS/PICTURE, at any depth below the class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.decode import SUFFIXES
from training.data.sources.found import Found
from training.errors import TrainingError


@dataclass(frozen=True)
class Files:
    """Reads files of a folder."""

    folder: Path
    names: list[str]

    def __call__(self, row: int) -> bytes:
        return (self.folder / self.names[row]).read_bytes()


def class_folders(folder: Path) -> Found:
    inside = [require_target(path) for path in folder.iterdir() if not path.name.startswith(".")]
    classes = sorted(path.name for path in inside if path.is_dir())
    names, labels = [], []
    for name in classes:
        files = [f"{name}/{file}" for file in walk(folder / name)]
        names += files
        labels += [name] * len(files)
    return Found(str(folder), names, labels, Files(folder, names), tuple(classes) or None)


def walk(folder: Path) -> Iterator[str]:
    """Picture files at any depth, relative to `folder`, sorted folder by folder; hidden ones are left out.

    Links to folders are followed, but for those that lead back to a folder that they are in.
    """

    def give_up(error: OSError) -> None:
        raise error

    for top, folders, files in os.walk(folder, onerror=give_up, followlinks=True):
        here = Path(top)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not leads_back(here / name))
        for name in sorted(files):
            if name.startswith("."):
                continue
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                yield (here / name).relative_to(folder).as_posix()
            else:
                require_target(here / name)


def leads_back(path: Path) -> bool:
    """Whether this is a link to a folder that it lies in."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def require_target(path: Path) -> Path:
    """Itself. Raises TrainingError: a link to nothing, which may have been a folder of pictures."""
    if path.is_symlink() and not path.exists():
        raise TrainingError(f"{path} is a link to {os.readlink(path)}, which is not there; correct or remove it")
    return path
