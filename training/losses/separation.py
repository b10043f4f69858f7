"""How clearly the latents of a picture fall into two parts, its subject and what is around it.

Shapes: B images, L positions, C latent channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EDGE = 0.3
"""A position with a larger share of the subject, and of what is around it, may belong to either."""


OWN_SIDE = 0.7
"""Where positions should be between the middle of the gap (0) and the mean of their own part (1)."""


COMMON = 0.2
"""Share of the latents' variance over the positions that may be the same for all pictures: most show an object in their
middle."""


def over_positions(latent: Tensor) -> Tensor:
    """Float32 latents [B,L,C] without their means over the positions."""
    latent = latent.float()
    return latent - latent.mean(1, keepdim=True)


@torch.no_grad()
def principal_halves(latent: Tensor) -> Tensor:
    """The balanced split of latents [B,L,C] along their largest spread, bool [B,L].

    Greedy clustering finds the same halves where they lie clearly apart. Where a single pair crosses the gap it finds
    quite others: its clusters have equal sizes, so the odd position that is left over in each half crosses as well, in
    every later stage again.
    """
    centred = over_positions(latent)
    axis = torch.linalg.eigh(centred.mT @ centred).eigenvectors[..., -1:]
    return (centred @ axis).squeeze(-1).argsort(1).argsort(1) >= latent.shape[1] // 2


def subject_sides(opacity: Tensor, grid: tuple[int, int]) -> Tensor:
    """Where the subject is, [B,L], by the opacity [B,H,W] of the pixels: 1 on it, -1 off it, 0 at its edge."""
    cover = F.adaptive_avg_pool2d(opacity[:, None], grid).flatten(1)
    return (cover > 1 - EDGE).float() - (cover < EDGE).float()


@torch.no_grad()
def settled(latent: Tensor, sides: Tensor) -> Tensor:
    """Sides [B,L] of latents [B,L,C] without zeros: those at the edge go to the side whose mean is nearer."""
    return torch.where(sides == 0, torch.where(_places(latent, sides) < 0, -1.0, 1.0), sides)


def _means(latent: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    """Mean latents [B,1,C] of the positions with side 1 and with side -1; 0 where there are none."""
    latent = latent.float()
    weights = [(sides == side).float()[..., None] for side in (1, -1)]
    ours, theirs = ((latent * one).sum(1, keepdim=True) / one.sum(1, keepdim=True).clamp(min=1) for one in weights)
    return ours, theirs


def _places(latent: Tensor, sides: Tensor) -> Tensor:
    """Where latents [B,L,C] are on the line through the means of both sides [B,L]: 1 and -1 at these, 0 midway."""
    ours, theirs = _means(latent, sides)
    half = (ours - theirs) / 2
    return ((latent.float() - theirs - half) * half).sum(-1) / (half.square().sum(-1) + 1e-6)


def within_parts(latent: Tensor, sides: Tensor) -> Tensor:
    """Share [B] of the variance over the positions of latents [B,L,C] that lies within the two parts, sides [B,L]."""
    ours, theirs = _means(latent, sides)
    share = (sides > 0).float().mean(1)
    between = share * (1 - share) * (ours - theirs).square().mean(dim=(1, 2))
    return 1 - between / (over_positions(latent).square().mean(dim=(1, 2)) + 1e-6)


def strays(latent: Tensor, sides: Tensor) -> Tensor:
    """How far positions of latents [B,L,C] are from their own side of the gap between the two parts [B,L]: [B].

    All should be above `OWN_SIDE`. Positions in between are the worst: they pair with each other, an odd one is left
    over in both parts, these two pair as well, and so it goes on through all stages up to halves that have nothing to
    do with the picture. Parts of unlike sizes do little harm: then only the larger one has such left-overs.
    """
    return F.relu(OWN_SIDE - sides * _places(latent, sides)).square().mean(1)


def shared_by_images(latent: Tensor) -> Tensor:
    """Share of the variance over the positions of latents [B,L,C] that the mean latent of the batch has already."""
    centred = over_positions(latent)
    return centred.mean(0).square().mean() / (centred.square().mean() + 1e-6)
