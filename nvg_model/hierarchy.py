"""The structure hierarchy: clustering, labels and their embedding, splitting every parent in half.

Shapes: B batch, S stages given, K splits, L = 2^K positions (row-major), N = 2^i clusters of stage i, C channels.
All labels are reindexed: cluster j of stage i splits into 2j and 2j+1 of stage i+1 (paper section 2.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nvg_model.errors import NVGError, all_finite


def num_splits(positions: int) -> int:
    """K with 2^K = L. Raises NVGError where L is not a power of two."""
    splits = positions.bit_length() - 1
    if positions < 1 or positions != 2**splits:
        raise NVGError(f"{positions} positions cannot be split in halves down to one; use a power of two")
    return splits


@torch.no_grad()
def cluster(points: Tensor, check: bool = True) -> Tensor:
    """Greedy bottom-up hierarchy of the positions' vectors (paper section 2.1, structure construction).

    From single positions up, the closest pair of clusters (Euclidean distance of their means; ties: the smallest
    row-major index of the distance matrix) is merged until all are paired, K times over.

    Args:
        points: float [B,L,C], L a power of two. Computed in float32 whatever its type.
        check: look for NaN and infinity, which waits for the device; on the CPU only finite values find an end.
    Returns:
        long [B,S,L] with S = K+1: the label of every position at every stage, coarse to fine.
    Raises:
        NVGError: L is not a power of two, or a value is not finite.
    """
    batch, positions, _ = points.shape
    splits = num_splits(positions)
    with torch.autocast(points.device.type, enabled=False):
        means = points.float()
        if check and not all_finite(means):
            raise NVGError("the vectors to cluster hold NaN or infinity; check the image and the weights")
        pairings = []
        for _ in range(splits):
            pairs = _greedy_pairs(torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist"))
            pairings.append(pairs)
            means = torch.stack([_take(means, pairs[..., side]) for side in (0, 1)]).mean(0)
    labels = points.new_zeros(batch, 1, dtype=torch.long)
    for pairs in reversed(pairings):  # top down: the child with the smaller raw label becomes 2j, the other 2j+1
        children = torch.stack([2 * labels, 2 * labels + 1], dim=-1)
        labels = torch.empty_like(children.flatten(1)).scatter_(1, pairs.flatten(1), children.flatten(1))
    return all_stages(labels)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` [B,M] of `x` [B,N,C]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def _greedy_pairs(distances: Tensor) -> Tensor:
    """Pairs [B,N/2,2] (smaller index first), in the order that greedy matching of `distances` [B,N,N] takes them.

    A pair whose members are each other's nearest (ties to the smaller index) is one that greedy takes, whatever
    else it takes before; so rounds of mutual nearest neighbours, each over the rows that are left, find the same
    pairs, and sorting by (distance, row, column) finds greedy's order. Taken rows and columns stand at infinity until
    a third of them is taken; then the rest moves together. Items of the batch that are done earlier wait at infinity.
    """
    if distances.device.type != "cpu":
        return _pairs_one_by_one(distances)
    batch, size, _ = distances.shape
    left = distances.clone()
    left.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    rows = torch.arange(size, device=left.device).expand(batch, size)  # original index of each row of `left`
    partner = torch.full((batch, size), -1, device=left.device)
    while True:
        distance, nearest = left.min(-1)  # the first of equals: see the tie rule above
        mutual = (nearest.gather(1, nearest) == torch.arange(left.shape[1], device=left.device)) & (
            distance < torch.inf
        )
        partner.scatter_(1, rows, torch.where(mutual, rows.gather(1, nearest), partner.gather(1, rows)))
        remaining = int((partner < 0).sum(1).max())
        if remaining == 0:
            return _in_greedy_order(distances, partner)
        left.masked_fill_(mutual[:, :, None], torch.inf).masked_fill_(mutual[:, None, :], torch.inf)
        if 3 * remaining <= 2 * left.shape[1]:
            left, rows = _keep_rows(left, rows, partner, remaining)


def _pairs_one_by_one(distances: Tensor) -> Tensor:
    """The same pairs by greedy's own loop, whose length does not depend on the data: a GPU never waits in it."""
    batch, size, _ = distances.shape
    left, pairs = distances.clone(), []
    left.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    for _ in range(size // 2):
        closest = left.flatten(1).argmin(1)  # the first of equals
        pair = torch.stack([closest // size, closest % size], dim=-1)
        for member in pair.unbind(-1):
            index = member[:, None, None]
            left.scatter_(1, index.expand(-1, 1, size), torch.inf).scatter_(2, index.expand(-1, size, 1), torch.inf)
        pairs.append(pair)
    return torch.stack(pairs, dim=1)


def _keep_rows(left: Tensor, rows: Tensor, partner: Tensor, remaining: int) -> tuple[Tensor, Tensor]:
    """The first `remaining` rows and columns, after free ones were moved to the front in their order."""
    taken = partner.gather(1, rows) >= 0
    keep = torch.sort(taken, dim=1, stable=True).indices[:, :remaining]
    batch, size, _ = left.shape
    flat = keep + size * torch.arange(batch, device=left.device)[:, None]
    kept = left.flatten(0, 1).index_select(0, flat.flatten()).unflatten(0, (batch, remaining))
    return kept.gather(2, keep[:, None].expand(-1, remaining, -1)), rows.gather(1, keep)


def _in_greedy_order(distances: Tensor, partner: Tensor) -> Tensor:
    """The pairs of `partner` [B,N] sorted by (distance, smaller index)."""
    batch, size = partner.shape
    first = torch.arange(size, device=partner.device).expand(batch, size)
    rows = first[first < partner].view(batch, size // 2)  # in ascending order, so a stable sort settles ties
    columns = partner.gather(1, rows)
    distance = distances.flatten(1).gather(1, rows * size + columns)
    order = torch.sort(distance, dim=1, stable=True).indices
    return torch.stack([rows.gather(1, order), columns.gather(1, order)], dim=-1)


def all_stages(finest: Tensor) -> Tensor:
    """Labels of all stages [B,S,L] from the labels of the last stage [B,L]. Labels nest: each stage drops one bit."""
    splits = num_splits(finest.shape[-1])
    shifts = torch.arange(splits, -1, -1, device=finest.device)
    return finest[:, None] >> shifts[:, None]


def embed(labels: Tensor, stage: int | Tensor, splits: int) -> Tensor:
    """Structure embedding (paper section 2.2): labels of one stage as K channels.

    Args:
        labels: long [B,L], labels of stage `stage`.
        stage: i, the number of splits made so far; an int, or long [B] where the items differ.
        splits: K.
    Returns:
        long [B,L,K]: channel j < i is 2 * bit of the label, most significant first; the others hold 1.
    """
    if isinstance(stage, int):
        stage = torch.full((1,), stage, device=labels.device)
    stage = stage.reshape(-1, 1, 1)
    shift = stage - 1 - torch.arange(splits, device=labels.device)
    return torch.where(shift >= 0, 2 * ((labels[..., None] >> shift.clamp(min=0)) & 1), 1)


def split(
    labels: Tensor,
    scores: Tensor,
    gumbel: Tensor | None = None,
    sides: Tensor | None = None,
    clusters: int | None = None,
) -> Tensor:
    """Splits every cluster of a stage in two equal halves by score (paper section 2.2).

    The half of a cluster's positions with the largest p = clamp(score, -1, 1) + 1 becomes child 2j+1, the rest 2j.
    Equal p are ranked by the unclamped score, then by position, so that a result does not depend on the device.

    Args:
        labels: long [B,L], labels of stage i < K.
        scores: float [B,L], channel i of the flow's result.
        gumbel: standard Gumbel noise [B,L] for Gumbel-top-k on log p, the paper's way to diversity; None: plain top-k.
        sides: long [B,L], 1 and 0 for positions that go to child 2j+1 and 2j as far as equal halves allow (those with
            the fitting scores first), -1 for the others, which are ranked within what is left.
        clusters: 2^i. Given, nothing is read from the device, and the caller sees to it that no score is NaN.
    Returns:
        long [B,L], labels of stage i+1.
    Raises:
        NVGError: a score is NaN.
    """
    if clusters is None:
        if bool(torch.isnan(scores).any()):
            raise NVGError("the scores to split by hold NaN; give numbers, or infinity")
        clusters = int(labels.max()) + 1
    batch, positions = labels.shape
    # The clamp is monotonous: without noise, ranking by p and then by the score is ranking by the score.
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices
    if gumbel is not None:
        noisy = torch.log(scores.clamp(-1, 1) + 1) + gumbel  # a position at p = 0 has -inf: it is chosen last
        order = _sorted_by(noisy, order, descending=True)
    if sides is not None:
        order = _sorted_by(torch.where(sides == 1, 0, torch.where(sides == 0, 2, 1)), order)
    ranked = _sorted_by(labels, order).view(batch, clusters, positions // clusters)
    upper = ranked[..., : ranked.shape[-1] // 2].flatten(1)
    return (2 * labels).scatter_add(1, upper, torch.ones_like(upper))


def _sorted_by(values: Tensor, order: Tensor, descending: bool = False) -> Tensor:
    """The positions `order` [B,L] sorted by their values [B,L]; equal ones keep their order."""
    ranks = torch.sort(values.gather(1, order), dim=1, descending=descending, stable=True).indices
    return order.gather(1, ranks)


def check(structure: Tensor, positions: int) -> None:
    """Raises NVGError unless `structure` [B,S,L] is a hierarchy: every stage splits every parent exactly in half."""
    if (
        structure.dim() != 3
        or structure.shape[-1] != positions
        or not 1 <= structure.shape[1] <= num_splits(positions) + 1
    ):
        raise NVGError(
            f"the structure has shape {list(structure.shape)}; this model needs [batch, stages, {positions}] "
            f"with 1 to {num_splits(positions) + 1} stages"
        )
    if structure.is_floating_point() or structure.dtype == torch.bool:
        raise NVGError(f"the structure has type {structure.dtype}; labels are integers")
    if bool((structure[:, 0] != 0).any()):
        raise NVGError("stage 0 of the structure is one cluster, so all its labels must be 0")
    for stage in range(1, structure.shape[1]):
        _check_stage(structure[:, stage - 1], structure[:, stage], stage)


def _check_stage(parents: Tensor, labels: Tensor, stage: int) -> None:
    """Raises NVGError unless `labels` [B,L] of `stage` halve every cluster of `parents` [B,L]."""
    clusters, size = 2**stage, labels.shape[-1] // 2**stage
    wrong = (labels >> 1) != parents
    if bool(wrong.any()):
        item, position = wrong.nonzero()[0].tolist()
        raise NVGError(
            f"the structure is not a hierarchy: at stage {stage} position {position} of item {item} has label "
            f"{int(labels[item, position])}, but its parent is {int(parents[item, position])}, "
            f"whose children are {2 * int(parents[item, position])} and {2 * int(parents[item, position]) + 1}"
        )
    counts = torch.zeros(len(labels), clusters, dtype=torch.long, device=labels.device)
    counts.scatter_add_(1, labels.long(), torch.ones_like(labels, dtype=torch.long))
    uneven = counts != size
    if bool(uneven.any()):
        item, label = uneven.nonzero()[0].tolist()
        raise NVGError(
            f"the structure does not split parent {label // 2} of stage {stage - 1} in half (item {item}): "
            f"child {label} has {int(counts[item, label])} positions instead of {size}"
        )


def members(labels: Tensor, clusters: int) -> Tensor:
    """Positions of every cluster of `labels` [B,L], ascending: long [B,N,L/N]; all clusters are equally large."""
    return torch.sort(labels, dim=1, stable=True).indices.unflatten(1, (clusters, -1))


def cluster_means(x: Tensor, labels: Tensor, clusters: int, weights: Tensor | None = None) -> Tensor:
    """Mean of `x` [B,L,C] over each cluster of `labels` [B,L]: [B,N,C].

    Gathering the members instead of scattering keeps the order of summation fixed on every device.

    Args:
        weights: float [B,L] of the positions, not negative; a cluster without any weight has its plain mean.
    """
    index = members(labels, clusters)
    own = _take(x, index.flatten(1)).unflatten(1, index.shape[1:])
    if weights is None:
        return own.mean(2)
    weights = weights.gather(1, index.flatten(1)).unflatten(1, index.shape[1:])[..., None]
    total = weights.sum(2)
    return torch.where(total > 0, (own * weights).sum(2) / total.clamp(min=1e-12), own.mean(2))


def place(values: Tensor, labels: Tensor) -> Tensor:
    """Puts the value of every cluster, [B,N] or [B,N,C], at its positions: [B,L] or [B,L,C]."""
    return values.gather(1, labels) if values.dim() == 2 else _take(values, labels)
