"""Sheets that compare: a grid of two choices with texts along both axes, and pictures before and after.

Shapes: cells are counted row by row; images [B,3,H,W] in [-1,1]. Sizes are (width, height), as Pillow's.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from nvg_model import schedule
from nvg_model.errors import NVGError
from nvg_model.generation import Classes
from nvg_model.model import NVG
from nvg_model.render import MARGIN
from nvg_model.sampling import SamplingSettings

CLASS, SEED, VARIATION = "class", "seed", "variation"
SETTINGS = tuple(field.name for field in dataclasses.fields(SamplingSettings))
AXES = (CLASS, SEED, VARIATION, *SETTINGS)
"""What an axis can be: the class, the seed, how far a picture is varied, or a sampling setting."""
_TILE = 128
"""Pixels that a picture of a sheet has at least along its shorter side, so that texts beside it can be read."""
_LETTERS = 11
"""Letters of a line that fit beside a tile."""


@dataclass(frozen=True)
class Axis:
    """One choice with several values."""

    name: str
    """One of `AXES`."""
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if self.name not in AXES:
            raise NVGError(f"there is no axis {self.name!r}; there are {', '.join(AXES)}")
        if not self.values:
            raise NVGError(f"the axis {self.name} has no values; give at least one, such as {_example(self.name)}")

    @classmethod
    def read(cls, name: str, text: str) -> Axis:
        """An axis of values with commas between, such as "heart, cat face" or "1 4, 1 7". Raises NVGError."""
        name = name.strip().replace(" ", "_").replace("-", "_")
        parts = [part.strip() for part in text.replace("\n", ",").split(",")]
        return cls(name, tuple(_value(name, part) for part in parts if part))

    @property
    def captions(self) -> list[str]:
        """One text per value."""
        words = "" if self.name == CLASS else self.name.replace("_", " ") + " "
        shown = schedule.shown if self.name in schedule.BY_STAGE else _shown
        return [words + shown(value) for value in self.values]


def _example(name: str) -> str:
    return {CLASS: "heart, bird", SEED: "1, 2, 3"}.get(name, "1, 2")


def _shown(value: Any) -> str:
    """A value as text: 1 to 4 for a pair."""
    if isinstance(value, tuple):
        return " to ".join(f"{one:g}" for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(name: str, text: str) -> Any:
    """A value of an axis from its text."""
    if name in schedule.BY_STAGE:
        return schedule.read(name, text)
    usual = getattr(SamplingSettings(), name, 0.0 if name == VARIATION else "" if name == CLASS else 0)
    try:
        if isinstance(usual, bool):
            return {"on": True, "true": True, "off": False, "false": False}[text.lower()]
        if isinstance(usual, tuple):
            first, *last = map(float, text.split())
            return first, *(last or [first])
        return type(usual)(text)
    except (ValueError, KeyError) as error:
        kind = {bool: "on or off", tuple: "a number, or two with a space between", int: "a whole number"}
        wanted = kind.get(type(usual), "a number")
        raise NVGError(f"{text!r} is no value of the axis {name.replace('_', ' ')}; write {wanted}") from error


def jobs(
    model: NVG,
    columns: Axis,
    rows: Axis,
    classes: Classes = None,
    seed: int = 0,
    settings: SamplingSettings | None = None,
    **more: Any,
) -> list[dict[str, Any]]:
    """The arguments of `NVG.generate` for every picture of a sheet, row by row.

    Args:
        classes, seed, settings: of what is on no axis; one class.
        more: further arguments, for all. On an axis of variations `variation_seed` is the next seed by default.
    Raises:
        NVGError: two axes of one name, a class or a setting that is not there: all is checked before anything is drawn.
    """
    if columns.name == rows.name:
        raise NVGError(f"both axes are {columns.name}; give each its own, such as class and seed")
    found: list[dict[str, Any]] = []
    for row in rows.values:
        for column in columns.values:
            chosen = {columns.name: column, rows.name: row}
            own = {name: one for name, one in chosen.items() if name in SETTINGS}
            job: dict[str, Any] = {"classes": classes, "seed": seed} | more
            job |= {{CLASS: "classes"}.get(name, name): one for name, one in chosen.items() if name not in own}
            if VARIATION in chosen:
                job.setdefault("variation_seed", job["seed"] + 1)
            job["settings"] = dataclasses.replace(settings or model.settings, **own)
            if len(model.class_indices(job["classes"])) != 1:
                raise NVGError(f"{job['classes']} are several classes; a cell has one: put the classes on an axis")
            found.append(job)
    return found


def labelled(images: Sequence[Image.Image], columns: Sequence[str], rows: Sequence[str]) -> Image.Image:
    """A sheet of pictures of one size, with a text above every column and before every row.

    Small pictures are enlarged in plain squares. Texts are as large as fits, and broken where they are long.

    Raises:
        NVGError: not one picture for every row and column.
    """
    if not images or len(images) != len(columns) * len(rows):
        raise NVGError(
            f"{len(images)} pictures do not fill {len(rows)} rows of {len(columns)} columns; give one for each"
        )
    factor = max(1, -(-_TILE // min(images[0].size)))
    width, height = (side * factor for side in images[0].size)
    above = [_text(caption, width) for caption in columns]
    before = [_text(caption, width) for caption in rows]
    top = max(text.height for text in above) + 2 * MARGIN
    left = max(text.width for text in before) + 2 * MARGIN
    size = left + len(columns) * (width + MARGIN), top + len(rows) * (height + MARGIN)
    sheet = Image.new("RGB", size, "white")
    for column, text in enumerate(above):
        sheet.paste(text, (left + column * (width + MARGIN) + (width - text.width) // 2, top - MARGIN - text.height))
    for row, text in enumerate(before):
        sheet.paste(text, (left - MARGIN - text.width, top + row * (height + MARGIN) + (height - text.height) // 2))
    for index, image in enumerate(images):
        row, column = divmod(index, len(columns))
        tile = image.resize((width, height), Image.Resampling.NEAREST)
        place = left + column * (width + MARGIN), top + row * (height + MARGIN)
        sheet.paste(tile, place, tile if tile.mode == "RGBA" else None)
    return sheet


def _text(text: str, width: int) -> Image.Image:
    """Black text on white, at most about `width` pixels wide, on several lines where it is long."""
    lines = "\n".join(textwrap.wrap(text, _LETTERS) or [""])
    size = max(10, width // 7)
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    while True:
        font = ImageFont.load_default(size)
        left, top, right, bottom = draw.multiline_textbbox((0, 0), lines, font=font)
        if right - left <= width or size <= 10:
            break
        size -= 1
    image = Image.new("RGB", (max(1, round(right - left)), max(1, round(bottom - top))), "white")
    ImageDraw.Draw(image).multiline_text((-left, -top), lines, "black", font, align="center")
    return image


def compare(
    before: Sequence[Image.Image], after: Sequence[Image.Image], captions: tuple[str, str] = ("before", "after")
) -> Image.Image:
    """Pictures beside what became of them, a row each; one picture before may serve all after.

    Pictures before are brought to the size of those after.
    """
    return labelled(paired(before, after), captions, [""] * len(after))


def paired(before: Sequence[Image.Image], after: Sequence[Image.Image]) -> list[Image.Image]:
    """Each picture before, in the size of those after, and what became of it. Raises NVGError."""
    if not after or len(before) not in (1, len(after)):
        raise NVGError(f"{len(before)} pictures before and {len(after)} after do not pair; give equally many, or one")
    pairs = zip(before if len(before) == len(after) else [before[0]] * len(after), after, strict=True)
    size = after[0].size
    return [one.resize(size, Image.Resampling.LANCZOS) if one.size != size else one for pair in pairs for one in pair]
