"""Pictures of the command line: reading them from files, and writing results that are whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvg_model.errors import NVGError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from nvg_model.model import NVG


def read_picture(model: NVG, path: str, fit: str) -> Tensor:
    """A picture file as [1,3,H,W] of the model's size. Raises NVGError where it cannot be read."""
    from nvg_model import pictures, render

    if not Path(path).is_file():
        raise NVGError(f"there is no picture {path}")
    with pictures.opened(Path(path), path) as image:
        return render.from_pil(image, model.config.image_size, fit)


def output_path(name: str) -> Path:
    """Where a result will go. Raises NVGError now, before the work, where it cannot be written."""
    path = Path(name)
    folder = path.parent
    if path.is_dir():
        raise NVGError(f"{path} is a folder; name a file to write")
    if not folder.is_dir():
        raise NVGError(f"{path} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise NVGError(f"{path} cannot be written: the folder {folder} is not yours to write to")
    return path


def save_picture(picture: Image, out: Path, recipe: dict[str, Any], scale: int = 1) -> int:
    """Writes a PNG that carries its recipe in the text field `nvg`, and prints its path."""
    from PIL.PngImagePlugin import PngInfo

    from nvg_model import render

    text = PngInfo()
    text.add_text("nvg", json.dumps(recipe))
    with replacing(out) as partial:
        render.enlarge(picture, scale).save(partial, "png", pnginfo=text)
    print(out)
    return 0


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name that becomes `path` at the end, so that the file is whole or not there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise NVGError(f"{path} could not be written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)
