"""Drawn areas of any size as regions of the structure.

Every split halves, so an area is a union of whole regions only from some stage on: a quarter of the picture from the
second split, an eighth from the third. The splits before it take supersets of the area. `structure` gives all
splits up to there, along lines of equal distance to the outline; `Areas.sides` says no more than on which side the
area must be, and leaves the rest of every split to the network.

Shapes: B batch, S' stages given, L = h*w positions, N = 2^i clusters of stage i; masks float [H,W] or [B,H,W].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model import hierarchy
from nvg_model.errors import NVGError
from nvg_model.regions import full_mask

NESTED, FREE, HALF = RULES = ("nested", "free", "half")
"""How an area gets regions of its own: all splits run along its outline until it is whole regions (measured best:
docs/editing.md), splits that the network makes around it, or only the first split, grown or shrunk to a half."""
TOLERANCE = 3 / 8
"""Share of its size, or of what is left free, by which an area may be grown or shrunk to become whole regions: more
splits than that takes would be closer to it, but make rings of it, and no better pictures (docs/editing.md)."""
_FINE = 128
"""Distances to an outline are measured on pictures with this many pixels along the longer side."""


@dataclass(frozen=True, eq=False)
class Areas:
    """One area per image, rounded to whole regions."""

    positions: Tensor
    """bool [B,L]."""
    distances: Tensor
    """float [B,L]: mean signed distance of a position to the outline, positive inside."""
    stage: int
    """The first stage whose regions fill every image's area exactly."""

    def to(self, device: torch.device) -> Areas:
        """The same on another device."""
        return Areas(self.positions.to(device), self.distances.to(device), self.stage)

    def sides(self, labels: Tensor, stage: int) -> Tensor:
        """For `hierarchy.split` of the clusters `labels` [B,L] of a stage: long [B,L] of 1, 0 or -1 (free).

        Where a cluster has both, the area goes to side 1, and fills it where it is more than half.
        """
        share = hierarchy.cluster_means(self.positions.float()[..., None], labels, 2**stage)[..., 0].gather(1, labels)
        mixed = (share > 0) & (share < 1)
        rest = torch.where(share > 0.5, 0, -1)
        return torch.where(mixed, torch.where(self.positions, 1, rest), -1)

    def structure(self) -> Tensor:
        """Labels long [B,S',L] of the stages up to `stage`, all splits along lines of equal distance."""
        labels = [torch.zeros(self.positions.shape, dtype=torch.long, device=self.positions.device)]
        for _ in range(self.stage):
            labels.append(hierarchy.split(labels[-1], self.distances))
        return torch.stack(labels, 1)


def fitted(mask: Tensor, batch: int, grid: tuple[int, int]) -> Areas:
    """The areas of masks, rounded to whole regions: positions far inside first.

    Args:
        mask: 0 to 1, of any size; 0.5 and more is inside.
    Raises:
        NVGError: a mask of another shape or batch, of nothing or of everything.
    """
    unit = fine_unit(grid)
    fine = F.interpolate(full_mask(mask, batch, "the area")[:, None], (grid[0] * unit, grid[1] * unit), mode="area")
    inside = fine[:, 0] >= 0.5
    for empty, what in ((~inside, "is empty"), (inside, "covers everything")):
        if bool(empty.flatten(1).all(1).any()):
            raise NVGError(f"the area {what}, so it has no outline; draw one that leaves some of the picture free")
    signed = torch.stack([signed_distance(one) for one in inside])
    distances = F.avg_pool2d(signed[:, None], unit).flatten(1)
    found = [rounded(float(one.float().mean()), distances.shape[1]) for one in inside]
    ranks = torch.sort(torch.sort(distances, dim=1, descending=True, stable=True).indices, dim=1).indices
    positions = ranks < torch.tensor([size for _, size in found])[:, None]
    return Areas(positions.expand(batch, -1), distances.expand(batch, -1), max(stage for stage, _ in found))


def fine_unit(grid: tuple[int, int]) -> int:
    """Pixels per side of a position when distances to an outline are measured."""
    return max(1, _FINE // max(grid))


def rounded(share: float, positions: int) -> tuple[int, int]:
    """The first stage with regions that fill an area of this share of the picture, and the area's positions there."""
    wanted = share * positions
    for stage in range(1, hierarchy.num_splits(positions) + 1):
        unit = positions >> stage
        size = min(max(1, round(wanted / unit)) * unit, positions - unit)
        if abs(size - wanted) <= TOLERANCE * min(wanted, positions - wanted):
            break
    return stage, size


def signed_distance(area: Tensor) -> Tensor:
    """Distance of every pixel centre to the nearest one on the other side of the area's outline, float [H,W].

    Positive inside the area (deeper is larger), negative outside. In pixels, exact (Euclidean).

    Args:
        area: bool [H,W] with both sides present.
    """
    return distance_to(~area) - distance_to(area)


def distance_to(points: Tensor) -> Tensor:
    """Euclidean distance [H,W] of every pixel to the nearest one in `points` bool [H,W]; infinite without any."""
    height, width = points.shape
    far = torch.where(points, 0.0, torch.inf)
    rows, columns = torch.arange(height), torch.arange(width)
    # The square splits into its two axes: the best of each column first, then the best of those along the row.
    down = (far[None] + (rows[:, None] - rows).square()[..., None]).amin(1)
    return (down[:, None] + (columns[:, None] - columns).square()).amin(-1).sqrt()
