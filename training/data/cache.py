"""Token cache: views of the pictures, tokenized once, so that generator training needs neither encoder nor clustering.

A view takes L bytes (or two each, above 256 positions) for the labels of the last stage, which nest and so hold all
stages, two bytes for each of its 2L-1 tokens, and a few for its class and picture.

The views are made in shards, each renamed into place when it is whole, so that a stopped run goes on with the next one
and several processes can share the work. At the end they are merged into one safetensors file, which is read through
a memory map.
Shapes: M views, L positions, B batch, S stages.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from nvg_model.tokenizer import Tokenizer
from training import stopping
from training.data.augmentation import AugmentationSettings, draw_balanced, draw_views, stream
from training.data.dataset import ImageDataset
from training.data.loader import batches
from training.files import replacing

CHUNK = 64  # views drawn from one stream, and encoded together
SHARD = 64 * CHUNK  # views of a shard
DTYPES = {torch.int32: "I32", torch.int16: "I16", torch.uint8: "U8"}  # safetensors' names
UNWRITTEN = "the token cache {path} could not be written ({error}); make room there, what is finished is kept"


@dataclass(frozen=True)
class TokenCache:
    """Tokenized views."""

    finest: Tensor
    """uint8 or int16 [M,L]: labels of the last stage."""
    tokens: Tensor
    """uint8, int16 or int32 [M,2L-1]: codes of the clusters of all stages, coarse to fine, in the labels' order."""
    classes: Tensor
    """uint8 or int16 [M]."""
    pictures: Tensor
    """int32 [M]: the picture that the view shows."""
    names: tuple[str, ...]
    """Of all pictures."""

    def __len__(self) -> int:
        return len(self.classes)

    def codes(self, index: Tensor, stage: int) -> Tensor:
        """Codes long [B,2^stage] of a stage."""
        start = 2**stage - 1
        return self.tokens[index, start : start + 2**stage].long()

    def name(self, index: int) -> str:
        """The file of the picture that a view shows."""
        return self.names[int(self.pictures[index])]


Chunks = Callable[[int], tuple[Tensor, Tensor]]
"""Number of a chunk -> which pictures its views show, and the views."""


def load_or_make(
    path: Path,
    tokenizer: Tokenizer,
    dataset: ImageDataset,
    settings: AugmentationSettings,
    views: int,
    seed: int,
    *,
    rank: int = 0,
    world: int = 1,
    wait: Callable[[], None] = lambda: None,
    workers: int = 0,
) -> TokenCache:
    """The cache at `path`, made first if it is not there or was made by another tokenizer, data or settings.

    A call that was stopped continues: finished shards, in the folder PATH.shards, are not made again.

    Args:
        views: how many random views, every class equally often. The views do not depend on `world`.
        rank, world: this process among those that share the work; each makes the shards with number % world == rank.
        wait: returns when all processes have called it (a barrier).
        workers: processes that draw views ahead.
    Raises:
        TrainingError: the cache could not be written; nothing incomplete is left under a final name.
    """
    key = f"{fingerprint(tokenizer)} {settings.key} {views} {seed} {digest(dataset)}"
    if _key(path) != key:
        folder = path.with_name(f"{path.name}.shards")
        shards = [folder / f"{number:06d}.safetensors" for number in range(-(-views // SHARD))]
        chunks = _chunks(dataset, settings, views, seed)
        for number in range(rank, len(shards), world):
            if _key(shards[number]) != key:
                shards[number].unlink(missing_ok=True)  # of other data or settings: its room is needed
                shown = _shown(chunks, number, views, len(shards) if rank == 0 else 0, workers)
                _save(shards[number], _tokenized(shown, tokenizer, dataset), key)
        wait()
        if rank == 0:
            _join(shards, path, key)
        wait()
    return TokenCache(**_read(path), names=dataset.names)


def _join(shards: list[Path], path: Path, key: str) -> None:
    """The cache at `path` from its shards, which are removed. Raises TrainingError."""
    with replacing(path, UNWRITTEN) as partial:
        _merge(shards, partial, key)
    shutil.rmtree(shards[0].parent, ignore_errors=True)


def _shown(chunks: Chunks, number: int, views: int, shards: int, workers: int) -> Iterable[tuple[Tensor, Tensor]]:
    """The chunks of a shard, drawn ahead; with a progress bar where `shards` says how many there are in all."""
    first, last = number * SHARD // CHUNK, -(-min((number + 1) * SHARD, views) // CHUNK)
    title = f"tokenizing shard {number + 1} of {shards}"
    return tqdm(batches(chunks, first, last, workers), title, last - first, disable=not shards, mininterval=5)


def _chunks(dataset: ImageDataset, settings: AugmentationSettings, views: int, seed: int) -> Chunks:
    """How the views of a cache are drawn."""

    def draw(chunk: int) -> tuple[Tensor, Tensor]:
        start = chunk * CHUNK
        generator = stream(seed, 1, start)
        index = draw_balanced(dataset.labels, len(dataset.classes), min(CHUNK, views - start), generator)
        return index, draw_views(dataset, index, settings, generator).images

    return draw


def fingerprint(tokenizer: Tokenizer) -> str:
    """A short hash of encoder and codes, so that a cache is never used with another tokenizer."""
    digest = hashlib.sha256()
    for name, value in tokenizer.state_dict().items():
        if name.startswith("decoder."):  # the tokens do not depend on it
            continue
        digest.update(value.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def digest(dataset: ImageDataset) -> str:
    """A hash of the pictures' names, labels and some of their files."""
    digest = hashlib.sha256(dataset.labels.numpy().tobytes() + dataset.digest.encode())
    digest.update("\n".join((*dataset.classes, *dataset.names)).encode())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def _tokenized(
    chunks: Iterable[tuple[Tensor, Tensor]], tokenizer: Tokenizer, dataset: ImageDataset
) -> dict[str, Tensor]:
    """TokenCache's tensors for chunks of (pictures [B], views [B,3,H,W])."""
    columns: dict[str, list[Tensor]] = {"finest": [], "tokens": [], "classes": [], "pictures": []}
    for index, images in chunks:
        stopping.check()
        sequence = tokenizer.tokenize(images)
        codes = [sequence.cluster_tokens(stage) for stage in range(sequence.num_stages)]
        row = (sequence.structure[:, -1].cpu(), torch.cat(codes, dim=1).cpu(), dataset.labels[index], index)
        for column, values in zip(columns.values(), row, strict=True):
            column.append(values)
    # By what may come, not by what came: all shards must have the same types.
    positions, codes_in_all = tokenizer.grid[0] * tokenizer.grid[1], tokenizer.quantizer.num_codes
    types = (*map(_smallest, (positions, codes_in_all, len(dataset.classes))), torch.int32)
    return {name: torch.cat(column).to(dtype) for (name, column), dtype in zip(columns.items(), types, strict=True)}


def _smallest(values: int) -> torch.dtype:
    """The smallest integer type for 0 .. values - 1."""
    return torch.uint8 if values <= 2**8 else torch.int16 if values <= 2**15 else torch.int32


def _key(path: Path) -> str | None:
    """What the file was made from; None where there is no readable file."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("key")
    except (OSError, SafetensorError):
        return None


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, memory-mapped."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in ("finest", "tokens", "classes", "pictures")}


def _merge(shards: list[Path], path: Path, key: str) -> None:
    """Writes all shards as one safetensors file, tensor by tensor: a large cache need not fit into memory."""
    parts = [_read(shard) for shard in shards]
    # Large elements first keep every tensor aligned, as safetensors itself does it.
    names = sorted(parts[0], key=lambda name: -parts[0][name].itemsize)
    header: dict[str, object] = {"__metadata__": {"key": key}}
    end = 0
    for name in names:
        first, rows = parts[0][name], sum(len(part[name]) for part in parts)
        start, end = end, end + rows * first[0].numel() * first.itemsize
        shape = [rows, *first.shape[1:]]
        header[name] = {"dtype": DTYPES[first.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            for part in parts:
                file.write(part[name].numpy().data)


def _save(path: Path, tensors: dict[str, Tensor], key: str) -> None:
    with replacing(path, UNWRITTEN) as partial:
        save_file(tensors, partial, {"key": key})
