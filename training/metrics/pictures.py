"""Pictures as the metrics take them: 8-bit RGB in memory, with the checkpoint's classes.

Shapes: N pictures, H W pixels; images float [N,3,H,W] in [-1,1], pixels uint8 [N,3,H,W].
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model.render import to_pixels
from training.data.augmentation import plain_images, sampling_grid
from training.data.dataset import open_dataset
from training.data.sources import Split
from training.errors import TrainingError

CHUNK = 256  # pictures that are floats at the same time


@dataclass(frozen=True)
class Labelled:
    """A set of pictures with classes."""

    pixels: Tensor
    """uint8 [N,3,H,W]."""
    labels: Tensor
    """long [N], index into `classes`."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, index: Tensor) -> Labelled:
        """The pictures `index` [n] of these."""
        return Labelled(self.pixels[index], self.labels[index], self.classes)

    @property
    def weights(self) -> Tensor:
        """float64 [N], summing to 1: every class that has pictures counts alike, however many it has."""
        return class_weights(self.labels, len(self.classes))

    def fingerprint(self) -> str:
        """A short hash of pixels, labels and class names."""
        digest = hashlib.sha256(repr((self.classes, tuple(self.pixels.shape))).encode())
        digest.update(self.pixels.contiguous().numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()[:16]


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """float64 [N], summing to 1, of pictures with these labels long [N]: every class that has some counts alike."""
    weights = 1 / torch.bincount(labels, minlength=classes).double()[labels]
    return weights / weights.sum()


def read_split(
    data: str | Path,
    split: Split,
    size: tuple[int, int],
    classes: tuple[str, ...] = (),
    *,
    margin: float | None = None,
    limit: int = 50_000,
) -> Labelled:
    """The pictures of a split of a data set on white.

    Args:
        data: a data set of any kind that training reads.
        size: (H, W) that they are resized to.
        classes: the class names of the checkpoint, in the order of the labels wanted; empty: the data's own.
        margin: None: whole pictures; a number for photos, of which the centre is taken (see `open_dataset`).
        limit: pictures at most, spread evenly over the split.
    Raises:
        TrainingError: no such data, or its classes are not among `classes`, or (for the split "train") not all of them.
    """
    dataset = open_dataset(data, size, split=split, margin=margin)
    classes = classes or tuple(dataset.classes)
    unknown = [name for name in dataset.classes if name not in classes]
    missing = [name for name in classes if name not in dataset.classes] if split == "train" else []
    if unknown or missing:
        problem = f"has no class {unknown[0]!r}" if unknown else f"has a class {missing[0]!r}"
        raise TrainingError(
            f"the checkpoint {problem} and the {split} pictures of {data} {'have' if unknown else 'have not'} "
            f"({len(unknown) + len(missing)} classes differ); give the data that the checkpoint was trained on"
        )
    index = torch.linspace(0, len(dataset) - 1, min(limit, len(dataset)), dtype=torch.float64).round().long()
    pixels = [to_pixels(plain_images(dataset, part)) for part in index.split(CHUNK)]
    order = torch.tensor([classes.index(name) for name in dataset.classes])
    return Labelled(torch.cat(pixels), order[dataset.labels[index]], classes)


def to_images(pixels: Tensor) -> Tensor:
    """Images float in [-1,1] of 8-bit pixels."""
    return pixels.float() / 127.5 - 1


def moved(images: Tensor, scale: Tensor, flip: Tensor, shift: Tensor) -> Tensor:
    """Images [N,3,H,W] in [-1,1] scaled, mirrored and moved, with white around them.

    Args:
        scale: [N], size of the picture within the result; flip: [N], -1 for mirrored; shift: [N,2] right and down, as
            a share of the side.
    """
    places = sampling_grid(images, scale, flip, shift)
    return F.grid_sample(images - 1, places, padding_mode="zeros", align_corners=False) + 1  # white is zero inside
