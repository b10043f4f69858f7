"""Which codes a tokenizer uses.

Shapes: S stages, V codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nvg_model.tokenizer import VisualGranularitySequence


@dataclass
class CodeCounts:
    """How often every code was used at every stage."""

    counts: Tensor
    """long [S,V]."""

    @classmethod
    def empty(cls, stages: int, codes: int) -> CodeCounts:
        return cls(torch.zeros(stages, codes, dtype=torch.long))

    def add(self, sequence: VisualGranularitySequence) -> None:
        """Counts one token per cluster of every stage."""
        for stage in range(sequence.num_stages):
            tokens = sequence.cluster_tokens(stage).flatten().cpu()
            self.counts[stage] += torch.bincount(tokens, minlength=self.counts.shape[1])

    def used(self) -> float:
        """Share of the codes that are used at some stage."""
        return float((self.counts.sum(0) > 0).double().mean())

    def used_per_stage(self) -> list[float]:
        """Share of the codes that are used at each stage."""
        return (self.counts > 0).double().mean(1).tolist()

    def tokens_per_stage(self) -> list[int]:
        """Tokens counted at each stage: no stage can use more codes than it has tokens."""
        return self.counts.sum(1).tolist()

    def perplexity(self) -> float:
        """exp of the entropy of the codes over all stages: as diverse as this many equally frequent codes."""
        share = self.counts.sum(0).double()
        return float(torch.special.entr(share / share.sum()).sum().exp())
