"""Differentiable augmentation of what the discriminator sees (Zhao et al. 2020): translation, colour, cutout.

Drawing is apart from applying: `draw` gives numbers for a whole batch, of which every process takes its share.
Shapes: B images [B,C,H,W] in [-1,1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NUMBERS = 7
"""Random numbers of an image: brightness, saturation, contrast, shift down and right, cutout's row and column."""


@dataclass(frozen=True)
class DiffAugSettings:
    """How much an image is changed; the defaults are VAR's, which the paper uses."""

    colour: bool = True
    """Brightness by up to 0.5 in both directions, saturation by a factor of 0 to 2, contrast by 0.5 to 1.5."""
    translation: float = 0.125
    """Largest shift in each direction, as a share of the side; what moves in is mid-grey (0) before it is coloured."""
    cutout: float = 0.2
    """Side of the square that is set to mid-grey, as a share of the image's."""


def draw(count: int, generator: torch.Generator) -> Tensor:
    """Random numbers [count,7] in [0,1) for `augment`, on the generator's device."""
    return torch.rand(count, NUMBERS, generator=generator, device=generator.device)


def augment(images: Tensor, numbers: Tensor, settings: DiffAugSettings = DiffAugSettings()) -> Tensor:
    """The images changed by `numbers` [B,7] in [0,1); differentiable, and the same for the same numbers.

    Raises:
        ValueError: the number of rows is not the number of images.
    """
    if images.ndim != 4 or numbers.shape != (len(images), NUMBERS):
        raise ValueError(
            f"augmentation takes images [B,C,H,W] and numbers [B,{NUMBERS}], "
            f"not {list(images.shape)} and {list(numbers.shape)}"
        )
    numbers = numbers.to(images.device, non_blocking=True)
    # In the release's order: the grey that moves in is coloured as well, what is cut out stays mid-grey.
    if settings.translation:
        images = _translate(images, numbers[:, 3:5], settings.translation)
    if settings.colour:
        images = _colour(images, *numbers[:, :3].to(images.dtype).unbind(1))
    if settings.cutout:
        images = _cut_out(images, numbers[:, 5:7], settings.cutout)
    return images


def _colour(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Adds brightness - 1/2; scales colours around the pixel's grey by 2*saturation, pixels around the image's mean
    by contrast + 1/2. Numbers [B] in [0,1)."""
    brightness, saturation, contrast = (one.view(-1, 1, 1, 1) for one in (brightness, saturation, contrast))
    images = images + (brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def _translate(images: Tensor, numbers: Tensor, share: float) -> Tensor:
    """Shifts every image by whole pixels, at most `share` of its side, and fills with 0. Numbers [B,2]."""
    sides = torch.tensor(images.shape[2:]).to(images.device, non_blocking=True)
    most = (sides * share + 0.5).long()
    shift = (numbers * (2 * most + 1)).long() - most  # [B,2]
    # A border of one zero pixel stands for everything outside.
    rows = (torch.arange(1, images.shape[2] + 1, device=images.device) - shift[:, :1]).clamp(0, images.shape[2] + 1)
    columns = (torch.arange(1, images.shape[3] + 1, device=images.device) - shift[:, 1:]).clamp(0, images.shape[3] + 1)
    item = torch.arange(len(images), device=images.device)
    padded = F.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    # Indexing, and not gather or grid_sample, whose backward on GPUs adds in any order.
    return padded[item[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cut_out(images: Tensor, numbers: Tensor, share: float) -> Tensor:
    """Sets a rectangle of `share` of each side to 0, with its middle anywhere in the image. Numbers [B,2]."""
    sides = torch.tensor(images.shape[2:]).to(images.device, non_blocking=True)
    cut = (sides * share + 0.5).long()
    first = (numbers * (sides + 1 - cut % 2)).long() - cut // 2  # [B,2]
    inside = []
    for axis in (0, 1):
        place = torch.arange(images.shape[2 + axis], device=images.device)
        start = first[:, axis : axis + 1]
        inside.append((place >= start) & (place < start + cut[axis]))
    hole = inside[0][:, :, None] & inside[1][:, None, :]
    return images.masked_fill(hole[:, None], 0)
