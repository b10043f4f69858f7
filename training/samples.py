"""Pictures of what a model can do, for the log of its training."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from nvg_model import render
from nvg_model.model import NVG
from nvg_model.sampling import SamplingSettings
from nvg_model.tokenizer import Tokenizer
from training.data.augmentation import plain_images
from training.data.dataset import ImageDataset

SEED = 7  # the same in every picture, so that they show the training and not the noise
CELL = 64  # pixels that a picture of a sheet has at least along each side, for people to see something


@torch.inference_mode()
def sample_sheets(nvg: NVG, settings: SamplingSettings, each: int = 4, classes: int = 24) -> dict[str, Image.Image]:
    """Samples of the first classes, a row for each, and the stages of the first with their structure maps."""
    names: list[str | int] = [*(nvg.classes or range(nvg.content.num_classes))][:classes]
    wanted = [name for name in names for _ in range(each)]
    sequence = nvg.generate(wanted, seed=SEED, settings=settings)
    return {
        "classes": render.grid(_cells(nvg.decode(sequence)), columns=each, captions=[str(name) for name in wanted]),
        "stages": render.grid([render.filmstrip(nvg, sequence)], columns=1, captions=[str(wanted[0])]),
    }


@torch.inference_mode()
def reconstruction_sheet(tokenizer: Tokenizer, dataset: ImageDataset, count: int = 8) -> Image.Image:
    """Held-out pictures, and what is decoded after every stage: a row for each picture."""
    images = plain_images(dataset, torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).long())
    sequence = tokenizer.tokenize(images)
    rows = [images, *(tokenizer.decode(sequence.canvases[:, stage]) for stage in range(sequence.num_stages))]
    cells = torch.stack(rows, dim=1).flatten(0, 1)
    return render.grid(_cells(cells), columns=len(rows))


def _cells(images: Tensor) -> list[Image.Image]:
    """Pictures of images [B,3,H,W], small ones enlarged by a whole factor."""
    factor = -(-CELL // min(images.shape[2:]))
    return [render.enlarge(picture, factor) for picture in render.to_pil(images)]
