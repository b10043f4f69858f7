"""Draws the pictures of README.md and docs/ again: `make pictures`.

Those of docs/editing.md come from the commands that the page shows, run as they stand there.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

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
    for words in commands(ROOT / "docs" / "editing.md"):
        if cli.main([*words, "--quiet"]):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
