"""What editing does to pictures, in numbers:

    python tests/benchmarks/editing.py ~/nvg-data/emoji128

regions    Two classes side by side, halves of the picture. A linear probe on ImageNet features (lite0) that was fitted
           to the same halves of the training pictures says what it takes each half for.
seams      Mean difference of neighbouring pixels across a seam, over that of all other neighbours: where a picture
           meets its own opposite edge. (Along the border of what was drawn anew: inpainting.py.)
frames     Mean difference of successive frames of an in-between, over that of pictures which have nothing to do with
           each other.
moving     The same of frames in which an area or a region moves from left to right.
cutouts    Intersection over union of the opacity with the true one of the held-out pictures.
time       Processor time of a picture, over that of a plain call.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import nvg_model.cutout
from nvg_model import NVG, Region, SamplingSettings
from nvg_model.areas import fitted
from nvg_model.cutout import cut_out
from nvg_model.interpolation import structures_between
from nvg_model.render import enlarge, grid, to_pil
from nvg_model.tokenizer import on_white
from training.metrics.lite import Probe, lite
from training.metrics.pictures import Labelled, class_weights, read_split, to_pixels

PAIRS = (
    ("smiley", "cat face"),
    ("heart", "smiley"),
    ("clock", "moon"),
    ("fruit", "flower"),
    ("vehicle", "boat"),
    ("bird", "plant"),
)
MOST = 60  # training pictures of a class that the probe sees


def halves(images: Tensor) -> tuple[Tensor, Tensor]:
    return images.chunk(2, dim=-1)


class HalfProbe:
    """What the left and the right halves of pictures are taken for."""

    def __init__(self, train: Labelled) -> None:
        self.extract = lite("lite1", torch.device("cpu"))
        order = torch.arange(len(train))
        ranks = torch.stack([(train.labels[: i + 1] == label).sum() for i, label in enumerate(train.labels)])
        train = train.at(order[ranks <= MOST])
        weights = class_weights(train.labels, len(train.classes))
        self.probes = [
            Probe(self.extract(half)[0], train.labels, len(train.classes), weights) for half in halves(train.pixels)
        ]

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        left, right = (probe(self.extract(half)[0]) for probe, half in zip(self.probes, halves(pixels), strict=True))
        return left, right


def regions(model: NVG, data: str, settings: SamplingSettings, seeds: int, sheet: str | None) -> None:
    """Accuracy of both halves; that of the held-out pictures is what the probe can do."""
    train = read_split(data, "train", model.config.output_size, model.classes)
    held_out = read_split(data, "held-out", model.config.output_size, model.classes)
    probe = HalfProbe(train)
    mask = torch.zeros(model.config.image_size)
    mask[:, model.config.image_size[1] // 2 :] = 1
    rows, tiles = [], []
    for left, right in PAIRS:
        drawn = model.generate([left] * seeds, 0, settings, regions=[Region(mask, right)])
        images = model.decode(drawn)
        tiles += to_pil(images[:8])
        taken = probe(to_pixels(images))
        wanted = [model.class_indices(name) for name in (left, right)]
        own = [float((one == index).float().mean()) for one, index in zip(taken, wanted, strict=True)]
        other = [float((one == index).float().mean()) for one, index in zip(taken, wanted[::-1], strict=True)]
        rows.append((*own, *other))
        print(f"regions  {left + ' | ' + right:<20} left {own[0]:.0%}, right {own[1]:.0%}", flush=True)
    means = torch.tensor(rows).mean(0).view(2, 2).mean(1)
    real = [float((one == held_out.labels).float().mean()) for one in probe(held_out.pixels)]
    print(f"regions  all: own class {means[0]:.0%}, the other side's {means[1]:.0%}; held-out {sum(real) / 2:.0%}")
    if sheet:
        enlarge(grid(tiles, 8), 2).save(f"{sheet}/regions.png")


def steps_between(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean difference of neighbouring pixels, across the opposite edges and inside: [B] each."""
    across = [(images.narrow(axis, 0, 1) - images.narrow(axis, -1, 1)).abs().flatten(1) for axis in (2, 3)]
    inside = [images.diff(dim=axis).abs().flatten(1) for axis in (2, 3)]
    return torch.cat(across, 1).mean(1), torch.cat(inside, 1).mean(1)


def seams(model: NVG, held_out: Tensor, settings: SamplingSettings, sheet: str | None) -> None:
    """Of opposite edges, in pictures moved by half so that their subject lies across them, and of generated ones."""
    size = model.config.output_size

    def line(name: str, images: Tensor) -> None:
        across, inside = (one.mean() for one in steps_between(images))
        print(f"seams    {name:<42}{float(across / inside):>6.2f}", flush=True)

    moved = held_out.roll((size[0] // 2, size[1] // 2), (2, 3))
    sequence = model.tokenize(moved)
    plain, seamless = model.decode(sequence), model.decode(sequence, seamless=True)
    line("pictures moved by half", moved)
    line("the same decoded", plain)
    line("the same decoded without a seam", seamless)
    tiles = [tile for pair in zip(to_pil(plain[:6]), to_pil(seamless[:6]), strict=True) for tile in pair]
    if sheet:
        wide = [Image.fromarray(np.tile(np.array(tile), (2, 2, 1))) for tile in tiles]
        enlarge(grid(wide, 4), 2).save(f"{sheet}/seams.png")
    classes = list(model.classes)
    line("generated", model.decode(model.generate(classes, 0, settings)))
    drawn = model.generate(classes, 0, settings, seamless=True)
    images = model.decode(drawn, seamless=True)
    line("generated without a seam", images)
    if sheet:
        wide = [Image.fromarray(np.tile(np.array(tile), (2, 2, 1))) for tile in to_pil(images)]
        enlarge(grid(wide, 6), 1).save(f"{sheet}/seamless.png")


def frames(model: NVG, settings: SamplingSettings) -> None:
    """Of nine frames between neighbours in the list of classes."""
    drawn = model.generate(list(model.classes), 1, settings)
    images = model.decode(drawn)
    apart = float((images[1:] - images[:-1]).abs().mean())
    for content in ("blend", "nearer", "stages"):
        steps = []
        for index in range(len(images) - 1):
            between = model.interpolate(drawn.items([index]), drawn.items([index + 1]), 9, content)
            steps.append(model.decode(between).diff(dim=0).abs().mean((1, 2, 3)))
        found = torch.stack(steps)
        means = float(found.mean()) / apart, float(found.amax(1).mean()) / apart
        print(f"frames   {content:<10} mean step {means[0]:.2f}, largest {means[1]:.2f}", flush=True)


def disc(centre: float, side: int = 64) -> Tensor:
    """A mask [side,side] of a quarter of the picture; the centre as a share of the width."""
    place = (torch.arange(side) + 0.5) / side
    return (((place[:, None] - 0.5) ** 2 + (place - centre) ** 2) < 0.28**2).float()


def moving(model: NVG, settings: SamplingSettings) -> None:
    """Of nine frames in which an area or a region moves, over the difference of nine pictures of the class: all frames
    with the noise of the first, and each with its own."""
    found: dict[tuple[str, bool], list[float]] = {}
    ends = [fitted(disc(x), 1, model.config.grid).structure()[0] for x in (0.3, 0.7)]
    layouts = structures_between(*ends, torch.linspace(0, 1, 9), model.config.grid)
    masks = torch.stack([disc(float(x)) for x in torch.linspace(0.3, 0.7, 9)])

    def step(name: str, seed: int, **more: Any) -> float:
        images = model.decode(model.generate([name] * 9, seed, settings, **more))
        return float(images.diff(dim=0).abs().mean())

    for name in ("heart", "flower", "bird", "boat"):
        for seed in range(3):
            apart = step(name, seed)
            for shared in (True, False):
                area = step(name, seed, structure=layouts, shared_noise=shared)
                region = step("smiley", seed, regions=[Region(masks, name)], shared_noise=shared)
                for what, value in (("area", area), ("region", region)):
                    found.setdefault((what, shared), []).append(value / apart)
    for (what, shared), values in found.items():
        noise = "one noise" if shared else "its own noise"
        print(f"moving   {what + ' moves, ' + noise:<30} mean step {sum(values) / len(values):.2f}", flush=True)


def cutouts(model: NVG, pictures: Tensor) -> None:
    """Of pictures [B,4,H,W], put on white."""
    images, true = on_white(pictures), (pictures[:, 3] + 1) / 2
    sequence = model.tokenize(images)
    structure = sequence.structure
    half = nvg_model.cutout.subject_half(structure[:, 1], model.config.grid).view(-1, *model.config.grid).float()
    coarse = torch.nn.functional.interpolate(half[:, None], images.shape[2:])[:, 0]
    near = (images.amin(1) < 1 - 2 * nvg_model.cutout.NEAR).float()
    refined = (cut_out(images, structure, model.config.grid)[:, 3] + 1) / 2
    found = {"the first split": coarse, "what is not white": near, "by colour": refined}
    if model.config.autoencoder.output_channels == 4:
        found["the decoder's own"] = model.decode_with_opacity(sequence)[1]
    for name, opacity in found.items():
        overlap = torch.minimum(opacity, true).sum((1, 2)) / torch.maximum(opacity, true).sum((1, 2))
        print(f"cutouts  {name:<20} mean {float(overlap.mean()):.2f}, worst tenth {float(overlap.quantile(0.1)):.2f}")


def times(model: NVG, settings: SamplingSettings) -> None:
    """One picture each, the better of two runs."""
    size = model.config.output_size
    mask = torch.zeros(size)
    mask[:, size[1] // 2 :] = 1
    first, image = model.generate("heart", 0, settings), torch.zeros(1, 3, *size)
    calls: dict[str, Callable[[], object]] = {
        "plain": lambda: model.decode(model.generate("heart", 1, settings)),
        "one region": lambda: model.decode(model.generate("heart", 1, settings, regions=[Region(mask, "bird")])),
        "area": lambda: model.decode(model.generate("heart", 1, settings, area=mask)),
        "seamless": lambda: model.decode(model.generate("heart", 1, settings, seamless=True), seamless=True),
        "inpaint": lambda: model.inpaint(image, mask, "heart", 1, settings=settings),
        "nine in-betweens": lambda: model.decode(model.interpolate(first, first, 9)),
        "cut-out by colour": lambda: model.cut_out(first, image),
    }
    plain = 0.0
    for name, call in calls.items():
        seconds = min(_seconds(call) for _ in range(2))
        plain = plain or seconds
        print(f"time     {name:<20}{seconds:>6.2f} s{seconds / plain:>7.2f}", flush=True)


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    """Prints the numbers; writes sheets of what they were measured on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="pictures with opacity, as training reads them: DATA/held-out/CLASS/*.png")
    parser.add_argument("--model", default="emoji64")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=["time", "cutouts", "frames", "moving", "seams", "regions"])
    parser.add_argument("--sheets", help="a folder for pictures")
    args = parser.parse_args()
    model = nvg_model.load(args.model)
    settings = model.settings
    files = sorted(Path(args.data, "held-out").glob("*/*.png"))
    pictures = [torch.from_numpy(np.array(Image.open(file).convert("RGBA"))) for file in files]
    held_out = torch.stack(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    parts: dict[str, Callable[[], None]] = {
        "time": lambda: times(model, settings),
        "cutouts": lambda: cutouts(model, held_out),
        "frames": lambda: frames(model, settings),
        "moving": lambda: moving(model, settings),
        "seams": lambda: seams(model, on_white(held_out)[::3], settings, args.sheets),
        "regions": lambda: regions(model, args.data, settings, args.seeds, args.sheets),
    }
    for name in args.only:
        parts[name]()


if __name__ == "__main__":
    main()
