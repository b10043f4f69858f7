"""Previews without the decoder: a linear map from a position's latent vector to its colour.

Shapes: B batch, L = h*w positions, C latent channels, H W pixels; images are [B,3,H,W] in [-1,1].
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model.tokenizer import Tokenizer

_POSITIONS = 512
"""Positions that a map is fitted on at each of three stages: many times its C+1 rows."""
_SHAPES = 3
_RIDGE = 1e-3
"""Added to the diagonal, as a share of its mean: what the canvases never hold should not show."""


@torch.no_grad()
def fit(tokenizer: Tokenizer, dtype: torch.dtype | None = None) -> Tensor:
    """The map float32 [C+1,3] (its last row is the bias), on the CPU: least squares on what the decoder makes.

    The canvases are those of drawn shapes, taken apart and quantised by the tokenizer itself, after the second, the
    middle and the last stage. (Canvases of codes drawn at random are too far from any picture: 10 dB instead of 20 on
    emoji64, while these are as good as generated ones.) The same for the same weights; the global RNG is not touched.

    Args:
        dtype: that the weights are going to be saved in: the map is then the one of the saved weights.
    """
    if dtype is not None:
        tokenizer = copy.deepcopy(tokenizer).to(dtype).float()
    device = tokenizer.quantizer.device
    count = max(2, _POSITIONS // (tokenizer.grid[0] * tokenizer.grid[1]))
    canvases = tokenizer.tokenize(_shapes(count, tokenizer.image_size).to(device)).canvases
    splits = canvases.shape[1] - 1
    rows, colours = [], []
    for stage in sorted({min(1, splits), splits // 2, splits}):
        images = tokenizer.decode(canvases[:, stage])
        colours.append(F.adaptive_avg_pool2d(images, tokenizer.grid).flatten(2).mT.flatten(0, 1))
        rows.append(canvases[:, stage].flatten(0, 1))
    known, wanted = F.pad(torch.cat(rows), (0, 1), value=1.0).double().cpu(), torch.cat(colours).double().cpu()
    normal = known.mT @ known
    normal += _RIDGE * normal.diagonal().mean() * torch.eye(len(normal), dtype=normal.dtype)
    return torch.linalg.solve(normal, known.mT @ wanted).float()


def draw(canvas: Tensor, colours: Tensor, grid: tuple[int, int]) -> Tensor:
    """Images float32 [B,3,h,w] on the CPU, one pixel per position, of a canvas [B,L,C] by the map [C+1,3]."""
    pixels = canvas.float().cpu() @ colours[:-1] + colours[-1]
    return pixels.mT.unflatten(2, grid).clamp(-1, 1)


def _shapes(count: int, size: tuple[int, int]) -> Tensor:
    """Images [count,3,H,W] of discs and boxes in plain colours on white."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, size[0]), torch.linspace(-1, 1, size[1]), indexing="ij")
    images = torch.ones(count, 3, *size)
    for image in images:
        for index in range(_SHAPES):
            colour, (across, down, radius) = torch.rand(2, 3, generator=generator)
            far_x, far_y = (x - (across - 0.5)).abs(), (y - (down - 0.5)).abs()
            distance = torch.hypot(far_x, far_y) if index % 2 == 0 else torch.maximum(far_x, far_y)
            image[:, distance < 0.15 + 0.7 * radius] = colour[:, None] * 2 - 1
    return images
