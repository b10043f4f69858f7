"""VisualGranularitySequence: what an image is made of, stage by stage; immutable.

Shapes: B batch, S stages present, L positions, N clusters of a stage, C latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nvg_model import hierarchy


@dataclass(frozen=True, eq=False)
class VisualGranularitySequence:
    """Structure, tokens and canvases of the first S stages of a batch (paper section 2.1).

    It is whole when S = K+1; generation passes through the shorter ones, and any of them can be gone on from.
    """

    structure: Tensor
    """long [B,S,L]: label of every position at every stage, reindexed (j -> 2j, 2j+1)."""
    tokens: Tensor
    """long [B,S,L]: codebook index of every position at every stage."""
    canvases: Tensor
    """float [B,S,L,C]: the canvas after each stage."""
    grid: tuple[int, int]
    """(h, w): rows and columns of the L positions."""

    def __len__(self) -> int:
        """Number of images B."""
        return self.structure.shape[0]

    @property
    def num_stages(self) -> int:
        """S, the number of stages present."""
        return self.structure.shape[1]

    @property
    def is_whole(self) -> bool:
        """Whether the last stage, with one position per cluster, is present."""
        return 2 ** (self.num_stages - 1) == self.structure.shape[-1]

    def cluster_tokens(self, stage: int) -> Tensor:
        """Codebook index of every cluster of a stage, long [B, 2^stage], in the order of the labels."""
        first = hierarchy.members(self.structure[:, stage], 2**stage)[..., 0]
        return self.tokens[:, stage].gather(1, first)

    def first_stages(self, stages: int) -> VisualGranularitySequence:
        """The same images up to and including stage `stages - 1`."""
        return VisualGranularitySequence(
            self.structure[:, :stages], self.tokens[:, :stages], self.canvases[:, :stages], self.grid
        )

    def items(self, index: slice | list[int]) -> VisualGranularitySequence:
        """The images at the given places of the batch."""
        return VisualGranularitySequence(self.structure[index], self.tokens[index], self.canvases[index], self.grid)

    def repeated(self, batch: int) -> VisualGranularitySequence:
        """One image for a batch of so many, or the batch itself."""
        return self if len(self) == batch else self.items([0] * batch)

    def to(self, device: torch.device | str) -> VisualGranularitySequence:
        """The same sequence on another device."""
        return VisualGranularitySequence(
            self.structure.to(device), self.tokens.to(device), self.canvases.to(device), self.grid
        )
