"""Convolutional encoder and decoder (paper section 2.1; the VQGAN family without attention).

Shapes: images [B,3,H,W] in [-1,1]; latent [B,C,h,w]; w channels of a level.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nvg_model.config import AutoencoderConfig


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


class ResidualBlock(nn.Module):
    """(GroupNorm, swish, conv3x3) twice, with a 1x1 shortcut where the channels change."""

    def __init__(self, channels_in: int, channels_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps=1e-6)
        self.conv1 = _conv(channels_in, channels_out)
        self.norm2 = nn.GroupNorm(groups, channels_out, eps=1e-6)
        self.conv2 = _conv(channels_out, channels_out)
        self.shortcut = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        return h + self.shortcut(x)


class Downsample(nn.Module):
    """Stride-2 conv3x3, padded with zeros on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour x2, then conv3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _head(channels_in: int, channels_out: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(groups, channels_in, eps=1e-6), nn.SiLU(inplace=True), _conv(channels_in, channels_out)
    )


class Encoder(nn.Module):
    """Images [B,3,H,W] to latents [B,C,h,w]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.encoder_widths
        groups = config.norm_groups
        self.stem = _conv(3, config.base_channels)
        self.levels = nn.ModuleList()
        channels = config.base_channels
        for index, width in enumerate(widths):
            level = nn.Sequential()
            for _ in range(config.residual_blocks):
                level.append(ResidualBlock(channels, width, groups))
                channels = width
            if index < len(widths) - 1:
                level.append(Downsample(channels))
            self.levels.append(level)
        self.middle = nn.Sequential(*(ResidualBlock(channels, channels, groups) for _ in range(2)))
        self.head = _head(channels, config.latent_channels, groups)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for level in self.levels:
            x = level(x)
        return self.head(self.middle(x))


class Decoder(nn.Module):
    """Latents [B,C,h,w] to pictures [B,3 or 4,H,W], not clamped: colours on white, and opacity where it has any.

    Larger pictures than the encoder's come from the finest level, several pixels from each position of it (sub-pixel
    convolution, Shi et al. 2016).
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.decoder_widths[::-1]
        groups = config.norm_groups
        channels = widths[0]
        self.stem = _conv(config.latent_channels, channels)
        self.middle = nn.Sequential(*(ResidualBlock(channels, channels, groups) for _ in range(2)))
        self.levels = nn.ModuleList()  # coarse to fine
        for index, width in enumerate(widths):
            level = nn.Sequential()
            for _ in range(config.residual_blocks + 1):
                level.append(ResidualBlock(channels, width, groups))
                channels = width
            if index < len(widths) - 1:
                level.append(Upsample(channels))
            self.levels.append(level)
        self.scale = config.output_scale
        self.head = _head(channels, config.output_channels * self.scale**2, groups)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.middle(self.stem(latent))
        for level in self.levels:
            x = level(x)
        x = self.head(x)
        return x if self.scale == 1 else F.pixel_shuffle(x, self.scale)
