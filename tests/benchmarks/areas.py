"""How well drawn areas are found again in what is drawn along them:

    python tests/benchmarks/areas.py

An area of a share of the picture is given as structure by one of three rules, a picture is generated and tokenized
again, and those regions of its structure that lie mostly inside the area are compared with what was drawn
(intersection over union), at the stage from which the area can be whole regions. `limit` is what the grid allows at
best, `none` a picture to which no area was given.
"""

from __future__ import annotations

import argparse

import torch
from PIL import Image, ImageDraw
from torch import Tensor

import nvg_model
from nvg_model import NVG, SamplingSettings, hierarchy
from nvg_model.areas import RULES, Areas, fitted, rounded
from nvg_model.regions import grid_mask
from nvg_model.render import enlarge, grid, to_pil

SHARES = (0.0625, 0.125, 0.25, 0.375, 0.5)
SHAPES = ("circle", "letter", "ring", "blobs")
SIDE = 128


def drawn(shape: str, size: float) -> Tensor:
    """A shape of about `size` pixels' radius as a mask [SIDE,SIDE]."""
    image = Image.new("L", (SIDE, SIDE))
    draw, middle = ImageDraw.Draw(image), SIDE / 2

    def disc(x: float, y: float, radius: float, fill: int = 255) -> None:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    if shape in ("circle", "ring"):
        disc(middle, middle, size)
        if shape == "ring":
            disc(middle, middle, size / 2, 0)
    elif shape == "blobs":
        disc(0.28 * SIDE, 0.3 * SIDE, 0.6 * size)
        disc(0.7 * SIDE, 0.68 * SIDE, 0.6 * size)
    else:  # an E
        left, top, bar = middle - size, middle - size, 0.35 * size
        draw.rectangle((left, top, left + bar, middle + size), fill=255)
        for y, length in ((top, 1.8), (middle - bar / 2, 1.5), (middle + size - bar, 1.8)):
            draw.rectangle((left, y, left + length * size, y + bar), fill=255)
    return torch.tensor(list(image.tobytes())).view(SIDE, SIDE).float() / 255


def mask_of(shape: str, share: float) -> Tensor:
    """The shape at the size at which it covers a share of the picture."""
    low, high = 1.0, float(SIDE)
    for _ in range(20):
        size = (low + high) / 2
        low, high = (size, high) if float(drawn(shape, size).mean()) < share else (low, size)
    return drawn(shape, high)


def generated(model: NVG, classes: list[str], masks: Tensor, rule: str, settings: SamplingSettings) -> Tensor:
    """Images along the areas, by a rule."""
    options = {} if rule == "none" else {"area": masks, "area_rule": rule}
    return model.decode(model.generate(classes, 5, settings, **options))


def found_again(model: NVG, images: Tensor, areas: Areas, masks: Tensor) -> Tensor:
    """Intersection over union [B] of the areas and the regions of the images that lie mostly inside."""
    labels, shares = (
        model.tokenize(images).structure[:, areas.stage],
        grid_mask(masks, len(masks), model.config.grid, ""),
    )
    means = hierarchy.cluster_means(areas.positions.float()[..., None], labels, 2**areas.stage)
    return overlap((means[..., 0].gather(1, labels) > 0.5).float(), shares)


def overlap(first: Tensor, second: Tensor) -> Tensor:
    return torch.minimum(first, second).sum(1) / torch.maximum(first, second).sum(1)


def main() -> None:
    """Prints the table; writes a sheet of the pictures, a row for every share and rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji64")
    parser.add_argument("--classes", nargs="+", default=["heart", "flower"])
    parser.add_argument("--sheet", help="a PNG to write")
    args = parser.parse_args()
    model = nvg_model.load(args.model)
    settings, tiles = model.settings, []
    classes = [name for _ in SHAPES for name in args.classes]
    free = model.decode(model.generate(classes, 5, settings))
    print(f"{'share':<8}{'rule':<8}{'stage':>6}{'all':>8}" + "".join(f"{shape:>8}" for shape in SHAPES), flush=True)
    for share in SHARES:
        masks = torch.stack([mask_of(shape, share) for shape in SHAPES for _ in args.classes])
        areas = fitted(masks, len(masks), model.config.grid)
        shares = grid_mask(masks, len(masks), model.config.grid, "")
        results = {"limit": overlap(areas.positions.float(), shares)}
        for rule in ("none", *RULES):
            images = free if rule == "none" else generated(model, classes, masks, rule, settings)
            results[rule] = found_again(model, images, areas, masks)
            tiles += to_pil(images)
        for name, values in results.items():
            by_shape = values.view(len(SHAPES), -1).mean(1)
            row = "".join(f"{float(value):>8.2f}" for value in (values.mean(), *by_shape))
            stage = rounded(share, model.config.positions)[0]
            print(f"{share:<8.1%}{name:<8}{stage:>6}{row}", flush=True)
    if args.sheet:
        enlarge(grid(tiles, len(classes)), 2).save(args.sheet)


if __name__ == "__main__":
    main()
