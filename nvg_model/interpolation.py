"""Interpolation: pictures between two sequences.

The structure moves as outlines do: every split is a map of two halves, its signed distances to the outline are mixed,
and every cluster is split again by the mixture. The content of a cluster is that of the same cluster of both ends.

Shapes: S stages, L positions, N = 2^i clusters of stage i, C latent channels, F frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nvg_model import hierarchy
from nvg_model.errors import NVGError
from nvg_model.quantizer import Quantizer
from nvg_model.tokenizer import VisualGranularitySequence

CONTENT = ("blend", "nearer", "stages")
"""How the content changes: mixed little by little, at once in the middle, or stage by stage from coarse to fine."""


def structures_between(first: Tensor, second: Tensor, shares: Tensor, grid: tuple[int, int]) -> Tensor:
    """Hierarchies long [F,S,L] between `first` and `second` [S,L]; at shares 0 and 1 they equal the two ends.

    Args:
        shares: float [F] in [0,1], how far each frame has come.
    """
    distances = [_signed_distances(one & 1, grid) for one in (first, second)]
    labels = torch.zeros(len(shares), first.shape[-1], dtype=torch.long, device=first.device)
    stages = [labels]
    for stage in range(1, len(first)):
        scores = torch.lerp(distances[0][stage][None], distances[1][stage][None], shares[:, None])
        labels = hierarchy.split(labels, scores)
        stages.append(labels)
    return torch.stack(stages, 1)


def _signed_distances(sides: Tensor, grid: tuple[int, int]) -> Tensor:
    """Distance of every position to the nearest one of the other side, float [S,L]; negative on side 0.

    Args:
        sides: long [S,L], 0 or 1.
    """
    rows, columns = torch.meshgrid(*(torch.arange(side, device=sides.device) for side in grid), indexing="ij")
    place = torch.stack([rows, columns], -1).flatten(0, 1).float()
    apart = torch.cdist(place, place, compute_mode="donot_use_mm_for_euclid_dist")
    other = sides[:, :, None] != sides[:, None]
    nearest = torch.where(other, apart, torch.inf).amin(-1).clamp(max=sum(grid))  # finite where there is one side only
    return torch.where(sides == 1, nearest, -nearest)


def interpolate(
    first: VisualGranularitySequence,
    second: VisualGranularitySequence,
    frames: int,
    quantizer: Quantizer,
    content: str = "blend",
) -> VisualGranularitySequence:
    """`frames` pictures from `first` to `second`, both included, as one batch; see `NVG.interpolate`."""
    _check(first, second, frames, content)
    shares = torch.linspace(0, 1, frames, device=first.structure.device)
    structure = structures_between(first.structure[0], second.structure[0], shares, first.grid)
    canvas = first.canvases.new_zeros(frames, *first.canvases.shape[2:])
    tokens, canvases = [], []
    for stage in range(first.num_stages):
        labels, start, end = structure[:, stage], first.cluster_tokens(stage), second.cluster_tokens(stage)
        own = _stage_shares(shares, stage, first.num_stages, content)
        vectors = torch.lerp(quantizer.lookup(start), quantizer.lookup(end), own[:, None, None])
        canvas = canvas + quantizer.refine(hierarchy.place(vectors, labels), stage)
        codes = torch.where(own[:, None] < 0.5, start, end)
        tokens.append(hierarchy.place(codes, labels))
        canvases.append(canvas)
    made = torch.stack(tokens, 1), torch.stack(canvases, 1)
    for whole, name in zip(made, ("tokens", "canvases"), strict=True):  # exact, also where the ends were edited
        whole[0], whole[-1] = getattr(first, name)[0], getattr(second, name)[0]
    return VisualGranularitySequence(structure, *made, first.grid)


def _stage_shares(shares: Tensor, stage: int, stages: int, content: str) -> Tensor:
    """How far the content of a stage has come, float [F]."""
    if content == "blend":
        return shares
    threshold = 0.5 if content == "nearer" else (stage + 1) / (stages + 1)
    return (shares >= threshold).float()


def _check(first: VisualGranularitySequence, second: VisualGranularitySequence, frames: int, content: str) -> None:
    if len(first) != 1 or len(second) != 1:
        raise NVGError(f"the sequences have {len(first)} and {len(second)} items; give one picture for each end")
    if first.canvases.shape != second.canvases.shape or first.grid != second.grid:
        raise NVGError(
            f"the sequences do not fit: {first.num_stages} stages on a {first.grid[0]}x{first.grid[1]} grid and "
            f"{second.num_stages} on {second.grid[0]}x{second.grid[1]}; take both from one model, both whole"
        )
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 2:
        raise NVGError(f"frames is {frames!r}; give a whole number of at least 2, both ends included")
    if content not in CONTENT:
        raise NVGError(f"content is {content!r}; it can be {', '.join(CONTENT)}")
