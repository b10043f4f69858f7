"""Draws the pictures of README.md and docs/ again: `make pictures`.

Those of docs/editing.md come from the commands that the page shows, run as they stand there; those of docs/emoji64.md
that no command makes are made here.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

import nvg_model
from nvg_model import cli, render

ROOT = Path(__file__).parents[1]
CLASSES = ("cat face", "heart", "bird", "flower", "boat", "person")
SEED = 2
SIDE = 96
"""Pixels of a picture in the animation."""


def growing(path: Path) -> None:
    """An animation: pictures of six classes, each above its structure map, stage after stage."""
    model = nvg_model.load("emoji64")
    frames = [_frame(model, state) for state in model.stages(CLASSES, seed=SEED)]
    durations = [500] * (len(frames) - 1) + [2500]
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
        quality=85,
        method=6,
        minimize_size=True,
    )


def _frame(model: nvg_model.NVG, state: nvg_model.VisualGranularitySequence) -> Image.Image:
    """The pictures of a stage in a row, and their structure maps below."""
    stage, gap = state.num_stages - 1, 6
    frame = Image.new("RGB", (len(CLASSES) * (SIDE + gap) + gap, 2 * SIDE + 3 * gap), "white")
    for column, picture in enumerate(render.to_pil(model.decode(state))):
        size = model.config.output_size
        regions = render.structure_image(state.structure[column, stage], 2**stage, model.config.grid, size)
        left = gap + column * (SIDE + gap)
        frame.paste(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, gap))
        frame.paste(regions.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, SIDE + 2 * gap))
    return frame


def outlines(path: Path) -> None:
    """One picture of every class in the shape of a ring and of a letter; prints how far the opacity is the shape."""
    model = nvg_model.load("emoji64")
    height, width = model.config.output_size
    ring = Image.new("L", (width, height))
    draw = ImageDraw.Draw(ring)
    for share, colour in ((0.42, 255), (0.2, 0)):
        draw.ellipse(
            [(0.5 - share) * width, (0.5 - share) * height, (0.5 + share) * width, (0.5 + share) * height], colour
        )
    letter = Image.open(ROOT / "docs" / "editing" / "letter.png").convert("L").resize((width, height))
    tiles = []
    for name, shape in (("ring", ring), ("letter", letter)):
        mask = torch.tensor(list(shape.getdata()), dtype=torch.float32).view(height, width) / 255
        rgba = model.decode_rgba(model.generate(model.classes, seed=7, area=mask))
        print(f"{name}: {overlap(rgba[:, 3] > 0, mask > 0.5):.1%} of opacity and shape together are both")
        tiles += [shape.convert("RGB"), *(_on_white(one) for one in render.to_pil(rgba))]
    tiles = [tile.resize((SIDE, SIDE), Image.Resampling.LANCZOS) for tile in tiles]
    render.grid(tiles, (len(model.classes) + 1) // 2).save(path, quality=85, method=6)


def _on_white(picture: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")).convert("RGB")


def overlap(drawn: Tensor, shape: Tensor) -> float:
    """Mean intersection over union of masks [B,H,W] with one [H,W]."""
    return float(((drawn & shape).flatten(1).sum(1) / (drawn | shape).flatten(1).sum(1)).mean())


def commands(page: Path) -> Iterator[list[str]]:
    """The `nvg` commands of a page's shell blocks."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["nvg"]:
                yield words[1:]


def main() -> int:
    """Draws everything; 1 where a command fails."""
    growing(ROOT / "docs" / "growing.webp")
    outlines(ROOT / "docs" / "emoji64-outlines.webp")
    for words in commands(ROOT / "docs" / "editing.md"):
        if cli.main([*words, "--quiet"]):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
