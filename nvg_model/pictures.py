"""Opening picture files: one sentence for each that cannot be used."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from nvg_model import foreign
from nvg_model.errors import NVGError


@contextmanager
def opened(file: Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    """The picture in a file, whose pixels may be read inside of the `with`.

    Args:
        name: what to call it in complaints.
    Raises:
        NVGError: not a picture, damaged, with more pixels than Pillow reads (about 179 million), or with floating-point
            pixels, whose white is unknown.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, but not too large
            with Image.open(file) as picture:
                _check_mode(picture, name)
                yield picture
    except NVGError:
        raise
    except Image.DecompressionBombError as error:
        raise NVGError(f"{name} {_too_large(error)}") from error
    except UnidentifiedImageError as error:
        other = foreign.kind_of(file) if isinstance(file, Path) else None
        if other and "picture" in other:
            raise NVGError(f"{name} is a damaged picture; save it again") from error
        raise NVGError(f"{name} is {other or 'not a picture of a known format'}") from error
    except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NVGError(f"{name} is damaged or cannot be read ({reason})") from error


def eight_bits(picture: Image.Image) -> Image.Image:
    """The picture; 16-bit grey is scaled, as Pillow would clip it. Raises NVGError where its values need more bits."""
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 65535:
        raise NVGError(
            f"the picture has whole numbers from {values.min()} to {values.max()} as pixels, of which nobody knows "
            "what is white; save it with 8 or 16 bits a channel"
        )
    return Image.fromarray((values / 257).round().astype(np.uint8))


def _check_mode(picture: Image.Image, name: str) -> None:
    if picture.mode.startswith("F"):
        raise NVGError(
            f"{name} has floating-point pixels, of which nobody knows what is white; save it with 8 or 16 bits a "
            "channel"
        )


def _too_large(error: Exception) -> str:
    """What is wrong with a picture that Pillow finds too large; its message has both numbers."""
    numbers = re.findall(r"\d+", str(error))
    if len(numbers) != 2:
        return "has too many pixels; make it smaller"
    has, most = (f"{int(number) / 1e6:.0f} million" for number in numbers)
    return f"has {has} pixels, and {most} is the most that is read; make it smaller"
