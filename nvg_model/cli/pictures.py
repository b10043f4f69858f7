"""Pictures of the command line: reading them from files, and writing results that are whole or not there."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvg_model import files
from nvg_model.errors import NVGError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from nvg_model.model import NVG


def read_picture(model: NVG, path: str, fit: str, subject: str | None = None) -> Tensor:
    """A picture file as [1,3,H,W] of the model's size. Raises NVGError where it cannot be read.

    Args:
        subject: file of a mask, white on what is left of the picture; the rest becomes white.
    """
    from nvg_model import render

    with _picture(path) as image:
        cut = render.with_subject(image, _brightness(subject)) if subject else image
        return render.from_pil(cut, model.config.image_size, fit)


def read_mask(path: str) -> Tensor:
    """A picture file's brightness as a mask float32 [H,W], 0 where it is transparent. Raises NVGError."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(_brightness(path))).float() / 255


def _brightness(path: str) -> Image:
    """A picture file in grey, black where it is transparent. Raises NVGError."""
    from PIL import Image

    with _picture(path) as image:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, "black")
        return Image.alpha_composite(black, image).convert("L")


def read_pixels(path: str, size: tuple[int, int], fit: str) -> Tensor:
    """A picture file as [1,3|4,H,W] with its own pixels, cut or padded to the proportions of `size` (H, W).

    Those that stay are not resampled, except by `stretch`. Raises NVGError.
    """
    import numpy as np
    import torch

    if fit == "subject":
        raise NVGError("--fit subject is for what is taken apart; here every pixel stays: give crop, pad or stretch")
    with _picture(path) as image:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        if fit == "stretch":
            image = image.resize(size[::-1])
        else:
            image = _proportioned(image, size, grow=fit == "pad")
        pixels = np.array(image)
    return (torch.from_numpy(pixels).float() / 127.5 - 1).permute(2, 0, 1)[None]


def _proportioned(image: Image, size: tuple[int, int], grow: bool) -> Image:
    """The middle of a picture in the proportions of `size` (H, W), or all of it with white around it."""
    common = math.gcd(*size)
    height, width = size[0] // common, size[1] // common
    times = max(-(-image.height // height), -(-image.width // width))
    if not grow:
        times = min(image.height // height, image.width // width)
    if times < 1:
        raise NVGError(f"the picture has {image.width}x{image.height} pixels, too few to cut {width}x{height} of it")
    left, top = (image.width - times * width) // 2, (image.height - times * height) // 2
    cut = image.crop((left, top, left + times * width, top + times * height))  # black where it sticks out
    if not grow:
        return cut
    padded = cut.copy()
    padded.paste((255,) * len(cut.getbands()), (0, 0, *cut.size))
    padded.paste(image, (-left, -top))
    return padded


@contextmanager
def _picture(path: str) -> Iterator[Image]:
    """A picture file the right way up. Raises NVGError."""
    from PIL import ImageOps

    from nvg_model import pictures

    if not Path(path).is_file():
        raise NVGError(f"there is no picture {path}")
    with pictures.opened(Path(path), path) as image:
        yield ImageOps.exif_transpose(image)


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
    """`files.replacing`, with a sentence for what can go wrong. Raises NVGError."""
    try:
        with files.replacing(path) as partial:
            yield partial
    except OSError as error:
        raise NVGError(f"{path} could not be written ({error.strerror or error})") from error
