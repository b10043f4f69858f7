"""Cut-outs: the opacity of pictures whose decoder gives none, from the first split of their structure.

The first split tells two halves apart; the one with less of the picture's border is the subject. The other half gives
the colours of the ground, and all that is joined to it in these colours is ground as well. A guided filter (He et al.
2010) then brings the outline to the picture's edges.

Shapes: B batch, S stages, L = h*w positions; images [B,3,H,W] in [-1,1], opacity [B,1,H,W] in [0,1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model.errors import NVGError

NEAR = 0.06
"""How far a channel may be from the colour of the ground, white being 1 and black 0."""
EDGE = 1 / 32
"""Radius of the guided filter, as a share of the picture's shorter side: 2 pixels of 64."""
SMOOTH = 1e-4
"""Variance of colours below which the guided filter sees no edge."""


def cut_out(images: Tensor, structure: Tensor, grid: tuple[int, int]) -> Tensor:
    """Pictures float32 [B,4,H,W] in [-1,1], not premultiplied, whose ground is transparent.

    The colour of the ground is taken out of what is half transparent, so that no rim of it is left.

    Args:
        images: [B,3,H,W] in [-1,1], of any size with the grid's proportions.
        structure: long [B,S,L], S >= 2.
        grid: h, w of the L positions.
    Raises:
        NVGError: a structure of one stage, or another batch.
    """
    if structure.shape[1] < 2 or len(structure) != len(images):
        raise NVGError(
            f"the structure has {len(structure)} items of {structure.shape[1]} stages for {len(images)} pictures; a "
            "cut-out needs one item per picture, with two stages or more"
        )
    colours = (images.float() + 1) / 2
    size = colours.shape[-2:]
    subject = subject_half(structure[:, 1], grid).view(-1, 1, *grid).float()
    fine = F.interpolate(subject, size=size, mode="nearest-exact")
    ground = (fine == 0).float()
    sure = ground - F.max_pool2d(fine, 3, stride=1, padding=1) * ground  # not the rim, which may be of both
    plain = _medians(colours, sure)
    near = ((colours - plain).abs().amax(1, keepdim=True) < NEAR).float()
    solid = 1 - _joined(sure * near, near)
    opacity = guided_filter(colours, solid, max(1, round(min(size) * EDGE)), SMOOTH)
    own = plain + (colours - plain) / opacity.clamp(min=1 / 255)
    return torch.cat([own.clamp(0, 1), opacity], dim=1) * 2 - 1


def subject_half(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """The half of labels long [B,L] (0 or 1) that has less of the border, bool [B,L]; of equals the second."""
    rows, columns = (torch.arange(side, device=labels.device) for side in grid)
    border = ((rows == 0) | (rows == grid[0] - 1))[:, None] | (columns == 0) | (columns == grid[1] - 1)
    second = (labels * border.flatten()).sum(1, keepdim=True)
    return labels == (2 * second <= border.sum()).long()


def _medians(colours: Tensor, where: Tensor) -> Tensor:
    """Medians [B,C,1,1] of colours [B,C,H,W] over the pixels where [B,1,H,W] is 1."""
    chosen = torch.where(where.expand_as(colours) > 0, colours, torch.nan)
    return chosen.flatten(2).nanmedian(-1).values[..., None, None]


def _joined(seeds: Tensor, area: Tensor) -> Tensor:
    """What of an area is joined to the seeds in it; all [B,1,H,W] of 0 and 1."""
    while True:
        grown = F.max_pool2d(seeds, 3, stride=1, padding=1) * area
        if torch.equal(grown, seeds):
            return seeds
        seeds = grown


def guided_filter(guide: Tensor, values: Tensor, radius: int, smooth: float) -> Tensor:
    """Values [B,1,H,W] as a linear function of the guide's colours [B,3,H,W] in every window, clamped to [0,1]."""

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(x, (radius,) * 4, mode="replicate"), 2 * radius + 1, stride=1)

    means, centre = mean(guide), mean(values)
    squares = mean((guide[:, :, None] * guide[:, None]).flatten(1, 2)).unflatten(1, (3, 3))
    variance = (squares - means[:, :, None] * means[:, None]).permute(0, 3, 4, 1, 2)
    shared = (mean(guide * values) - means * centre).permute(0, 2, 3, 1)[..., None]
    slope = torch.linalg.solve(variance + smooth * torch.eye(3, device=guide.device), shared)
    slope = slope[..., 0].permute(0, 3, 1, 2)
    offset = centre - (slope * means).sum(1, keepdim=True)
    return ((mean(slope) * guide).sum(1, keepdim=True) + mean(offset)).clamp(0, 1)
