"""From an order of positions to a hierarchy: how drawings, pictures and shapes become balanced halves.

Every region of a structure has exactly half the positions of its parent, and nothing drawn by hand has. So whatever
is given here only ranks the positions of each region; the upper half becomes one child and the lower half the other.

Shapes: B batch, S stages, L = h*w positions, row-major; pictures of areas are [H,W].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nvg_model import NVGError, hierarchy


def grow(labels: Tensor, scores: Sequence[Tensor], stages: int) -> Tensor:
    """Adds stages to a structure, halving every region by a score.

    Args:
        labels: long [B,S,L], the stages so far; S >= 1.
        scores: float [B,L] of each split: the first one splits the last stage of `labels`. Where there are fewer than
            splits, the last one goes on.
        stages: number of stages of the result; nothing is added where there are as many already.
    Returns:
        long [B,max(S,stages),L].
    """
    grown = list(labels.unbind(1))
    for index in range(stages - len(grown)):
        score = scores[min(index, len(scores) - 1)]
        grown.append(hierarchy.split(grown[-1], score.float().expand(grown[-1].shape)))
    return torch.stack(grown, 1)


def from_order(scores: Sequence[Tensor], stages: int) -> Tensor:
    """The structure long [B,stages,L] that halves everything by the given scores [B,L], one per split."""
    first = scores[0]
    return grow(torch.zeros(len(first), 1, first.shape[-1], dtype=torch.long), scores, stages)


def checked_stages(stages: int, positions: int) -> int:
    """The number of stages, if a structure of so many positions can have it. Raises NVGError otherwise."""
    most = hierarchy.num_splits(positions) + 1
    if not 1 <= stages <= most:
        raise NVGError(f"{stages} stages are not possible; {positions} positions have 1 to {most}")
    return stages


def signed_distance(area: Tensor) -> Tensor:
    """Distance of every pixel centre to the nearest one on the other side of the area's outline, float [H,W].

    Positive inside the area (deeper is larger), negative outside. In pixels, exact (Euclidean).

    Args:
        area: bool [H,W] with both sides present.
    """
    return _distance_to(~area) - _distance_to(area)


def _distance_to(points: Tensor) -> Tensor:
    """Euclidean distance [H,W] of every pixel to the nearest one in `points` bool [H,W]; infinite without any."""
    height, width = points.shape
    far = torch.where(points, 0.0, torch.inf)
    rows, columns = torch.arange(height), torch.arange(width)
    # The square splits into its two axes: the best of each column first, then the best of those along the row.
    down = (far[None] + (rows[:, None] - rows).square()[..., None]).amin(1)
    return (down[:, None] + (columns[:, None] - columns).square()).amin(-1).sqrt()


def label_order(values: Tensor) -> Tensor:
    """Ranks positions by a label map, so that equal labels are told apart by what lies around them.

    A position counts as its label plus a fraction in (0,1) that rises from the border with smaller labels to the
    border with larger ones. A region that has to be cut is so cut along its neighbours, not along a row.

    Args:
        values: float [h,w], one value per label.
    Returns:
        float [h*w].
    """
    distinct = values.unique()
    order = torch.searchsorted(distinct, values)
    ranks = torch.zeros(values.shape)
    for index in range(len(distinct)):
        here = order == index
        below, above = _distance_to(order < index), _distance_to(order > index)
        if index == 0:
            fraction = 1 / (above + 1)
        elif index == len(distinct) - 1:
            fraction = below / (below + 1)
        else:
            fraction = below / (below + above)
        ranks[here] = index + fraction[here]
    return ranks.flatten()


def position_order(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """`label_order` of every item of labels long [B,L], as float [B,L] in (0,1)."""
    ranks = torch.stack([label_order(one.view(grid).float()) for one in labels])
    return ranks / (ranks.amax(1, keepdim=True) + 1)


def then(first: Tensor, second: Tensor) -> Tensor:
    """Ranks float [L] by the first score, and by the second where the first is equal."""
    order = torch.sort(second, stable=True).indices
    order = order[torch.sort(first[order], stable=True).indices]
    return torch.empty(len(first)).scatter_(0, order, torch.arange(len(first), dtype=torch.float32))
