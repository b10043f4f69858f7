"""A folder of pictures, one sub-folder per class, held in memory.

Shapes: M pictures, H W pixels; RGBA, 8 bits a channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from training.data import DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size, with their classes."""

    pixels: Tensor
    """uint8 [M,4,H,W], red, green, blue and opacity, not premultiplied."""
    labels: Tensor
    """long [M], index into `classes`."""
    classes: tuple[str, ...]
    names: tuple[str, ...]
    """File name of every picture, relative to the folder."""

    def __len__(self) -> int:
        return len(self.labels)


def load_pictures(folder: Path, size: tuple[int, int], classes: tuple[str, ...] | None = None) -> Pictures:
    """Reads `folder`/<class>/<picture>, resized to `size` (height, width) where needed.

    Args:
        classes: the class names in order; None: the sub-folders, sorted.
    Raises:
        DataError: no such folder, a class without pictures, or a file that is not a picture.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; make the data first or pass --data")
    names = classes or tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    pixels, labels, files = [], [], []
    for index, name in enumerate(names):
        paths = sorted(path for path in (folder / name).glob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise DataError(f"class {name!r} has no pictures in {folder / name}; add some or leave the class out")
        pixels += [_read(path, size) for path in paths]
        labels += [index] * len(paths)
        files += [f"{name}/{path.name}" for path in paths]
    return Pictures(torch.from_numpy(np.stack(pixels)), torch.tensor(labels), names, tuple(files))


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(path) as image:
            rgba = image.convert("RGBA")
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} cannot be read as a picture ({error}); repair or remove it") from error
    if rgba.size != (size[1], size[0]):
        rgba = rgba.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return np.asarray(rgba).transpose(2, 0, 1)
