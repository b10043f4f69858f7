"""Discriminators: heads on frozen features of DINO as in the paper or of EfficientNet-Lite, and a PatchGAN.

All give logits [B,n], one for each patch: images [B,3,H,W] in [-1,1] -> how real it looks. `places` [B,3] in [0,1) are
random numbers of the DINO discriminator, for where it looks. Both use GroupNorm and no
statistics of the batch: the logits of an image do not depend on the images beside it, so a batch of one, several
processes and accumulation all compute the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from training.efficientnet_lite import EfficientNetLite
from training.errors import TrainingError
from training.losses.dino import DinoFeatures
from training.losses.dino_weights import DINO_SMALL, load_vit


class DinoDiscriminator(nn.Module):
    """A small convolutional head, spectrally normalised, on each of several depths of a frozen DINO.

    As in VAR's tokenizer, after the projected discriminator of StyleGAN-T (Sauer et al. 2023), whose heads work on
    the patches as one row of L. They normalise over virtual batches of 8; here GroupNorm does. Half of the time it
    looks at a random crop of the transformer's size instead of the whole picture (nvg-method section 8).

    Args:
        features: the frozen transformer, its patches with the class token's readout; only the heads are trained.
        kernel: patches that the middle convolution of a head sees.
    """

    def __init__(self, features: DinoFeatures, kernel: int = 9) -> None:
        super().__init__()
        if math.prod(features.grid) < kernel:
            raise TrainingError(f"heads with a kernel of {kernel} need as many patches; the grid is {features.grid}")
        self.features = features
        self.heads = nn.ModuleList(_DinoHead(features.width, kernel) for _ in features.depths)

    def forward(self, images: Tensor, places: Tensor | None = None) -> Tensor:
        """Logits [B, depths*L]; without `places` of the whole pictures."""
        features = self.features(images if places is None else self.look(images, places))
        with torch.autocast(images.device.type, enabled=False):  # spectral norms are estimated in float32
            logits = [head(one.float().mT) for head, one in zip(self.heads, features, strict=True)]
        return torch.cat(logits, dim=1)

    def look(self, images: Tensor, places: Tensor) -> Tensor:
        """What is seen of images larger than the transformer's size, [B,3,h,w]: a crop where places[:,0] < 1/2.

        places[:,1:] are the crop's top and left as shares of the room. Other images are only resized.
        """
        size, whole = self.features.size, self.features.resized(images)
        room = images.shape[2] - size[0], images.shape[3] - size[1]
        if min(room) <= 0:
            return whole
        seen = []
        for image, small, (choice, down, right) in zip(images, whole, places.tolist(), strict=True):
            top, left = int(down * (room[0] + 1)), int(right * (room[1] + 1))
            seen.append(image[:, top : top + size[0], left : left + size[1]] if choice < 0.5 else small)
        return torch.stack(seen)


class _DinoHead(nn.Module):
    """[B,D,L] -> [B,L]."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.project = _row_convolution(width, 1)
        self.mix = _row_convolution(width, kernel)
        self.score = spectral_norm(nn.Conv1d(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        x = (x + self.mix(x)) / math.sqrt(2)  # keeps the variance
        return self.score(x).squeeze(1)


def _row_convolution(width: int, kernel: int) -> nn.Sequential:
    return _normalised(nn.Conv1d(width, width, kernel, padding=kernel // 2, padding_mode="circular"))


def _normalised(convolution: nn.Conv1d | nn.Conv2d) -> nn.Sequential:
    """The convolution, normalised by its spectrum, GroupNorm and a leaky ReLU."""
    width = convolution.out_channels
    return nn.Sequential(spectral_norm(convolution), nn.GroupNorm(_groups(width), width), nn.LeakyReLU(0.2))


def dino_discriminator(name: str = DINO_SMALL.name) -> DinoDiscriminator:
    """The paper's discriminator: DINO ViT-S/16 after the patch embedding and the blocks 3, 6, 9 and 12.

    Args:
        name: as `load_vit` takes it.
    Raises:
        TrainingError: see `load_vit`.
    """
    vit = load_vit(name, DINO_SMALL)
    return DinoDiscriminator(DinoFeatures(vit, depths=(0, 3, 6, 9, 12), readout=True, area=True))


class LiteDiscriminator(nn.Module):
    """A small convolutional head on each of several depths of a frozen EfficientNet-Lite, after the projected
    discriminator of Sauer et al. (2021), whose random mixing between depths is left out.

    Args:
        network: with weights (`load_lite`); only the heads are trained.
        depths: blocks after which there is a head.
        width: channels inside the heads.
        size: height and width that images are resized to.
    """

    def __init__(
        self,
        network: EfficientNetLite,
        depths: tuple[int, ...] = (2, 4, 10, 15),
        width: int = 64,
        size: int = 128,
    ) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.depths, self.size = depths, size
        with torch.no_grad():
            found = network.after_blocks(torch.zeros(1, 3, size, size), depths)
        self.heads = nn.ModuleList(_lite_head(one.shape[1], width, one.shape[2]) for one in found)

    def forward(self, images: Tensor, places: Tensor | None = None) -> Tensor:
        """Logits [B, patches of all depths]; `places` changes nothing."""
        features = self.network.precise_features(images, self.depths, self.size)
        with torch.autocast(images.device.type, enabled=False):  # spectral norms are estimated in float32
            logits = [head(one).flatten(1) for head, one in zip(self.heads, features, strict=True)]
        return torch.cat(logits, dim=1)


def _lite_head(channels: int, width: int, side: int, logits: int = 8) -> nn.Sequential:
    """[B,C,side,side] -> [B,1,h,w] with at most `logits` rows and columns, so that every depth counts about alike."""

    def layer(before: int, kernel: int, stride: int) -> nn.Sequential:
        return _normalised(nn.Conv2d(before, width, kernel, stride, padding=(kernel - 1) // 2))

    halvings = max(0, math.ceil(math.log2(side / logits)))
    layers = [layer(channels, 1, 1), *(layer(width, 4, 2) for _ in range(halvings))]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(width, 1, 3, padding=1)))


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017): convolutions that judge overlapping patches.

    Args:
        width: channels of the first layer; doubled by every further one, to at most eight times as many.
        layers: convolutions with stride 2. 3 judge patches of 70 pixels, 2 patches of 34.
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.smallest = 3 * 2**layers
        blocks: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = width
        for layer in range(1, layers + 1):
            before, channels = channels, width * min(2**layer, 8)
            blocks += [
                nn.Conv2d(before, channels, 4, stride=2 if layer < layers else 1, padding=1, bias=False),
                nn.GroupNorm(_groups(channels), channels),
                nn.LeakyReLU(0.2),
            ]
        blocks.append(nn.Conv2d(channels, 1, 4, padding=1))
        self.blocks = nn.Sequential(*blocks)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.02)

    def forward(self, images: Tensor, places: Tensor | None = None) -> Tensor:
        """Logits [B, patches]; `places` changes nothing.

        Raises:
            TrainingError: the images are too small.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"the discriminator takes images [B,3,H,W], not {list(images.shape)}")
        if min(images.shape[2:]) < self.smallest:
            height, width = images.shape[2:]
            raise TrainingError(
                f"the discriminator needs images of at least {self.smallest}x{self.smallest} pixels; "
                f"these have {height}x{width}: give it fewer layers (--discriminator-layers)"
            )
        return self.blocks(images).flatten(1)


def _groups(channels: int) -> int:
    """Groups of 16 channels, as nearly as they divide."""
    return math.gcd(channels, max(1, channels // 16))
