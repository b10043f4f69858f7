"""Low-rank adaptation (Hu et al. 2021): W + B A in place of W, for fine-tuning with few trained numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

ADAPTED = ("linear_in", "linear_out", "modulation")
"""The matrices of a block that are adapted."""


class LowRank(nn.Module):
    """Adds a product of two thin matrices to a weight [out,in]; at the start it adds nothing."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, weight.shape[1]) / math.sqrt(weight.shape[1]))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight."""
        return torch.addmm(weight, self.up, self.down)


def adapt(module: nn.Module, rank: int) -> None:
    """Freezes `module` but for its class embeddings, and adds trained low-rank changes to the blocks' matrices."""
    trained = {name for name, one in module.named_parameters() if one.requires_grad}
    module.requires_grad_(False)
    for name, part in list(module.named_modules()):
        if name.rpartition(".")[2] in ADAPTED and ".blocks." in name and f"{name}.weight" in trained:
            parametrize.register_parametrization(part, "weight", LowRank(part.weight, rank).to(part.weight.device))
    for name, parameter in module.named_parameters():
        if name.endswith("class_embedding.weight") and name in trained:
            parameter.requires_grad_(True)


def plain_weights(state: dict[str, Tensor], average: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a module as it was before `adapt`, with the averages in and the changes added."""
    weights = state | average
    plain = {}
    for name, value in weights.items():
        if ".parametrizations." not in name:
            plain[name] = value
        elif name.endswith(".original"):
            parts = name.removesuffix("original") + "0."
            change = weights[f"{parts}up"] @ weights[f"{parts}down"]
            plain[name.removesuffix(".original").replace(".parametrizations.", ".")] = value + change
    return plain
