"""Opacity of a model's pictures: whether it is the silhouette of what they show.

Shapes: B pictures, H W pixels, h w the grid; silhouettes bool [B,H,W].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model.model import NVG
from nvg_model.sampling import SamplingSettings
from training.data.augmentation import plain_images
from training.data.dataset import ImageDataset

BATCH = 32


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [B] of silhouettes [B,...]; 1 where both are empty."""
    a, b = a.flatten(1), b.flatten(1)
    union = (a | b).sum(1)
    return torch.where(union > 0, (a & b).sum(1) / union.clamp(min=1), 1.0)


def opaque(rgba: Tensor) -> Tensor:
    """Where pictures [B,4,H,W] in [-1,1] are more than half opaque."""
    return rgba[:, 3] > 0


@torch.inference_mode()
def reconstructed(nvg: NVG, pictures: ImageDataset) -> Tensor:
    """Overlap [N] of the true silhouettes of pictures, at the size of the model's, with those that it gives back."""
    found = []
    for index in torch.arange(len(pictures)).split(BATCH):
        sequence = nvg.tokenize(plain_images(pictures, index))
        found.append(overlap(opaque(nvg.decode_rgba(sequence)).cpu(), pictures.load(index)[:, 3] > 127))
    return torch.cat(found)


@torch.inference_mode()
def first_splits(nvg: NVG, classes: Tensor, seed: int, settings: SamplingSettings | None = None) -> Tensor:
    """Overlap [N] of the opaque positions of generated pictures of classes long [N] with one half of the first split,
    the one that fits better."""
    found = []
    for start in range(0, len(classes), BATCH):
        sequence = nvg.generate(classes[start : start + BATCH], seed, settings, first_item=start)
        share = F.adaptive_avg_pool2d(opaque(nvg.decode_rgba(sequence)).float()[:, None], nvg.config.grid)
        subject, half = share.flatten(1) > 0.5, sequence.structure[:, 1] == 1
        found.append(torch.maximum(overlap(subject, half), overlap(subject, ~half)).cpu())
    return torch.cat(found)
