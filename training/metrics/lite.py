"""Feature spaces of EfficientNet-Lite: networks that have never seen our pictures, offline.

Shapes: N pictures, D features, C classes; pixels uint8 [N,3,H,W].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.efficientnet_lite import VARIANTS, LiteName, load_lite, resized
from training.metrics.features import Extract
from training.metrics.pictures import to_images

LITE = tuple(VARIANTS)


def lite(name: LiteName, device: torch.device, batch: int = 32) -> Extract:
    """Pixels -> 1280 features and 1000 ImageNet logits, at the size that the network was trained on.

    Raises:
        TrainingError: the package with the weights is not installed.
    """
    network = load_lite(name).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def extract(pixels: Tensor) -> tuple[Tensor, Tensor]:
        parts = []
        for part in pixels.split(batch):
            images = resized(to_images(part.to(device)), network.size).contiguous(memory_format=torch.channels_last)
            parts.append([one.float().cpu() for one in network(images)])
        features, logits = zip(*parts, strict=True)
        return torch.cat(features), torch.cat(logits)

    return extract


class Probe:
    """Linear classifier on frozen features: what a network that was trained elsewhere takes pictures for.

    Multinomial logistic regression on standardised features, every class counted alike, fitted to the end with L-BFGS.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, num_classes: int, weights: Tensor, decay: float = 1e-2
    ) -> None:
        features = features.double()
        self.mean = features.mean(0)
        self.deviation = features.std(0).clamp(min=1e-6)
        self.matrix = features.new_zeros(features.shape[1] + 1, num_classes, requires_grad=True)
        optimizer = torch.optim.LBFGS([self.matrix], max_iter=300, history_size=20, line_search_fn="strong_wolfe")
        inputs, weights = self._inputs(features), weights.double()

        def loss() -> Tensor:
            optimizer.zero_grad()
            errors = F.cross_entropy(inputs @ self.matrix, labels, reduction="none")
            value = weights @ errors + decay / 2 * self.matrix[:-1].square().sum()
            value.backward()
            return value

        optimizer.step(loss)
        self.matrix = self.matrix.detach()

    def _inputs(self, features: Tensor) -> Tensor:
        standard = (features.double() - self.mean) / self.deviation
        return torch.cat([standard, torch.ones_like(standard[:, :1])], dim=1)

    def __call__(self, features: Tensor) -> Tensor:
        """Classes long [N] of features [N,D]."""
        return (self._inputs(features) @ self.matrix).argmax(1)


def nearest_classes(features: Tensor, train: Tensor, labels: Tensor) -> Tensor:
    """The class long [N] of the training picture whose features [M,D] are nearest, by cosine."""
    return labels[(F.normalize(features.double(), dim=1) @ F.normalize(train.double(), dim=1).T).argmax(1)]
