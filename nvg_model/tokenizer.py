"""Image <-> VisualGranularitySequence: the sequence, the tokenizer and its convolutional encoder and decoder
(paper section 2.1; the VQGAN family without attention).

Shapes: images [B,3,H,W] in [-1,1], or [B,4,H,W] with opacity, also in [-1,1], and colours that are not premultiplied;
L = h*w positions, row-major; C latent channels; S stages; N clusters of a stage.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from nvg_model import hierarchy
from nvg_model.config import AutoencoderConfig, NVGConfig
from nvg_model.errors import NVGError, all_finite
from nvg_model.quantizer import Quantizer

HAZE = 1 / 16
"""Opacity up to which a pixel counts as clear, and less than which it lacks of being solid."""


@dataclass(frozen=True, eq=False)
class VisualGranularitySequence:
    """Structure, tokens and canvases of the first S stages of a batch (paper section 2.1).

    It is whole when S = K+1. Generation makes the shorter ones on its way, and can continue from any of them.
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
        """One image repeated for a batch of this size, or the batch itself."""
        return self if len(self) == batch else self.items([0] * batch)

    def to(self, device: torch.device | str) -> VisualGranularitySequence:
        """The same sequence on another device."""
        return VisualGranularitySequence(
            self.structure.to(device), self.tokens.to(device), self.canvases.to(device), self.grid
        )


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

    def encode(self, images: Tensor, check: bool = True) -> Tensor:
        """Latent vectors, float32 [B,L,C], of images [B,3,H,W], or [B,4,H,W], which are put on white.

        They may be as large as what `decode` gives, if that is larger.

        Args:
            check: look for NaN and infinity, which waits for the device.
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
        if check and not all_finite(images):
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
        structure = hierarchy.cluster(latent)
        tokens, canvases = self.quantizer(latent, structure)
        return VisualGranularitySequence(structure, tokens, canvases, self.grid)

    def decode(self, canvas: Tensor, seamless: bool = False) -> Tensor:
        """Images float32 [B,3,H,W] in [-1,1] of a canvas [B,L,C]; what is transparent is white.

        Args:
            seamless: pictures that tile without a seam.
        """
        return self._output(canvas, seamless)[:, :3]

    def decode_with_opacity(self, canvas: Tensor, seamless: bool = False) -> tuple[Tensor, Tensor]:
        """What `decode` gives, and its opacity [B,H,W] in [0,1]: 1 everywhere where the model has none."""
        output = self._output(canvas, seamless)
        opacity = (output[:, 3] + 1) / 2 if output.shape[1] == 4 else torch.ones_like(output[:, 0])
        return output[:, :3], opacity

    def decode_rgba(self, canvas: Tensor, seamless: bool = False) -> Tensor:
        """Images float32 [B,4,H,W] in [-1,1] of a canvas [B,L,C], with opacity; opaque where the model has none."""
        output = self._output(canvas, seamless)
        if output.shape[1] == 3:
            return torch.cat([output, torch.ones_like(output[:, :1])], dim=1)
        return from_white(output)

    def _output(self, canvas: Tensor, seamless: bool = False) -> Tensor:
        """What the decoder gives, float32 [B,3 or 4,H,W] in [-1,1]: colours on white, and opacity."""
        weight = self.decoder.stem.weight
        latent = rearrange(canvas.to(weight).mT, "b c (h w) -> b c h w", h=self.grid[0])
        decoder = _wrapping(self.decoder) if seamless else self.decoder
        output = decoder(latent).float().clamp(-1, 1)
        return output if output.shape[1] == 3 else without_haze(output)


def _wrapping(decoder: Decoder) -> Decoder:
    """The same decoder with the same weights, whose convolutions are padded with the opposite edge."""
    shared = {id(weight): weight for weight in decoder.parameters()}
    wrapping = copy.deepcopy(decoder, shared)
    for part in wrapping.modules():
        if isinstance(part, nn.Conv2d):
            part.padding_mode = "circular"
    return wrapping


def on_white(images: Tensor) -> Tensor:
    """Colours on white, [B,3,H,W], of images [B,4,H,W] whose colours are not premultiplied; all in [-1,1]."""
    opacity = (images[:, 3:] + 1) / 2
    return torch.lerp(torch.ones_like(images[:, :3]), images[:, :3], opacity)


def without_haze(output: Tensor) -> Tensor:
    """Colours on white and opacity [B,4,H,W] in [-1,1], with what is nearly clear clear, and nearly solid solid.

    A decoder that is trained by mean errors leaves a haze of a few percent in the corners. Nobody sees it on white; on
    another ground, or as a mask, it shows.
    """
    opacity = (output[:, 3:] + 1) / 2
    firm = ((opacity - HAZE) / (1 - 2 * HAZE)).clamp(0, 1)
    colours = 1 - (1 - output[:, :3]) * (firm / opacity.clamp(min=HAZE)).clamp(max=1)
    return torch.cat([colours, 2 * firm - 1], dim=1)


def from_white(output: Tensor) -> Tensor:
    """Colours on white and opacity [B,4,H,W] as images [B,4,H,W], not premultiplied; all in [-1,1].

    What is transparent altogether is white.
    """
    opacity = (output[:, 3:] + 1) / 2
    colour = 1 - (1 - output[:, :3]) / opacity.clamp(min=1 / 255)
    return torch.cat([colour.clamp(-1, 1), output[:, 3:]], dim=1)


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
        # On CPUs and without gradients by sub-pixels: 0.88 of a d16 decoder's time, equal to 3e-5.
        if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled():
            return self._by_subpixels(x)
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    def _by_subpixels(self, x: Tensor) -> Tensor:
        """The same from the small picture [B,C,h,w]: of the 3x3 taps of an output pixel those that see the same pixel
        are summed first, which leaves 2x2, others for each of the four places (row, column) of an output pixel."""
        batch, channels, height, width = x.shape
        rows = _summed_taps(self.conv.weight, 2)
        kernels = torch.stack([_summed_taps(row, 3) for row in rows])  # [2,2,C,C,2,2]
        bias = None if self.conv.bias is None else self.conv.bias.repeat(4)
        wraps = self.conv.padding_mode == "circular"
        if wraps:
            x = F.pad(x, (1, 1, 1, 1), mode="circular")
        # Zeros are left to the convolution: padded by hand, sums come in another order and pixels differ by rounding.
        places = F.conv2d(x, kernels.flatten(0, 2), bias, padding=0 if wraps else 1).unflatten(1, (2, 2, channels))
        out = x.new_empty(batch, channels, height, 2, width, 2)
        for row, column in product((0, 1), (0, 1)):
            window = places[:, row, column, :, row : row + height, column : column + width]
            out[:, :, :, row, :, column] = window
        return out.view(batch, channels, 2 * height, 2 * width)


def _summed_taps(weight: Tensor, axis: int) -> Tensor:
    """Along an axis of three taps a, b, c: (a, b + c) and (a + b, c), stacked in front."""
    a, b, c = weight.unbind(axis)
    return torch.stack([torch.stack([a, b + c], axis), torch.stack([a + b, c], axis)])


def _head(channels_in: int, channels_out: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(groups, channels_in, eps=1e-6), nn.SiLU(inplace=True), _conv(channels_in, channels_out)
    )


def _blocks(channels_in: int, width: int, count: int, groups: int) -> nn.Sequential:
    """Residual blocks, the first of which changes the width."""
    return nn.Sequential(*(ResidualBlock(width if number else channels_in, width, groups) for number in range(count)))


def _levels(
    channels: int, widths: Sequence[int], count: int, groups: int, resample: type[Downsample] | type[Upsample]
) -> nn.ModuleList:
    """`count` blocks of each width, and a change of size between the widths."""
    levels = nn.ModuleList()
    for number, width in enumerate(widths, start=1):
        level = _blocks(channels, width, count, groups)
        if number < len(widths):
            level.append(resample(width))
        levels.append(level)
        channels = width
    return levels


class Encoder(nn.Module):
    """Images [B,3,H,W] to latents [B,C,h,w]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.encoder_widths, config.norm_groups
        self.stem = _conv(3, config.base_channels)
        self.levels = _levels(config.base_channels, widths, config.residual_blocks, groups, Downsample)
        self.middle = _blocks(widths[-1], widths[-1], 2, groups)
        self.head = _head(widths[-1], config.latent_channels, groups)

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
        widths, groups = config.decoder_widths[::-1], config.norm_groups  # coarse to fine
        self.stem = _conv(config.latent_channels, widths[0])
        self.middle = _blocks(widths[0], widths[0], 2, groups)
        self.levels = _levels(widths[0], widths, config.residual_blocks + 1, groups, Upsample)
        self.scale = config.output_scale
        self.head = _head(widths[-1], config.output_channels * self.scale**2, groups)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.middle(self.stem(latent))
        for level in self.levels:
            x = level(x)
        x = self.head(x)
        return x if self.scale == 1 else F.pixel_shuffle(x, self.scale)
