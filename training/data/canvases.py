"""Canvas cache: views of the pictures, tokenized once, so that a decoder is trained without encoder and clustering.

A view has one canvas from the tokenizer. With a content generator it has a second one: the first stages are the view's,
the generator draws the last ones as in sampling. A decoder must make a clean picture of both.
Shapes: M views, V canvases of each, B batch, L positions, C latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from nvg_model.model import NVG
from training import stopping
from training.data.augmentation import AugmentationSettings, draw_balanced, draw_views, stream
from training.data.cache import CHUNK, UNWRITTEN, digest, fingerprint
from training.data.dataset import ImageDataset
from training.files import replacing
from training.metrics.sampler import weights_hash

DRAWN_STAGES = (1, 2)
"""How many of the last stages the content generator draws, chunk by chunk in turn."""


@dataclass(frozen=True)
class CanvasCache:
    """Canvases of views that can be drawn again, at the size of the decoder's pictures."""

    canvases: Tensor
    """float16 [M,V,L,C]: the tokenizer's, then the one that was drawn."""
    dataset: ImageDataset
    views: AugmentationSettings
    seed: int

    def parts(self, batch: int) -> int:
        """How many batches of views that were drawn together there are."""
        return len(self.canvases) // CHUNK * (CHUNK // batch)

    def part(self, number: int, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Batch `number`: canvases [B,V,L,C], views premultiplied [B,4,H,W] in [0,1], backgrounds [B,3], pictures long
        [B]."""
        chunk, place = divmod(number, CHUNK // batch)
        inside = slice(place * batch, (place + 1) * batch)
        index, generator = _chunk(self.dataset, self.seed, chunk)
        pixels, background = draw_views(self.dataset, index, self.views, generator, inside)
        start = chunk * CHUNK
        canvases = self.canvases[start + inside.start : start + inside.stop].float()
        return canvases, pixels, background, index[inside]


def _chunk(dataset: ImageDataset, seed: int, chunk: int) -> tuple[Tensor, torch.Generator]:
    """The pictures [CHUNK] that a chunk's views show, and the generator that draws the views."""
    generator = stream(seed, 1, chunk * CHUNK)
    return draw_balanced(dataset.labels, len(dataset.classes), CHUNK, generator), generator


def load_or_make(
    path: Path, nvg: NVG, dataset: ImageDataset, settings: AugmentationSettings, views: int, seed: int, drawn: bool
) -> CanvasCache:
    """The cache at `path`, made first if it is not there or was made by another model, data or settings.

    Args:
        nvg: its tokenizer makes the canvases, its content generator draws the others.
        pictures: at the size of the decoder's pictures.
        views: how many, every class equally often; rounded up to whole chunks of 64.
        drawn: with the canvases whose last stages the content generator drew.
    Raises:
        TrainingError: the cache could not be written.
    """
    chunks = -(-views // CHUNK)
    model = generator_key(nvg) if drawn else fingerprint(nvg.tokenizer)
    key = f"{model} {settings.key} {chunks} {seed} {dataset.size} {digest(dataset)}"
    canvases = _read(path, key)
    if canvases is None:
        canvases = torch.cat(
            [
                _canvases(nvg, dataset, settings, seed, chunk, drawn)
                for chunk in tqdm(range(chunks), "canvases", mininterval=5)
            ]
        )
        with replacing(path, UNWRITTEN) as partial:
            save_file({"canvases": canvases}, partial, {"key": key})
    return CanvasCache(canvases, dataset, settings, seed)


def generator_key(nvg: NVG) -> str:
    """A short hash of all that makes a canvas. The decoder is left out: another one can use the same canvases."""
    return f"{fingerprint(nvg.tokenizer)} {weights_hash(nvg.content)} {weights_hash(nvg.structure)}"


def _read(path: Path, key: str) -> Tensor | None:
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("canvases") if (file.metadata() or {}).get("key") == key else None
    except (OSError, SafetensorError):
        return None


@torch.inference_mode()
def _canvases(
    nvg: NVG, dataset: ImageDataset, settings: AugmentationSettings, seed: int, chunk: int, drawn: bool
) -> Tensor:
    """float16 [CHUNK,V,L,C]."""
    stopping.check()
    index, generator = _chunk(dataset, seed, chunk)
    images = draw_views(dataset, index, settings, generator).images
    if images.shape[2:] != nvg.config.image_size:
        images = F.interpolate(images, nvg.config.image_size, mode="area")
    sequence = nvg.tokenize(images)
    found = [sequence.canvases[:, -1]]
    if drawn:
        stages = nvg.config.num_stages
        kept = stages - DRAWN_STAGES[chunk % len(DRAWN_STAGES)]
        again = nvg.generate(
            dataset.labels[index], seed, sequence=sequence, keep_structure=stages, keep_content=kept,
            first_item=chunk * CHUNK,
        )  # fmt: skip
        found.append(again.canvases[:, -1])
    return torch.stack(found, dim=1).half().cpu()


@torch.inference_mode()
def load_or_generate(path: Path, nvg: NVG, count: int, seed: int) -> Tensor:
    """Canvases float16 [G,L,C] of `count` generated pictures, every class alike, kept at `path`."""
    key = f"{generator_key(nvg)} {nvg.settings} {count} {seed}"
    canvases = _read(path, key)
    if canvases is None:
        parts = []
        for start in tqdm(range(0, count, CHUNK), "generated canvases", mininterval=5):
            stopping.check()
            numbers = range(start, min(start + CHUNK, count))
            classes = torch.tensor([number % len(nvg.classes) for number in numbers])
            parts.append(nvg.generate(classes, seed + 1, first_item=start).canvases[:, -1].half().cpu())
        canvases = torch.cat(parts)
        with replacing(path, UNWRITTEN) as partial:
            save_file({"canvases": canvases}, partial, {"key": key})
    return canvases
