"""Small data for the training's tests."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shared_images import small_vit
from torch import nn

from training.data.generator_batch import Source
from training.generator import train_generator
from training.recipes import recipe
from training.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of coloured discs, squares and rings, 16x16 RGBA."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.RandomState(0)
    y, x = np.mgrid[:16, :16] - 7.5
    shapes = {"disc": x**2 + y**2 < 36, "ring": (x**2 + y**2 < 49) & (x**2 + y**2 > 16), "square": abs(x) + abs(y) < 7}
    for name, shape in shapes.items():
        for split, count in (("train", 5), ("held-out", 2)):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.zeros((16, 16, 4), np.uint8)
                pixels[shape] = [*random.randint(0, 255, 3), 255]
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a tokenizer and a generator, hardly trained. Tests take a copy (`linked`)."""
    folder, base = tmp_path_factory.mktemp("trained"), recipe("smoke")
    train_tokenizer(base, data, folder)
    train_generator(dataclasses.replace(base, generator=dataclasses.replace(base.generator, steps=3)), data, folder)
    return folder


@pytest.fixture(scope="session")
def linked(trained: Path) -> Callable[[Path], Path]:
    """linked(folder) makes a run of its own there, on the same tokenizer and generator."""

    def link(folder: Path) -> Path:
        folder.mkdir()
        for part in ("tokenizer", "generator"):
            (folder / part).symlink_to(trained / part)
        return folder

    return link


@pytest.fixture(params=["dino", "dinov2"])
def vit(request: pytest.FixtureRequest) -> nn.Module:
    """Both classes."""
    return small_vit(request.param)


@pytest.fixture(scope="module")
def source(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Images of the test data, tokenized in the step."""
    base = dataclasses.replace(
        recipe("smoke"), generator=dataclasses.replace(recipe("smoke").generator, cached_views=0)
    )
    return Source(base.generator, base, base.config, base.dataset(data, "train"), None)
