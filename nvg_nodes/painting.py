"""What the painter keeps in the workflow, read: a text with maps, one per split, and with colours that have classes.

The text is nothing; or a picture as a data URL ("data:image/png;base64,..."), which is one map; or JSON

    {"version": 1, "masks": [data URL or null, ...],
     "colours": {"picture": data URL or null, "legend": [{"colour": "#e3a23b", "class": "heart"}, ...]}}

In `masks` null repeats the map before, and only nulls are no map at all. Of a map, what is opaque is painted; in a
picture without transparency, what is bright. `colours` may be left out, as older workflows do. Every opaque pixel of
its picture has a colour of the legend, and "class" may be empty.
"""

from __future__ import annotations

import base64
import binascii
import io as streams
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nvg_model import NVGError
from nvg_model.errors import shortened

VERSION = 1
_KINDS = {f"image/{kind}" for kind in ("png", "jpeg", "jpg", "webp", "gif", "bmp", "tiff", "avif")}
"""What a painting may be: pictures of pixels. (An SVG is a drawing in words, which Pillow cannot read.)"""
_LARGEST = 4096
"""Pixels that a painting may have along a side."""
_MOST_COLOURS = 64
_OPAQUE = 128
"""Opacity (0 to 255) that a pixel needs to count as painted."""


@dataclass(frozen=True, eq=False)
class Colour:
    """A colour of the legend that something is painted in."""

    number: int
    """Its place in the legend, from 1 on, as the painter shows it."""
    mask: Tensor
    """float [H,W]: 1 where it is painted, 0 elsewhere. No two colours overlap."""
    class_name: str
    """What it is to become; empty: what the rest of the picture is."""


@dataclass(frozen=True, eq=False)
class Painting:
    """Something is painted: maps, colours, or both."""

    maps: tuple[Tensor, ...]
    """float [H,W] in [0,1], one per split."""
    colours: tuple[Colour, ...]

    @property
    def masks(self) -> tuple[Tensor, ...]:
        """What the structure follows: the maps, or the areas of the colours where there are none."""
        return self.maps or tuple(colour.mask for colour in self.colours)


def read_painting(text: str) -> Painting:
    """A painting of the widget's text. Raises NVGError where nothing is painted, or it is damaged."""
    if not text.strip():
        raise NVGError("nothing is painted yet; draw an area in the node")
    if text.lstrip().startswith("<"):
        raise NVGError("the painting is SVG or other markup; save it as PNG, or clear it and paint again")
    if text.lstrip().startswith("data:"):
        return Painting((_mask(text.strip()),), ())
    urls, picture, legend = _content(text)
    colours = _colours(picture, legend)
    if not any(urls) and legend and not colours:
        raise NVGError("nothing is painted yet; draw an area in the node")
    _check_all_painted(colours, legend)
    if colours and not any(urls):
        return Painting((), colours)
    maps: list[Tensor] = []
    for url in urls:
        if url is None and not maps:
            raise NVGError("the first map is not painted; draw an area on it, or remove it")
        maps.append(_mask(url) if url is not None else maps[-1])
    return Painting(tuple(maps), colours)


def _content(text: str) -> tuple[list[str | None], str | None, list[dict[str, str]]]:
    """Maps, picture of the colours and legend of a painting in JSON."""
    try:
        content = json.loads(text)
        version, urls = content["version"], content["masks"]
        if not isinstance(urls, list) or not urls or not all(url is None or isinstance(url, str) for url in urls):
            raise ValueError("masks must be a list of pictures")
        picture, legend = _coloured(content.get("colours"))
    except (ValueError, KeyError, TypeError) as error:
        raise NVGError(f"the painting is neither a picture nor JSON with version and masks ({error})") from error
    if version != VERSION:
        raise NVGError(f"the painting has version {version}, and this nvg reads version {VERSION}; update nvg")
    return urls, picture, legend


def _coloured(given: Any) -> tuple[str | None, list[dict[str, str]]]:
    """Picture and legend of the colours. Raises ValueError."""
    if given is None:
        return None, []
    if not isinstance(given, dict) or not isinstance(given.get("picture"), str | None):
        raise ValueError("colours must have a picture and a legend")
    legend = given.get("legend")
    if not isinstance(legend, list) or len(legend) > _MOST_COLOURS:
        raise ValueError(f"the legend of the colours must be a list of at most {_MOST_COLOURS}")
    for entry in legend:
        if not isinstance(entry, dict) or not isinstance(entry.get("class", ""), str):
            raise ValueError("an entry of the legend must have a colour, and may have a class")
        if not re.fullmatch("#[0-9a-fA-F]{6}", str(entry.get("colour"))):
            raise ValueError(f"{shortened(str(entry.get('colour')))!r} in the legend is no colour such as #e3a23b")
    if len({entry["colour"].lower() for entry in legend}) < len(legend):
        raise ValueError("the legend has a colour twice")
    return given.get("picture"), legend


def _colours(url: str | None, legend: list[dict[str, str]]) -> tuple[Colour, ...]:
    """The colours that are painted. Raises NVGError for others than the legend's."""
    pixels = np.array(_picture(url) if url else Image.new("RGBA", (1, 1)))
    values = pixels[..., :3].astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
    values[pixels[..., 3] < _OPAQUE] = -1
    found = []
    for number, entry in enumerate(legend, 1):
        here = values == int(entry["colour"][1:], 16)
        if here.any():
            found.append(Colour(number, torch.from_numpy(here).float(), entry.get("class", "").strip()))
        values[here] = -1
    if (values >= 0).any():
        other = int(values[values >= 0][0])
        raise NVGError(f"the painting has pixels of #{other:06x}, which is not in its legend; clear it and paint again")
    return tuple(found)


def _check_all_painted(colours: Sequence[Colour], legend: list[dict[str, str]]) -> None:
    """Raises NVGError for a class of a colour that nothing is painted in."""
    painted = {colour.number for colour in colours}
    for number, entry in enumerate(legend, 1):
        name = entry.get("class", "").strip()
        if name and number not in painted:
            raise NVGError(
                f"colour {number} of the painting has the class {shortened(name)!r}, but nothing is painted in it; "
                "paint it, or empty its class"
            )


def _mask(url: str) -> Tensor:
    """What is painted on a map, float [H,W] in [0,1]."""
    picture = _picture(url)
    alpha = np.array(picture.getchannel("A"))
    painted = alpha if alpha.min() < 255 else np.array(picture.convert("L"))
    return torch.from_numpy(painted).float() / 255


def _picture(url: str) -> Image.Image:
    """The picture RGBA of a data URL. Raises NVGError."""
    head, _, data = url.partition(",")
    kind, *options = head.lower().removeprefix("data:").split(";")
    if not head.startswith("data:image/"):
        raise NVGError(
            f"the painting holds {shortened(head, 40)!r}, not a picture as a data URL; clear it and paint again"
        )
    if kind not in _KINDS:
        raise NVGError(
            f"the painting is a picture of the kind {shortened(kind.removeprefix('image/'), 20)}, which cannot be read "
            "here; save it as PNG, or clear it and paint again"
        )
    try:
        if options[-1:] != ["base64"]:
            raise ValueError("its data is not in base64")
        return _opened(base64.b64decode(data, validate=True))
    except NVGError:
        raise
    except Image.DecompressionBombError as error:
        raise NVGError(
            f"the painting is too large; at most {_LARGEST} pixels a side are read: make it smaller"
        ) from error
    except (ValueError, binascii.Error, UnidentifiedImageError, OSError, SyntaxError) as error:
        raise NVGError(f"the painting is damaged ({_reason(error)}); clear it and paint again") from error


def _opened(data: bytes) -> Image.Image:
    """A picture of a file. Raises NVGError where it is too large, and whatever Pillow raises."""
    with Image.open(streams.BytesIO(data)) as opened:
        if max(opened.size) > _LARGEST:
            raise NVGError(
                f"the painting is {opened.width} x {opened.height} pixels, and at most {_LARGEST} a side are read; "
                "make it smaller"
            )
        return opened.convert("RGBA")


def _reason(error: Exception) -> str:
    """Why a picture could not be read; Pillow names an object in memory where it knows no format."""
    return "no picture that can be read" if isinstance(error, UnidentifiedImageError) else shortened(str(error))
