"""Image <-> VisualGranularitySequence (paper section 2.1).

Shapes: images [B,3,H,W] in [-1,1]; L = h*w positions, row-major; C latent channels; S stages.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nvg_model.autoencoder import Decoder, Encoder
from nvg_model.config import NVGConfig
from nvg_model.errors import NVGError
from nvg_model.hierarchy import cluster
from nvg_model.quantizer import Quantizer
from nvg_model.sequence import VisualGranularitySequence


class Tokenizer(nn.Module):
    """Autoencoder and quantiser."""

    def __init__(self, config: NVGConfig) -> None:
        super().__init__()
        self.image_size, self.grid = config.image_size, config.grid
        autoencoder = config.autoencoder
        self.encoder = Encoder(autoencoder)
        self.decoder = Decoder(autoencoder)
        self.quantizer = Quantizer(
            autoencoder.codebook_size, autoencoder.latent_channels, config.num_stages, config.grid
        )

    def encode(self, images: Tensor) -> Tensor:
        """Latent vectors, float32 [B,L,C], of images [B,3,H,W].

        Raises:
            NVGError: not the size and channels that the model takes, or not finite.
        """
        height, width = self.image_size
        if images.dim() != 4 or images.shape[1:] != (3, height, width):
            raise NVGError(
                f"the images have shape {list(images.shape)}; this model takes [batch, 3, {height}, {width}]: "
                "crop, pad or resize them first"
            )
        if not images.is_floating_point():
            raise NVGError(f"the images have type {images.dtype}; give floating-point values in [-1, 1]")
        if not bool(torch.isfinite(images).all()):
            raise NVGError("the images hold NaN or infinity; values must lie in [-1, 1]")
        weight = self.encoder.stem.weight
        return self.encoder(images.to(weight)).flatten(2).mT.float()

    def tokenize(self, images: Tensor) -> VisualGranularitySequence:
        """The whole sequence of images [B,3,H,W]. Raises as `encode` does."""
        latent = self.encode(images)
        structure = cluster(latent)
        tokens, canvases = self.quantizer(latent, structure)
        return VisualGranularitySequence(structure, tokens, canvases, self.grid)

    def decode(self, canvas: Tensor) -> Tensor:
        """Images float32 [B,3,H,W] in [-1,1] of a canvas [B,L,C]."""
        weight = self.decoder.stem.weight
        latent = canvas.to(weight).mT.unflatten(2, self.grid)
        return self.decoder(latent).float().clamp(-1, 1)
