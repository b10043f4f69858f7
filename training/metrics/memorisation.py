"""Whether a generator repeats its training pictures.

A generated picture is compared with every training picture, mirrored, scaled and shifted as training views are, at a
small size, where a repeated picture is close even though the tokenizer has blurred its details. Distances are relative
to how much there is on the white: otherwise every pale blot would be close to the palest picture. How close is "nearly
identical" is read from real pictures: held-out ones, which cannot have been memorised, go through the tokenizer, and
the distance below which a tenth of them have a training picture is the threshold. So 10% is what chance gives.
Reconstructed views of training pictures, compared in the same way, say how many true copies the threshold finds.

Shapes: N queries, M training pictures, P values of a small picture; pixels uint8 [N,3,H,W].
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nvg_model import render
from nvg_model.model import NVG
from nvg_model.render import to_pixels
from training.data.augmentation import stream
from training.metrics.pictures import CHUNK, Labelled, moved, to_images

SIDE = 16
"""Pixels along each side of the small pictures."""
SCALES, SHIFTS = (0.86, 0.93, 1.0), (-0.04, 0.0, 0.04)
VARIANTS = tuple(product(SCALES, (1.0, -1.0), SHIFTS, SHIFTS))
"""Scale, flip, shift right and down of a training picture."""
QUANTILE = 0.1
COPIES = 256
"""Views of training pictures whose reconstructions stand for true copies."""


class Nearest(NamedTuple):
    """The nearest training picture of every query."""

    distance: Tensor
    """float [N], |q - t| / sqrt((|q|^2 + |t|^2) / 2) of the small pictures with white as zero: 0 for equal ones, 1.41
    for two that share no pixel."""
    picture: Tensor
    """long [N]."""
    variant: Tensor
    """long [N], index into VARIANTS."""


@dataclass(frozen=True)
class Memorisation:
    """What `memorisation` finds."""

    threshold: float
    share: float
    """Of the generated pictures, nearer than the threshold to a training picture."""
    held_out_share: float
    """The same of reconstructed held-out pictures: what chance gives."""
    copies_found: float
    """The same of reconstructed views of training pictures: how many true copies would be noticed."""
    median: float
    """Of the generated pictures' distances."""
    held_out_median: float
    nearest: Nearest


def memorisation(nvg: NVG, generated: Tensor, train: Labelled, held_out: Labelled, seed: int = 0) -> Memorisation:
    """Compares generated pictures, uint8 [N,3,H,W], with the training pictures."""
    chosen = torch.randperm(len(train), generator=stream(seed, 8))[:COPIES]
    views = to_pixels(_random_views(to_images(train.pixels[chosen]), seed))
    sets = [generated, reconstructed(nvg, held_out.pixels), reconstructed(nvg, views)]
    found = nearest(torch.cat(sets), train.pixels)
    ours, new, copies = found.distance.split([len(one) for one in sets])
    threshold = float(new.quantile(QUANTILE))
    return Memorisation(
        threshold,
        share=_share_below(ours, threshold),
        held_out_share=_share_below(new, threshold),
        copies_found=_share_below(copies, threshold),
        median=float(ours.median()),
        held_out_median=float(new.median()),
        nearest=Nearest(*(column[: len(generated)] for column in found)),
    )


@torch.inference_mode()
def reconstructed(nvg: NVG, pixels: Tensor) -> Tensor:
    """Pictures as the tokenizer gives them back."""
    parts = [nvg.decode(nvg.tokenize(to_images(part))).cpu() for part in pixels.split(CHUNK)]
    return torch.cat([to_pixels(part) for part in parts])


def nearest(queries: Tensor, train: Tensor) -> Nearest:
    """The nearest of the training pictures [M,3,H,W], in any variant, of every query [N,3,H,W]; both uint8."""
    targets = torch.cat([_small(to_images(part)) for part in queries.split(CHUNK)])
    best = Nearest(torch.full((len(queries),), torch.inf), *torch.zeros(2, len(queries), dtype=torch.long))
    for start in range(0, len(train), CHUNK):
        images = to_images(train[start : start + CHUNK])
        for number in range(len(VARIANTS)):
            distance, picture = _relative_distances(targets, _small(_variant(images, number))).min(1)
            better = distance < best.distance
            new = Nearest(distance, picture + start, torch.full_like(picture, number))
            best = Nearest(*(torch.where(better, a, b) for a, b in zip(new, best, strict=True)))
    return best


def _relative_distances(queries: Tensor, train: Tensor) -> Tensor:
    """The distances [N,M] of `Nearest` between small pictures [N,P] and [M,P]."""
    energy = (queries.square().sum(1)[:, None] + train.square().sum(1)) / 2
    return torch.cdist(queries, train) / energy.clamp(min=1e-6).sqrt()


def sheet(generated: Tensor, train: Labelled, found: Nearest, count: int = 24) -> Image.Image:
    """The generated pictures with the nearest training pictures, each above the training picture as it was compared."""
    order = found.distance.argsort(stable=True)[:count]
    columns = min(8, len(order))
    factor = max(1, 96 // generated.shape[-1])
    cells: list[Image.Image] = []
    captions: list[str] = []
    for row in order.split(columns):
        originals = [
            _variant(to_images(train.pixels[found.picture[one]])[None], int(found.variant[one])) for one in row
        ]
        for images in (to_images(generated[row]), torch.cat(originals)):
            pictures = [render.enlarge(picture, factor) for picture in render.to_pil(images)]
            blank = Image.new("RGB", pictures[0].size, "white")
            cells += pictures + [blank] * (columns - len(row))
        captions += [f"{float(found.distance[one]):.3f}" for one in row] + [""] * (2 * columns - len(row))
    return render.grid(cells, columns, captions)


def _share_below(distances: Tensor, threshold: float) -> float:
    return float((distances < threshold).double().mean())


def _random_views(images: Tensor, seed: int) -> Tensor:
    """Images within the range of VARIANTS, but not on their grid."""
    generator, count = stream(seed, 9), len(images)
    scale = SCALES[0] + (SCALES[-1] - SCALES[0]) * torch.rand(count, generator=generator)
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    return moved(images, scale, flip, SHIFTS[-1] * (2 * torch.rand(count, 2, generator=generator) - 1))


def _variant(images: Tensor, number: int) -> Tensor:
    scale, flip, right, down = VARIANTS[number]
    count = len(images)
    shift = torch.tensor([right, down]).expand(count, 2)
    return moved(images, torch.full((count,), scale), torch.full((count,), flip), shift)


def _small(images: Tensor) -> Tensor:
    """Images [N,3,H,W] in [-1,1] on white, at most SIDE pixels along each side, white 0 and black 1, flat: [N,P]."""
    size = [min(SIDE, side) for side in images.shape[2:]]
    return F.interpolate((1 - _on_white(images)) / 2, size, mode="area").flatten(1)


def _on_white(images: Tensor, tolerance: float = 0.12) -> Tensor:
    """A plain light background, if most of the border has its colour, replaced by white.

    Training views have backgrounds of random colours, which must not hide a repeated picture.
    """
    edges = [images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]]
    border = torch.cat(edges, dim=2)
    colour = border.median(dim=2).values[..., None, None]
    alike = (images - colour).abs().amax(1, keepdim=True) < tolerance
    most = ((border - colour[..., 0]).abs().amax(1) < tolerance).double().mean(1) > 0.5
    plain = most & (colour.amin(dim=(1, 2, 3)) > 0.2)
    return torch.where(alike & plain[:, None, None, None], 1.0, images)
