"""From the bytes of a picture file to pixels, whatever the file holds.

Shapes: H W pixels of the result; RGBA, 8 bits a channel, not premultiplied.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from nvg_model.errors import NVGError
from nvg_model.pictures import eight_bits

READABLE = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
SUFFIXES = READABLE | {".heic", ".heif", ".jxl", ".svg"}
"""With kinds that people have and Pillow does not read: they are named, not passed over."""
LONGEST = 16  # times the short side; longer pictures would take any amount of memory


class UnreadablePictureError(Exception):
    """The bytes are no picture that can be used; the text says why."""


def decode(data: bytes, size: tuple[int, int], margin: float | None = None) -> np.ndarray:
    """The (first) picture in a file: turned upright as its EXIF says, converted to RGBA, resized.

    Args:
        size: height and width wanted.
        margin: None: the whole picture, stretched to `size`. A number >= 1: resized with its aspect kept, as small
            as covers margin * size (paper section 3.1: the shorter side to 1.125 * size), for a crop of `size`.
    Returns:
        uint8 [4,H,W].
    Raises:
        UnreadablePictureError: broken, no picture, or of a kind that cannot be converted rightly.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            # JPEGs are decoded at a smaller scale where that leaves twice the pixels that are needed.
            room = round(2 * max(size) * (margin or 1))
            image.draft(None, (room, room))  # None: the mode stays
            upright = _eight_bit(ImageOps.exif_transpose(image))
        height, width = size if margin is None else _covering(upright, size, margin)
        # Pillow resizes RGBA premultiplied, so that hidden colours do not bleed into edges.
        resized = upright.resize((width, height), Image.Resampling.LANCZOS)  # a copy where nothing changes
        return np.asarray(resized.convert("RGBA")).transpose(2, 0, 1)
    except UnreadablePictureError:
        raise
    except Exception as error:  # decoders raise almost anything on broken files
        raise UnreadablePictureError(_reason(error, data)) from error


def _reason(error: Exception, data: bytes) -> str:
    """One line, without the address of the buffer that Pillow puts into it."""
    if isinstance(error, UnidentifiedImageError):
        return _kind(data)
    return " ".join(str(error).split()) or type(error).__name__


def _kind(data: bytes) -> str:
    """What a file is that Pillow does not read, whatever its name says, and what to do."""
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        return "it is HEIC, as iPhones save photos; save it as JPEG or PNG"
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "it is JPEG XL; save it as JPEG or PNG"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the file itself with git lfs pull"
    if b"<svg" in start:
        return "it is an SVG drawing; save it as PNG"
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page; download the picture itself"
    return "it is empty" if not data else "no picture format that Pillow knows"


def _eight_bit(image: Image.Image) -> Image.Image:
    """RGBA where anything is transparent, else RGB."""
    if image.mode == "F":
        raise UnreadablePictureError("its pixels are floating-point numbers of an unknown range; save it with integers")
    try:
        image = eight_bits(image)
    except NVGError:
        raise UnreadablePictureError("its pixels have more than 16 bits; save it with 8 or 16") from None
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _covering(image: Image.Image, size: tuple[int, int], margin: float) -> tuple[int, int]:
    """Height and width of the picture when it just covers margin * size."""
    if max(image.size) > LONGEST * min(image.size):
        raise UnreadablePictureError(f"{image.width} x {image.height} is too long for a crop; cut it")
    scale = max(margin * size[0] / image.height, margin * size[1] / image.width)
    return max(round(image.height * scale), size[0]), max(round(image.width * scale), size[1])
