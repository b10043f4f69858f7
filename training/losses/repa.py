"""Representation alignment (Yu et al. 2024; paper section 3.1): the content generator's tokens, seen through a small
network, should look like the features that a frozen DINOv2 finds in the finished image.

Shapes: B images [B,3,H,W] in [-1,1]; R rows; L positions; D width of the generator; F width of the features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvg_model.networks import ContentGenerator
from training.errors import TrainingError
from training.losses.dino import DinoFeatures
from training.losses.dino_weights import DINOV2_BASE, load_vit

HIDDEN = 2048


class Repa(nn.Module):
    """1 - cosine between the projected tokens after a block and the image's features, mean over positions.

    Args:
        content: the generator; a hook keeps the tokens of its last forward.
        layer: the block, counted from 1, after which the tokens are taken.
        features: of the frozen transformer, one depth, with the generator's grid.
    Raises:
        TrainingError: the generator has no such block.
    """

    def __init__(self, content: ContentGenerator, layer: int, features: DinoFeatures) -> None:
        super().__init__()
        blocks = content.transformer.blocks
        if not 1 <= layer <= len(blocks):
            raise TrainingError(f"repa_layer is {layer}; the content generator has blocks 1 to {len(blocks)}")
        block: Any = blocks[layer - 1]
        self.projector = nn.Sequential(
            nn.Linear(block.width, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(),
            nn.Linear(HIDDEN, features.width),
        )  # fmt: skip
        self._features = (features,)  # in a tuple: no part of what is trained and saved
        self._tokens: Tensor | None = None
        block.register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: object, output: Tensor) -> None:
        self._tokens = output

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """Features [B,L,F] of the images."""
        return self._features[0].to(images.device)(images)[0].float()

    def forward(self, images: Tensor, row: Tensor) -> Tensor:
        """The loss of every row [R] of the generator's last forward; `row` [R] says which image it belongs to."""
        assert self._tokens is not None, "the generator's forward comes first"
        targets = self.targets(images)[row]
        projected = self.projector(self._tokens[:, -targets.shape[1] :])
        self._tokens = None
        return 1 - F.cosine_similarity(projected.float(), targets, dim=-1).mean(1)


def make_repa(content: ContentGenerator, layer: int, encoder: str) -> Repa:
    """REPA on a transformer as `load_vit` takes it. Raises TrainingError."""
    vit = load_vit(encoder, DINOV2_BASE)
    depth = vit.config.num_hidden_layers
    return Repa(content, layer, DinoFeatures(vit, depths=(depth,), grid=content.grid, final_norm=True))
