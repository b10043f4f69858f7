"""Features of a frozen DINO vision transformer: of the discriminator (DINO, ViT-S/16) and of REPA (DINOv2, ViT-B/14).

The transformers are those of the `transformers` package, an optional dependency that needs no torchvision.
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

from training.data import DataError

DINO_SMALL = "facebook/dino-vits16"
DINOV2_BASE = "facebook/dinov2-base"
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DinoFeatures(nn.Module):
    """Patch tokens of a frozen vision transformer after chosen blocks; the gradient reaches the images only.

    Args:
        vit: a ViTModel or Dinov2Model of `transformers`; frozen here, and in evaluation mode for good.
        depths: after which blocks, in rising order; 0 is the patch embedding.
        grid: patches (h, w) that every image is resized to; (14, 14) are the 224x224 pixels that DINO was trained on.
        final_norm: whether the features pass the transformer's last LayerNorm, as REPA's targets do.
    Raises:
        ValueError: depths that the transformer does not have.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, vit: Any, depths: Sequence[int], grid: tuple[int, int] = (14, 14), final_norm: bool = False
    ) -> None:
        super().__init__()
        blocks = vit.config.num_hidden_layers
        if not depths or list(depths) != sorted(set(depths)) or depths[0] < 0 or depths[-1] > blocks:
            raise ValueError(f"depths must rise within 0 to {blocks}, the blocks of this transformer; got {depths}")
        self.vit: Any = vit.requires_grad_(False).eval()
        if getattr(vit, "pooler", None) is not None:
            vit.pooler = None  # never used, and not among DINO's pretrained weights
        self.depths, self.grid, self.final_norm = tuple(depths), grid, final_norm
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
        if images.shape[2:] != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True)
        pixels = ((images + 1) / 2 - self.mean) / self.deviation
        states = self.vit(pixels, output_hidden_states=True, **self.options).hidden_states
        # Class and register tokens come first.
        features = [states[depth][:, -math.prod(self.grid) :] for depth in self.depths]
        return [self.vit.layernorm(one) for one in features] if self.final_norm else features


def load_vit(name: str) -> Any:
    """A pretrained vision transformer by its hub id ("owner/name" or "owner/name@revision") or its folder.

    Raises:
        DataError: `transformers` is not installed, or the weights can neither be downloaded nor found in the cache.
    """
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise DataError(
            f"DINO features need the package transformers ({error}); run `pip install transformers`, "
            "or choose what needs none: the PatchGAN discriminator, and REPA weight 0"
        ) from error
    hub_id, _, revision = name.partition("@")
    try:
        return AutoModel.from_pretrained(hub_id, revision=revision or "main").float()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"the weights {name} could not be loaded ({reason}); check the name and the network, "
            "or choose what needs none: the PatchGAN discriminator, and REPA weight 0"
        ) from error
