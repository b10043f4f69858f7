"""Features of a frozen DINO vision transformer: of the discriminator (DINO, ViT-S/16) and of REPA (DINOv2, ViT-B/14).

The transformers are those of the `transformers` package, an optional dependency that needs no torchvision; their
weights are read by `training.losses.dino_weights`.
Shapes: B images [B,3,H,W] in [-1,1]; h x w patches, L = h*w in row-major order; D width of the transformer.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DinoFeatures(nn.Module):
    """Patch tokens of a frozen vision transformer after chosen blocks; the gradient reaches the images only.

    Pictures are resized without antialiasing, as in the release (nvg-method section 8).

    Args:
        vit: a ViTModel or Dinov2Model of `transformers`; frozen here, and in evaluation mode for good.
        depths: after which blocks, in rising order; 0 is the patch embedding.
        grid: patches (h, w) that every image is resized to; (14, 14) are the 224x224 pixels that DINO was trained on.
        final_norm: whether the features pass the transformer's last LayerNorm, as REPA's targets do.
        readout: adds the class token to every patch, as the discriminator wants it.
        area: larger pictures are resized by area instead of bicubically, as the discriminator wants it.
    Raises:
        ValueError: depths that the transformer does not have.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        vit: Any,
        depths: Sequence[int],
        grid: tuple[int, int] = (14, 14),
        final_norm: bool = False,
        readout: bool = False,
        area: bool = False,
    ) -> None:
        super().__init__()
        blocks = vit.config.num_hidden_layers
        if not depths or list(depths) != sorted(set(depths)) or depths[0] < 0 or depths[-1] > blocks:
            raise ValueError(f"depths must rise within 0 to {blocks}, the blocks of this transformer; got {depths}")
        self.vit: Any = vit.requires_grad_(False).eval()
        if getattr(vit, "pooler", None) is not None:
            vit.pooler = None  # never used, and not among DINO's pretrained weights
        self.depths, self.grid, self.final_norm = tuple(depths), grid, final_norm
        self.readout, self.area = readout, area
        self.width: int = vit.config.hidden_size
        self.size = (grid[0] * vit.config.patch_size, grid[1] * vit.config.patch_size)
        # DINOv2 always fits its positions to the picture; DINO has to be asked.
        fits = "interpolate_pos_encoding" in inspect.signature(vit.forward).parameters
        self.options = {"interpolate_pos_encoding": True} if fits else {}
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> DinoFeatures:
        """Stays in evaluation mode, in which there is neither dropout nor drop-path."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features [B,L,D] for every chosen depth. Raises ValueError for images without three channels."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"DINO takes images [B,3,H,W], not {list(images.shape)}")
        pixels = ((self.resized(images) + 1) / 2 - self.mean) / self.deviation
        states = self.vit(pixels, output_hidden_states=True, **self.options).hidden_states
        features = []
        for depth in self.depths:
            state = self.vit.layernorm(states[depth]) if self.final_norm else states[depth]
            patches = state[:, -math.prod(self.grid) :]  # class and register tokens come first
            features.append(patches + state[:, :1] if self.readout else patches)
        return features

    def resized(self, images: Tensor) -> Tensor:
        """Images [B,3,H,W] at the size that the transformer sees."""
        if images.shape[2:] == self.size:
            return images
        if self.area and images.shape[2] >= self.size[0] and images.shape[3] >= self.size[1]:
            return F.interpolate(images, self.size, mode="area")
        return F.interpolate(images, self.size, mode="bicubic")
