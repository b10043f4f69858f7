"""Random views of pictures: class-balanced draws, small geometric changes, plain backgrounds; or crops of photos.

Everything is a pure function of (seed, number of images seen): a resumed run needs one integer to continue exactly.
Shapes: B batch, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model import sampling
from training.data.dataset import ImageDataset

EVERYTHING = slice(None)


@dataclass(frozen=True)
class AugmentationSettings:
    """How much a view may differ from its picture."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
    shift: float = 0.04
    """Largest shift in each direction, as a share of the side. Not for photos."""
    whole: bool = False
    """Shifts a picture less where what is opaque of it would leave the view."""
    scale: tuple[float, float] = (0.86, 1.0)
    """Smallest and largest size of the picture within the view. Not for photos."""
    still: float = 0.0
    """Share of the views that are neither shifted nor scaled. Not for photos."""
    white: float = 0.7
    """Probability of a white background, behind what is transparent; else a light plain colour."""
    darkest: float = 0.75
    """Darkest value of a channel of a coloured background, in [0, 1]."""
    margin: float | None = None
    """None: the whole picture, stretched to the size, moved over a plain background. A number, for photos: the short
    side is resized to margin x size and the view cropped from it, anywhere in training, in the centre in evaluation
    (paper section 3.1: 1.125). `open_dataset` takes it."""

    @property
    def key(self) -> str:
        """Names these settings in the key of a cache."""
        return repr(self).replace(
            type(self).__name__, "AugmentationSettings", 1
        )  # its name when caches were first made


def stream(*keys: int) -> torch.Generator:
    """A CPU generator for every tuple of keys. It differs from the one that sampling has for the same keys."""
    return sampling.stream(*keys, high_word_first=True)


def draw_balanced(labels: Tensor, num_classes: int, count: int, generator: torch.Generator) -> Tensor:
    """Indices [count] of pictures. Every class with pictures is equally likely, and every picture within its class."""
    order = torch.sort(labels, stable=True).indices
    sizes = torch.bincount(labels, minlength=num_classes)
    present = sizes.nonzero().flatten()  # few pictures held out are not of all classes
    classes = present[torch.randint(len(present), (count,), generator=generator)]
    inside = (torch.rand(count, generator=generator) * sizes[classes]).long()
    return order[(sizes.cumsum(0) - sizes)[classes] + inside]


def draw_epochs(size: int, first: int, count: int, seed: int) -> Tensor:
    """Indices [count] below `size`: what is seen from number `first` on, in epochs without replacement.

    Every epoch has an order of its own. A batch may end one epoch and begin the next.
    """
    seen = torch.arange(first, first + count)
    epoch, place = seen // size, seen % size
    return torch.cat([epoch_order(size, int(one), seed)[place[epoch == one]] for one in epoch.unique()])


@lru_cache(maxsize=2)
def epoch_order(size: int, epoch: int, seed: int) -> Tensor:
    """A permutation [size]. It is cached: drawing one of a million takes longer than a batch."""
    return torch.randperm(size, generator=stream(seed, 4, epoch))


class Views(NamedTuple):
    """Random views of pictures, and the plain backgrounds that are drawn for them."""

    pixels: Tensor
    """Premultiplied [B,4,H,W] in [0,1]."""
    background: Tensor
    """[B,3] in [0,1]."""

    @property
    def images(self) -> Tensor:
        """The views on their backgrounds: [B,3,H,W] in [-1,1]."""
        return on_colour(self.pixels, self.background)

    @property
    def opacity(self) -> Tensor:
        """How opaque each pixel is: [B,H,W] in [0,1]."""
        return self.pixels[:, 3]


def draw_views(
    dataset: ImageDataset,
    index: Tensor,
    settings: AugmentationSettings,
    generator: torch.Generator,
    part: slice = EVERYTHING,
) -> Views:
    """Random views of the pictures `index` [B]. Pictures of two sizes give the same views at two sizes.

    Args:
        part: which of them to make. The random numbers are drawn for all, so a process that makes its part of a batch
            makes the same views as one that makes the whole.
    """
    if settings.margin != dataset.margin:
        raise ValueError(f"the pictures were opened with margin {dataset.margin}, the views want {settings.margin}")
    if settings.margin is not None:
        return _draw_crops(dataset, index, settings, generator, part)
    count = len(index)
    low, high = settings.scale
    scale = low + (high - low) * torch.rand(count, generator=generator)
    flip = torch.where(torch.rand(count, generator=generator) < settings.flip, -1.0, 1.0)
    shift = settings.shift * (2 * torch.rand(count, 2, generator=generator) - 1)
    background = _draw_backgrounds(count, settings, generator)
    if settings.still > 0:  # drawn last and only here: the views of older recipes stay as they were
        still = torch.rand(count, generator=generator) < settings.still
        scale, shift = torch.where(still, 1.0, scale), torch.where(still[:, None], 0.0, shift)
    pixels, scale, flip, shift = dataset.load(index[part]), scale[part], flip[part], shift[part]
    if settings.whole:
        shift = _inside(pixels, scale, flip, shift)
    return Views(_move(pixels, scale, flip, shift), background[part])


def _draw_crops(
    dataset: ImageDataset, index: Tensor, settings: AugmentationSettings, generator: torch.Generator, part: slice
) -> Views:
    """Crops of photos."""
    count = len(index)
    corner = torch.rand(count, 2, generator=generator)
    flip = torch.rand(count, generator=generator) < settings.flip
    background = _draw_backgrounds(count, settings, generator)
    pixels = dataset.load(index[part], corner[part])
    pixels = torch.where(flip[part, None, None, None], pixels.flip(3), pixels)
    return Views(_premultiplied(pixels), background[part])


def _draw_backgrounds(count: int, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Colours [B,3] in [0,1]."""
    colour = settings.darkest + (1 - settings.darkest) * torch.rand(count, 3, generator=generator)
    white = torch.rand(count, 1, generator=generator) < settings.white
    return torch.where(white, 1.0, colour)


def over(pixels: Tensor, background: Tensor) -> Tensor:
    """RGBA pictures uint8 [B,4,H,W] on plain backgrounds [B,3] in [0,1]: float [B,3,H,W] in [-1,1]."""
    rgba = pixels.float() / 255
    return 2 * torch.lerp(background[:, :, None, None], rgba[:, :3], rgba[:, 3:]) - 1


def compose(pixels: Tensor, scale: Tensor, flip: Tensor, shift: Tensor, background: Tensor) -> Tensor:
    """Places RGBA pictures over plain backgrounds.

    Args:
        pixels: uint8 [B,4,H,W].
        scale: [B], size of the picture within the view; flip: [B], -1 for mirrored; shift: [B,2] right and down,
            as a share of the side; background: [B,3] in [0,1].
    Returns:
        float [B,3,H,W] in [-1,1].
    """
    return on_colour(_move(pixels, scale, flip, shift), background)


def _inside(pixels: Tensor, scale: Tensor, flip: Tensor, shift: Tensor) -> Tensor:
    """How much of a shift [B,2] keeps the opaque part of RGBA pictures [B,4,H,W] inside the view."""
    opaque = pixels[:, 3] > 25
    limited = []
    for axis, turn, wanted in ((1, scale * flip, shift[:, 0]), (2, scale, shift[:, 1])):
        line = opaque.any(axis)  # of the columns, then of the rows
        place = torch.linspace(-1, 1, line.shape[1] + 1)
        first = torch.where(line, place[:-1], 1.0).amin(1) * turn
        last = torch.where(line, place[1:], -1.0).amax(1) * turn
        low, high = torch.minimum(first, last), torch.maximum(first, last)
        limited.append(wanted.clamp(min=-(1 + low).clamp(min=0) / 2, max=(1 - high).clamp(min=0) / 2))
    return torch.stack(limited, dim=1)


def _move(pixels: Tensor, scale: Tensor, flip: Tensor, shift: Tensor) -> Tensor:
    """RGBA pictures uint8 [B,4,H,W] moved into place: float [B,4,H,W] in [0,1], premultiplied."""
    premultiplied = _premultiplied(pixels)  # so that borders do not bleed
    grid = sampling_grid(premultiplied, scale, flip, shift)
    return F.grid_sample(premultiplied, grid, mode="bicubic", padding_mode="zeros", align_corners=False).clamp(0, 1)


def sampling_grid(images: Tensor, scale: Tensor, flip: Tensor, shift: Tensor) -> Tensor:
    """Where `F.grid_sample` takes the pixels of scaled, mirrored and moved images [B,C,H,W] from: [B,H,W,2].

    Args:
        scale: [B], size of the picture within the result; flip: [B], -1 for mirrored; shift: [B,2] right and down, as
            a share of the side.
    """
    zero = torch.zeros_like(scale)
    affine = torch.stack(
        [flip / scale, zero, -2 * shift[:, 0] * flip / scale, zero, 1 / scale, -2 * shift[:, 1] / scale], dim=1
    ).view(-1, 2, 3)
    return F.affine_grid(affine, list(images.shape), align_corners=False)


def _premultiplied(pixels: Tensor) -> Tensor:
    """RGBA pictures uint8 [B,4,H,W] as float [B,4,H,W] in [0,1], the colours times the opacity."""
    rgba = pixels.float() / 255
    return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)


def on_colour(premultiplied: Tensor, background: Tensor) -> Tensor:
    """Premultiplied pictures [B,4,H,W] on plain backgrounds [B,3] in [0,1]: [B,3,H,W] in [-1,1]."""
    colour, opacity = premultiplied[:, :3], premultiplied[:, 3:]
    return (2 * (colour + (1 - opacity) * background[:, :, None, None]) - 1).clamp(-1, 1)


def plain_images(dataset: ImageDataset, index: Tensor) -> Tensor:
    """The pictures as they are, photos cut to their centre, on white: [B,3,H,W] in [-1,1], for evaluation."""
    count = len(index)
    pixels, white = dataset.load(index), torch.ones(count, 3)
    if dataset.margin is not None:
        return over(pixels, white)
    return compose(pixels, torch.ones(count), torch.ones(count), torch.zeros(count, 2), white)
