"""Perceptual loss on a frozen ImageNet network that comes as a package: EfficientNet-Lite0, at a third of VGG's cost.

Shapes: B images [B,3,H,W] in [-1,1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.efficientnet_lite import EfficientNetLite, LiteName, load_lite
from training.losses.reconstruction import check_pair, feature_differences

DEPTHS = (0, 2, 4, 8)
"""Blocks after which features are compared: at 1/2, 1/4, 1/8 and 1/16 of the size that the network sees."""
SIZE = 112
SMALLEST = 8


class LitePerceptual(nn.Module):
    """Distance of two images in the features of a frozen network, of unit length at every position as in LPIPS (Zhang
    et al. 2018), without calibration.

    Args:
        network: with weights (`load_lite`).
        depths: blocks after which features are compared.
        size: height and width that images are resized to.
    """

    def __init__(self, network: EfficientNetLite, depths: tuple[int, ...] = DEPTHS, size: int = SIZE) -> None:
        super().__init__()
        self.network, self.depths, self.size = network, depths, size
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Distance of every pair of images, 0 where they are equal: [B]. The gradient reaches `output` only.

        Raises:
            ValueError: the shapes differ, or a side is shorter than 8 pixels.
        """
        check_pair(output, target, SMALLEST, "the perceptual loss")
        parts = feature_differences(self._directions, output, target)
        return torch.stack([part.sum(dim=1).mean(dim=(1, 2)) for part in parts]).mean(0)

    def _directions(self, images: Tensor) -> list[Tensor]:
        """The compared features, of unit length at every position, float32 [B,C,h,w] each."""
        found = self.network.precise_features(images, self.depths, self.size)
        return [F.normalize(one, dim=1, eps=1e-6) for one in found]


def load_perceptual(name: LiteName = "lite0") -> LitePerceptual:
    """With the weights of the package. Raises TrainingError where it is not installed."""
    return LitePerceptual(load_lite(name))
