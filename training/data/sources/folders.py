"""A folder per class: FOLDER/CLASS/PICTURE, at any depth below the class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.data.decode import SUFFIXES
from training.data.sources.found import Found


@dataclass(frozen=True)
class Files:
    """Reads files of a folder."""

    folder: Path
    names: list[str]

    def __call__(self, row: int) -> bytes:
        return (self.folder / self.names[row]).read_bytes()


def class_folders(folder: Path) -> Found:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    names, labels = [], []
    for name in classes:
        inside = [f"{name}/{file}" for file in walk(folder / name)]
        names += inside
        labels += [name] * len(inside)
    return Found(str(folder), names, labels, Files(folder, names), tuple(classes) or None)


def walk(folder: Path) -> Iterator[str]:
    """Picture files at any depth, relative to `folder`, sorted folder by folder; hidden ones are left out."""

    def give_up(error: OSError) -> None:
        raise error

    for top, folders, files in os.walk(folder, onerror=give_up):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                yield (Path(top, name)).relative_to(folder).as_posix()
