"""Flat vector drawings as pictures and as maps of their shapes: true regions to compare a structure with.

A drawing is an SVG of a few shapes, the later ones over the earlier. Its map tells of every pixel which shape is seen
there; 0 is the background.
"""

from __future__ import annotations

import re
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nvg_model import render
from training.data import icons
from training.errors import TrainingError

SHAPES = {"path", "circle", "ellipse", "rect", "polygon", "polyline", "line"}
UNSEEN = {"defs", "clipPath", "mask", "pattern", "symbol", "linearGradient", "radialGradient", "filter"}
_SVG = "{http://www.w3.org/2000/svg}"
_NO_PAINT = {"opacity", "fill-opacity", "stroke-opacity", "style", "filter", "mask"}
"""Attributes that would mix a shape's colour with others', which has to say which shape it is."""


def read_drawings(path: Path) -> dict[str, str]:
    """SVG text by name: of a folder of .svg files, or of an Iconify package as `npm pack` fetches it.

    Raises:
        TrainingError: there is neither, or nothing in it.
    """
    if path.is_dir():
        found = {one.stem: one.read_text(encoding="utf-8") for one in sorted(path.glob("*.svg"))}
    elif path.is_file():
        try:
            with tarfile.open(path) as archive:
                contents = {name: archive.extractfile(name).read() for name in (icons.DRAWINGS, icons.CHARACTERS)}  # type: ignore[union-attr]
        except (tarfile.TarError, KeyError, OSError) as error:
            raise TrainingError(
                f"{path} is no Iconify package ({error}); fetch one with `npm pack @iconify-json/fluent-emoji-flat`"
            ) from error
        found = icons.drawings(path, contents)
    else:
        raise TrainingError(
            f"there are no drawings in {path}: give a folder of .svg files or the file that "
            "`npm pack @iconify-json/fluent-emoji-flat` fetches"
        )
    if not found:
        raise TrainingError(f"{path} holds no .svg files")
    return found


def picture_and_map(svg: str, size: int) -> tuple[Image.Image, NDArray[np.int64]] | None:
    """A drawing as RGBA and the shape seen at every pixel, [size,size]; scaled as the emoji of the data sets are.

    Returns:
        None for a drawing whose shapes cannot be told apart (it repeats or clips some), or that is empty.
    """
    root = ElementTree.fromstring(svg)
    if any(element.tag == f"{_SVG}use" or "clip-path" in element.attrib for element in root.iter()):
        return None
    opacity = np.asarray(icons.render(svg).getchannel("A"))
    if not opacity.any():
        return None
    root.set("viewBox", _framed(root, opacity))
    root.set("width", str(size))
    root.set("height", str(size))
    picture = icons.render(ElementTree.tostring(root, encoding="unicode")).resize((size, size), Image.Resampling.BOX)
    _number_shapes(root)
    root.set("shape-rendering", "crispEdges")
    numbered = np.asarray(icons.render(ElementTree.tostring(root, encoding="unicode"), size)).astype(np.int64)
    numbers = numbered[..., 0] * 65536 + numbered[..., 1] * 256 + numbered[..., 2]
    return picture, np.where(numbered[..., 3] > 127, numbers, 0)


def _framed(root: ElementTree.Element, opacity: NDArray[np.uint8]) -> str:
    """The view box of a square around the drawing, which is as large in it as an emoji of the data sets."""
    left, top, width, height = map(float, re.split(r"[\s,]+", root.get("viewBox", "").strip()))
    unit = height / opacity.shape[0]
    rows, columns = np.nonzero(opacity.max(1) > 0)[0], np.nonzero(opacity.max(0) > 0)[0]
    area = (opacity / 255).sum() * unit**2
    side = max((area / render.COVERED) ** 0.5, (max(np.ptp(rows), np.ptp(columns)) + 1) * unit / render.LONGEST)
    middle = (columns[0] + columns[-1] + 1) / 2 * unit, (rows[0] + rows[-1] + 1) / 2 * unit
    return f"{left + middle[0] - side / 2} {top + middle[1] - side / 2} {side} {side}"


def _number_shapes(root: ElementTree.Element) -> None:
    """Paints every shape in a colour that is its number, counted from 1."""
    count = 0
    pending: list[tuple[ElementTree.Element, bool]] = [(root, True)]
    while pending:
        element, seen = pending.pop()
        kind = element.tag.removeprefix(_SVG)
        seen = seen and kind not in UNSEEN
        if seen:
            for name in _NO_PAINT & element.attrib.keys():
                del element.attrib[name]
        if seen and kind in SHAPES:
            count += 1
            colour = f"#{count:06x}"
            if element.get("fill") != "none":
                element.set("fill", colour)
            if element.get("stroke", "none") != "none":
                element.set("stroke", colour)
        elif seen:  # what a group paints with would colour the shapes that say nothing
            for name in ("fill", "stroke"):
                if element.get(name, "none") != "none":
                    element.set(name, "#000000")
        pending += [(child, seen) for child in reversed(list(element))]
