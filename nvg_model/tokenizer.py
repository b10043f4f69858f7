"""Image <-> VisualGranularitySequence (paper section 2.1).

Shapes: images [B,3,H,W] in [-1,1], or [B,4,H,W] with opacity, also in [-1,1], and colours that are not premultiplied;
L = h*w positions, row-major; C latent channels; S stages.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from nvg_model.autoencoder import Decoder, Encoder
from nvg_model.config import NVGConfig
from nvg_model.errors import NVGError, all_finite
from nvg_model.hierarchy import cluster
from nvg_model.quantizer import Quantizer
from nvg_model.sequence import VisualGranularitySequence


class Tokenizer(nn.Module):
    """Autoencoder and quantiser."""

    def __init__(self, config: NVGConfig) -> None:
        super().__init__()
        self.image_size, self.output_size, self.grid = config.image_size, config.output_size, config.grid
        autoencoder = config.autoencoder
        self.encoder = Encoder(autoencoder)
        self.decoder = Decoder(autoencoder)
        self.quantizer = Quantizer(
            autoencoder.codebook_size, autoencoder.latent_channels, config.num_stages, config.grid
        )

    def encode(self, images: Tensor) -> Tensor:
        """Latent vectors, float32 [B,L,C], of images [B,3,H,W], or [B,4,H,W], which are put on white.

        They may be as large as what `decode` gives, if that is larger.

        Raises:
            NVGError: not the size and channels that the model takes, or not finite.
        """
        height, width = self.image_size
        if images.dim() != 4 or images.shape[1] not in (3, 4) or images.shape[2:] not in self._sizes():
            raise NVGError(
                f"the images have shape {list(images.shape)}; this model takes [batch, 3, {height}, {width}]: "
                "crop, pad or resize them first"
            )
        if not images.is_floating_point():
            raise NVGError(f"the images have type {images.dtype}; give floating-point values in [-1, 1]")
        if not all_finite(images):
            raise NVGError("the images hold NaN or infinity; values must lie in [-1, 1]")
        if images.shape[1] == 4:
            images = on_white(images)
        if images.shape[2:] != self.image_size:
            images = F.interpolate(images, self.image_size, mode="area")
        weight = self.encoder.stem.weight
        return rearrange(self.encoder(images.to(weight)), "b c h w -> b c (h w)").mT.float()

    def _sizes(self) -> tuple[tuple[int, int], ...]:
        return self.image_size, self.output_size

    def tokenize(self, images: Tensor) -> VisualGranularitySequence:
        """The whole sequence of images [B,3,H,W]. Raises as `encode` does."""
        latent = self.encode(images)
        structure = cluster(latent)
        tokens, canvases = self.quantizer(latent, structure)
        return VisualGranularitySequence(structure, tokens, canvases, self.grid)

    def decode(self, canvas: Tensor) -> Tensor:
        """Images float32 [B,3,H,W] in [-1,1] of a canvas [B,L,C]; what is transparent is white."""
        return self._output(canvas)[:, :3]

    def decode_with_opacity(self, canvas: Tensor) -> tuple[Tensor, Tensor]:
        """What `decode` gives, and its opacity [B,H,W] in [0,1]: 1 everywhere where the model has none."""
        output = self._output(canvas)
        opacity = (output[:, 3] + 1) / 2 if output.shape[1] == 4 else torch.ones_like(output[:, 0])
        return output[:, :3], opacity

    def decode_rgba(self, canvas: Tensor) -> Tensor:
        """Images float32 [B,4,H,W] in [-1,1] of a canvas [B,L,C], with opacity; opaque where the model has none."""
        output = self._output(canvas)
        if output.shape[1] == 3:
            return torch.cat([output, torch.ones_like(output[:, :1])], dim=1)
        return from_white(output)

    def _output(self, canvas: Tensor) -> Tensor:
        """What the decoder gives, float32 [B,3 or 4,H,W] in [-1,1]: colours on white, and opacity."""
        weight = self.decoder.stem.weight
        latent = rearrange(canvas.to(weight).mT, "b c (h w) -> b c h w", h=self.grid[0])
        return self.decoder(latent).float().clamp(-1, 1)


def on_white(images: Tensor) -> Tensor:
    """Colours on white, [B,3,H,W], of images [B,4,H,W] whose colours are not premultiplied; all in [-1,1]."""
    opacity = (images[:, 3:] + 1) / 2
    return torch.lerp(torch.ones_like(images[:, :3]), images[:, :3], opacity)


def from_white(output: Tensor) -> Tensor:
    """Images [B,4,H,W] whose colours are not premultiplied, of colours on white and opacity [B,4,H,W]; in [-1,1].

    What is transparent altogether is white.
    """
    opacity = (output[:, 3:] + 1) / 2
    colour = 1 - (1 - output[:, :3]) / opacity.clamp(min=1 / 255)
    return torch.cat([colour.clamp(-1, 1), output[:, 3:]], dim=1)
