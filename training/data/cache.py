"""Token cache: views of the pictures, tokenized once, so that generator training needs neither encoder nor clustering.

A view takes L bytes (or two each, above 256 positions) for the labels of the last stage, which nest and so hold all
stages, and two bytes for each of its 2L-1 tokens.
Shapes: M views, L positions, B batch, S stages.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from nvg_model.tokenizer import Tokenizer
from training.data.pictures import Pictures
from training.data.views import ViewSettings, draw_balanced, draw_views, stream

CHUNK = 64  # views drawn from one stream, and encoded together


@dataclass(frozen=True)
class TokenCache:
    """Tokenized views."""

    finest: Tensor
    """uint8 or int16 [M,L]: labels of the last stage."""
    tokens: Tensor
    """int16 or int32 [M,2L-1]: codes of the clusters of all stages, coarse to fine, in the order of the labels."""
    classes: Tensor
    """uint8 or int16 [M]."""

    def __len__(self) -> int:
        return len(self.classes)

    def codes(self, index: Tensor, stage: int) -> Tensor:
        """Codes long [B,2^stage] of a stage."""
        start = 2**stage - 1
        return self.tokens[index, start : start + 2**stage].long()


def fingerprint(tokenizer: Tokenizer) -> str:
    """A short hash of the weights, so that a cache is never used with another tokenizer."""
    digest = hashlib.sha256()
    for value in tokenizer.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def load_or_make(
    path: Path, tokenizer: Tokenizer, pictures: Pictures, settings: ViewSettings, views: int, seed: int
) -> TokenCache:
    """The cache at `path`, made first if it is not there or was made by another tokenizer or with other settings."""
    key = f"{fingerprint(tokenizer)} {settings} {views} {seed} {len(pictures)}"
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") == key:
                return TokenCache(*(file.get_tensor(name) for name in ("finest", "tokens", "classes")))
    cache = make(tokenizer, pictures, settings, views, seed)
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"finest": cache.finest, "tokens": cache.tokens, "classes": cache.classes}, partial, {"key": key})
    partial.replace(path)
    return cache


@torch.inference_mode()
def make(tokenizer: Tokenizer, pictures: Pictures, settings: ViewSettings, views: int, seed: int) -> TokenCache:
    """Tokenizes `views` random views, every class equally often."""
    parts = []
    for start in tqdm(range(0, views, CHUNK), desc="tokenizing", unit="batch", mininterval=5):
        generator = stream(seed, 1, start)
        index = draw_balanced(pictures.labels, len(pictures.classes), min(CHUNK, views - start), generator)
        sequence = tokenizer.tokenize(draw_views(pictures, index, settings, generator))
        codes = [sequence.cluster_tokens(stage) for stage in range(sequence.num_stages)]
        parts.append((sequence.structure[:, -1], torch.cat(codes, dim=1), pictures.labels[index]))
    finest, tokens, classes = (torch.cat(column) for column in zip(*parts, strict=True))
    return TokenCache(_small(finest), _small(tokens), _small(classes))


def _small(x: Tensor) -> Tensor:
    """The smallest integer type that holds the values."""
    top = int(x.max())
    return x.to(torch.uint8 if top < 2**8 else torch.int16 if top < 2**15 else torch.int32)
