"""Random views of pictures: class-balanced draws, small geometric changes, plain backgrounds.

Everything is a pure function of (seed, number of images seen): a resumed run needs one integer to go on exactly.
Shapes: B batch, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.pictures import Pictures


@dataclass(frozen=True)
class ViewSettings:
    """How much a view may differ from its picture."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
    shift: float = 0.04
    """Largest shift in each direction, as a share of the side."""
    scale: tuple[float, float] = (0.86, 1.0)
    """Smallest and largest size of the picture within the view."""
    white: float = 0.7
    """Probability of a white background; else a light plain colour."""
    darkest: float = 0.75
    """Darkest value of a channel of a coloured background, in [0, 1]."""


def stream(*keys: int) -> torch.Generator:
    """A CPU generator of its own for every tuple of keys."""
    state = np.random.SeedSequence(keys).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def draw_balanced(labels: Tensor, num_classes: int, count: int, generator: torch.Generator) -> Tensor:
    """Indices [count] of pictures, every class equally likely, and every picture within its class."""
    order = torch.sort(labels, stable=True).indices
    sizes = torch.bincount(labels, minlength=num_classes)
    classes = torch.randint(num_classes, (count,), generator=generator)
    inside = (torch.rand(count, generator=generator) * sizes[classes]).long()
    return order[(sizes.cumsum(0) - sizes)[classes] + inside]


def draw_views(pictures: Pictures, index: Tensor, settings: ViewSettings, generator: torch.Generator) -> Tensor:
    """Random views [B,3,H,W] in [-1,1] of the pictures `index` [B]."""
    count = len(index)
    low, high = settings.scale
    scale = low + (high - low) * torch.rand(count, generator=generator)
    flip = torch.where(torch.rand(count, generator=generator) < settings.flip, -1.0, 1.0)
    shift = settings.shift * (2 * torch.rand(count, 2, generator=generator) - 1)
    colour = settings.darkest + (1 - settings.darkest) * torch.rand(count, 3, generator=generator)
    white = torch.rand(count, 1, generator=generator) < settings.white
    return compose(pictures.pixels[index], scale, flip, shift, torch.where(white, 1.0, colour))


def compose(pixels: Tensor, scale: Tensor, flip: Tensor, shift: Tensor, background: Tensor) -> Tensor:
    """Places RGBA pictures over plain backgrounds.

    Args:
        pixels: uint8 [B,4,H,W].
        scale: [B], size of the picture within the view; flip: [B], -1 for mirrored; shift: [B,2] right and down,
            as a share of the side; background: [B,3] in [0,1].
    Returns:
        float [B,3,H,W] in [-1,1].
    """
    rgba = pixels.float() / 255
    opacity = rgba[:, 3:]
    premultiplied = torch.cat([rgba[:, :3] * opacity, opacity], dim=1)  # so that borders do not bleed
    zero = torch.zeros_like(scale)
    affine = torch.stack(
        [flip / scale, zero, -2 * shift[:, 0] * flip / scale, zero, 1 / scale, -2 * shift[:, 1] / scale], dim=1
    ).view(-1, 2, 3)
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    moved = F.grid_sample(premultiplied, grid, mode="bicubic", padding_mode="zeros", align_corners=False).clamp(0, 1)
    return (2 * (moved[:, :3] + (1 - moved[:, 3:]) * background[:, :, None, None]) - 1).clamp(-1, 1)


def plain_views(pictures: Pictures, index: Tensor) -> Tensor:
    """The pictures as they are on white: [B,3,H,W] in [-1,1], for evaluation."""
    count = len(index)
    return compose(
        pictures.pixels[index], torch.ones(count), torch.ones(count), torch.zeros(count, 2), torch.ones(count, 3)
    )
