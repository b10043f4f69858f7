"""Views of pictures, and the losses and schedules of the trainings."""

from pathlib import Path

import pytest
import torch

from training.data.augmentation import (
    AugmentationSettings,
    compose,
    draw_balanced,
    draw_views,
    plain_images,
    stream,
)
from training.data.dataset import open_dataset
from training.losses.reconstruction import multiscale_gradient, psnr
from training.optim import cosine, warmup_stable_decay


def test_draws_are_balanced_and_repeatable() -> None:
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 1)
    index = draw_balanced(labels, 3, 3000, stream(1, 2))
    counts = torch.bincount(labels[index], minlength=3)
    assert bool((counts > 900).all())
    assert torch.equal(index, draw_balanced(labels, 3, 3000, stream(1, 2)))
    assert not torch.equal(index, draw_balanced(labels, 3, 3000, stream(1, 3)))
    only = torch.tensor([1, 1])  # as of a small set, whose held-out pictures are not of all classes
    assert draw_balanced(only, 3, 3000, stream(1, 2)).bincount().tolist() == pytest.approx([1500, 1500], rel=0.1)


def test_views(data: Path) -> None:
    pictures = open_dataset(data / "train", (16, 16), split="all")
    assert pictures.classes == ("disc", "ring", "square") and len(pictures) == 15
    plain = plain_images(pictures, torch.arange(15))
    pixels = pictures.load(torch.arange(15))
    opaque = pixels[:, 3:] == 255
    exact = pixels[:, :3].float() / 127.5 - 1
    assert torch.allclose(plain, torch.where(opaque, exact, 1.0), atol=1e-5)  # bicubic at whole pixels is the picture
    views = draw_views(pictures, torch.arange(15), AugmentationSettings(), stream(5)).images
    assert torch.equal(views, draw_views(pictures, torch.arange(15), AugmentationSettings(), stream(5)).images)
    one, zero = torch.ones(1), torch.zeros(1, 2)
    mirrored = compose(pixels[:1], one, -one, zero, torch.ones(1, 3))
    assert torch.allclose(mirrored.flip(3), plain[:1], atol=1e-5)
    moved = compose(pixels[:1], one, one, torch.tensor([[0.25, 0.0]]), torch.ones(1, 3))
    assert torch.allclose(moved[..., 4:], plain[:1, :, :, :-4], atol=1e-5)


def test_losses_and_schedules() -> None:
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    assert float(multiscale_gradient(image, image)) == 0
    assert float(multiscale_gradient(image + 0.3, image)) < 1e-6  # a constant offset has no gradient
    assert torch.allclose(psnr(image + 0.2, image), torch.full((2,), 20.0), atol=1e-3)
    assert cosine(0, 100, 10) == pytest.approx(0.1) and cosine(100, 100, 10) == pytest.approx(0)
    assert [warmup_stable_decay(step, 100, 10) for step in (0, 9, 50, 80)] == pytest.approx([0.1, 1, 1, 1])
    assert warmup_stable_decay(100, 100, 10) == pytest.approx(0.1)
