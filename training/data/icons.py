"""Emoji as vector drawings: npm packages of the Iconify project, one file each with all drawings of a vendor."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from training.errors import TrainingError
from training.extras import missing

DRAWINGS = "package/icons.json"
CHARACTERS = "package/chars.json"
PIXELS = 256
"""Height that drawings are rendered at: twice that of the pictures, which are resized from it."""


def drawings(archive: Path, contents: dict[str, bytes]) -> dict[str, str]:
    """SVG text by code points, lower case hex without variation selectors, joined by dashes.

    Args:
        contents: of the archive's files DRAWINGS and CHARACTERS.
    Raises:
        TrainingError: they are not what they should be.
    """
    try:
        icons, names = json.loads(contents[DRAWINGS]), json.loads(contents[CHARACTERS])
        return {code: _svg(icons, icons["icons"][name]) for code, name in names.items() if name in icons["icons"]}
    except (KeyError, ValueError, TypeError) as error:
        raise TrainingError(f"{archive} has no readable drawings ({error!r}): delete it and try again.") from error


def _svg(icons: dict[str, Any], icon: dict[str, Any]) -> str:
    """A whole picture of an icon's body. Sizes are the package's unless the icon has its own; 16 by default."""
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def render(svg: str, height: int = PIXELS) -> Image.Image:
    """An SVG as RGBA, `height` pixels high. Raises TrainingError where its renderer is not there or cannot read it."""
    try:
        import resvg_py
    except ImportError as error:
        raise missing("pictures of vector drawings need", "resvg-py", "svg") from error
    try:
        pixels = resvg_py.svg_to_bytes(svg_string=svg, height=height, skip_system_fonts=True)
    except ValueError as error:
        raise TrainingError(f"a drawing is no SVG ({error}): delete its archive and try again.") from error
    return Image.open(io.BytesIO(bytes(pixels))).convert("RGBA")
