"""A small classifier of the pictures at hand: whose class a picture is, and a feature space that needs no download.

Shapes: N pictures, D features, C classes; pixels uint8 [N,3,H,W].
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from training.data.augmentation import stream
from training.files import replacing
from training.metrics.pictures import CHUNK, Labelled, moved, to_images
from training.optim import cosine

FEATURES = 64  # fewer than the pictures of half a small data set, so that their covariance has full rank


@dataclass(frozen=True)
class ClassifierSettings:
    """How the classifier is trained."""

    steps: int = 800
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    seed: int = 0
    bfloat16: bool = False
    """Convolutions in bfloat16 while training (faster where the processor multiplies it natively)."""


class Classifier(nn.Module):
    """Convolutions with batch normalisation down to a grid of about 4 by 4, pooled to D features, and one linear."""

    def __init__(self, num_classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        levels = max(1, min(size).bit_length() - 3)  # 64 pixels: 4 halvings
        widths = [32, 64, *[128] * levels][:levels]
        layers = _layer(3, widths[0], kernel=5, stride=2)
        for before, width in pairwise(widths):
            layers += [*_layer(before, width), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers, *_layer(widths[-1], FEATURES))
        self.head = nn.Linear(FEATURES, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N,D] and logits [N,C] of images [N,3,H,W] in [-1,1]."""
        features = self.body(images).mean(dim=(2, 3))
        return features, self.head(features)


def _layer(before: int, width: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(width), nn.ReLU()]


def load_or_train(folder: Path, train: Labelled, settings: ClassifierSettings) -> Classifier:
    """The classifier of these training pictures from `folder`; trained and saved there first if it is not there yet.

    Its name holds a hash of the pictures, the classes and the settings, so it is never used for others. It is trained
    with the classes sorted by name, so that checkpoints with another order of the same classes share it.
    """
    classes = tuple(sorted(train.classes))
    order = torch.tensor([classes.index(name) for name in train.classes])
    by_name = Labelled(train.pixels, order[train.labels], classes)
    key = hashlib.sha256(f"{by_name.fingerprint()} {settings}".encode()).hexdigest()[:16]
    path = folder / f"classifier-{key}.safetensors"
    model = _new(by_name, settings)
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
    else:
        fit(model, by_name, settings)
        about = {"classes": json.dumps(classes), "settings": json.dumps(dataclasses.asdict(settings))}
        with replacing(path) as partial:
            save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial, about)
    for parameter in (model.head.weight, model.head.bias):
        parameter.data = parameter.data[order]
    return model.eval()


def _new(train: Labelled, settings: ClassifierSettings) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return Classifier(len(train.classes), (train.pixels.shape[2], train.pixels.shape[3]))


def fit(model: Classifier, train: Labelled, settings: ClassifierSettings) -> None:
    """Trains on randomly moved, mirrored and tinted pictures, every class equally often; a function of the seed."""
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    weights = train.weights
    for step in tqdm(range(settings.steps), desc="classifier", unit="step", mininterval=5):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * cosine(step, settings.steps, settings.steps // 20)
        generator = stream(settings.seed, 7, step)
        index = torch.multinomial(weights, settings.batch, replacement=True, generator=generator)
        images = augmented(to_images(train.pixels[index]), generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.bfloat16):
            _, logits = model(images)
        loss = F.cross_entropy(logits.float(), train.labels[index], label_smoothing=settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images [N,3,H,W] somewhat moved, scaled, mirrored and, three in ten, under a light of another colour.

    Generators are trained on views that differ so, and a classifier must not take that for another class.
    """
    count = len(images)
    scale = 0.8 + 0.3 * torch.rand(count, generator=generator)
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    shift = 0.08 * (2 * torch.rand(count, 2, generator=generator) - 1)
    light = 0.75 + 0.25 * torch.rand(count, 3, 1, 1, generator=generator)
    light[torch.rand(count, generator=generator) < 0.7] = 1.0
    return (moved(images, scale, flip, shift) + 1) * light - 1


@torch.inference_mode()
def classify(model: Classifier, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Features [N,D] and logits [N,C] of pictures."""
    parts = [model(to_images(part)) for part in pixels.split(CHUNK)]
    features, logits = zip(*parts, strict=True)
    return torch.cat(features), torch.cat(logits)
