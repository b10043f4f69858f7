"""Multi-granularity residual quantiser (paper section 2.1, content construction).

Shapes: B batch, S stages, L positions, N clusters of a stage, C latent channels, V codebook vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from nvg_model import hierarchy


class Quantized(NamedTuple):
    """Result of `Quantizer.forward`."""

    tokens: Tensor
    """long [B,S,L]."""
    canvases: Tensor
    """float32 [B,S,L,C], with gradient to codebook and refiners."""


class Quantizer(nn.Module):
    """Codebook and one refining convolution per stage.

    Everything outside this file uses the methods and properties only, so another codebook is a change here alone.
    Computes in float32 whatever the type of its weights: which code is nearest must not depend on the precision
    that the networks run at.
    """

    REFINE = 0.5  # share of the convolution in the refinement h + 0.5 * conv(h)

    def __init__(self, codebook_size: int, channels: int, num_stages: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.codebook = nn.Parameter(torch.empty(codebook_size, channels))
        self.refiners = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(num_stages))
        nn.init.uniform_(self.codebook, -1 / codebook_size, 1 / codebook_size)

    def spread(self) -> None:
        """Random codes as far apart as those of a trained tokenizer: for measurements without weights."""
        nn.init.normal_(self.codebook)

    @property
    def num_codes(self) -> int:
        """V: tokens are 0 to V-1."""
        return len(self.codebook)

    @property
    def channels(self) -> int:
        """C, of latent and canvas."""
        return self.codebook.shape[1]

    @property
    def num_stages(self) -> int:
        """S, the stages that have a refinement of their own."""
        return len(self.refiners)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.codebook.device

    def forward(self, latent: Tensor, structure: Tensor, soft_assignment: bool = False) -> Quantized:
        """Quantises a latent coarse to fine.

        Args:
            latent: float [B,L,C]; treated as a constant (gradients reach it through `straight_through` and the loss).
            structure: long [B,S,L].
            soft_assignment: IBQ's straight-through softmax over the whole codebook, by which every code receives
                gradient; used in the first epoch of training (paper section 3.1).
        """
        target = latent.detach().float()
        canvas = torch.zeros_like(target)
        tokens, canvases = [], []
        for stage in range(structure.shape[1]):
            labels = structure[:, stage]
            means = hierarchy.cluster_means(target - canvas.detach(), labels, 2**stage)
            codes = self.nearest(means)
            vectors = self._soft_vectors(means, codes) if soft_assignment else self.lookup(codes)
            canvas = canvas + self.refine(hierarchy.place(vectors, labels), stage)
            tokens.append(hierarchy.place(codes, labels))
            canvases.append(canvas)
        return Quantized(torch.stack(tokens, 1), torch.stack(canvases, 1))

    def nearest(self, vectors: Tensor) -> Tensor:
        """Index of the nearest codebook vector (squared L2) of each of `vectors` [...,C]: long [...]."""
        return self._distances(vectors).argmin(-1)

    def _distances(self, vectors: Tensor) -> Tensor:
        """Squared L2 distance to every code less the squared norm of the vector itself: [...,V]."""
        codebook = self.codebook.float()
        return codebook.square().sum(-1) - 2 * (vectors @ codebook.T)

    @torch.no_grad()
    def prior(self, sharpness: float = 0.1) -> tuple[Tensor, Tensor]:
        """Weight [V,C] and bias [V] of a linear layer that scores the codes by their squared distance to a vector.

        The score is s * (2 z.e - |e|^2), with s the `sharpness` over the mean of |e|^2: the nearest code is the
        likeliest. A content generator starts its training from it.
        """
        squares = self.codebook.square().sum(-1)
        scale = sharpness / squares.mean()
        return 2 * scale * self.codebook, -scale * squares

    def _soft_vectors(self, vectors: Tensor, codes: Tensor) -> Tensor:
        distances = self._distances(vectors)
        soft = torch.softmax(distances.amax(-1, keepdim=True) - distances, dim=-1)
        hard = F.one_hot(codes, self.num_codes).float()
        return (hard - soft.detach() + soft) @ self.codebook.float()

    def lookup(self, codes: Tensor) -> Tensor:
        """Codebook vectors of `codes` [...]: float32 [...,C]."""
        return F.embedding(codes, self.codebook).float()

    def refine(self, placed: Tensor, stage: int, seamless: bool = False) -> Tensor:
        """h + 0.5 * conv(h) with the convolution of the stage, on the grid; [B,L,C] to [B,L,C].

        Args:
            seamless: pad the grid with its opposite edge instead of zeros.
        """
        conv = self.refiners[stage]
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        image = rearrange(placed.mT, "b c (h w) -> b c h w", h=self.grid[0])
        if seamless:
            image = F.pad(image, (1, 1, 1, 1), mode="circular")
        refined = F.conv2d(image, conv.weight.float(), conv.bias.float(), padding=0 if seamless else 1)
        return placed + self.REFINE * rearrange(refined, "b c h w -> b c (h w)").mT

    def add_stage(self, canvas: Tensor, codes: Tensor, labels: Tensor, stage: int, seamless: bool = False) -> Tensor:
        """The canvas [B,L,C] after stage `stage`, from the canvas before it and each cluster's code [B,N]."""
        return canvas + self.refine(hierarchy.place(self.lookup(codes), labels), stage, seamless)


def quantizer_loss(latent: Tensor, canvases: Tensor) -> Tensor:
    """Mean over stages of 0.25 * mse(sg(canvas_i), Z) + mse(canvas_i, sg(Z)) (paper section 2.1).

    Args:
        latent: Z, float [B,L,C].
        canvases: float [B,S,L,C].
    """
    target = latent.float()[:, None].expand_as(canvases)
    return 0.25 * F.mse_loss(canvases.detach(), target) + F.mse_loss(canvases, target.detach())


def straight_through(latent: Tensor, canvas: Tensor) -> Tensor:
    """The value of `canvas` [B,L,C] with the gradient of `latent` [B,L,C]."""
    return latent + (canvas - latent).detach()
