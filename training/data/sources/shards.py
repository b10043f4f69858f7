"""WebDataset shards, read in place."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data import DataError
from training.data.decode import SUFFIXES
from training.data.sources.found import CLASS_KEYS, HELD_OUT, Found, Split


@dataclass(frozen=True)
class _Members:
    """Reads members of uncompressed tar files, from where they lie in them."""

    shards: list[Path]
    places: np.ndarray
    """int64 [M,3]: shard, offset, size."""

    def __call__(self, row: int) -> bytes:
        shard, offset, size = (int(value) for value in self.places[row])
        with self.shards[shard].open("rb") as file:
            file.seek(offset)
            return file.read(size)


def shards_at(where: str, shards: list[Path], split: Split) -> Found:
    words = "|".join(HELD_OUT)
    apart = [shard for shard in shards if re.search(rf"(^|[^a-z])({words})([^a-z]|$)", shard.stem.lower())]
    separate = split != "all" and 0 < len(apart) < len(shards)
    if separate:
        shards = apart if split == "held-out" else [shard for shard in shards if shard not in apart]
    names: list[str] = []
    labels: list[str] = []
    places: list[tuple[int, int, int]] = []
    for number, shard in enumerate(shards):
        for name, label, offset, size in _samples(shard):
            names.append(f"{shard.name}/{name}")
            labels.append(label)
            places.append((number, offset, size))
    table = np.array(places, np.int64).reshape(-1, 3)
    return Found(where, names, labels, _Members(shards, table), split=separate)


def _samples(shard: Path) -> Iterator[tuple[str, str, int, int]]:
    """Name, label, offset and size of the pictures of a shard."""
    pictures: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, file = member.name.rpartition("/")
                stem, _, ending = file.partition(".")
                key, ending = f"{folder}/{stem}".lstrip("/"), ending.lower()
                if not member.isfile() or not stem:
                    continue
                if f".{ending}" in SUFFIXES:
                    if key in pictures:
                        raise DataError(f"{shard}: there are two pictures of {key}; make the shard again")
                    pictures[key] = member
                elif ending in ("cls", "json", "txt") and (content := tar.extractfile(member)):
                    labels.setdefault(key, {})[ending] = content.read()
    except tarfile.TarError as error:
        raise DataError(
            f"{shard} cannot be read as an uncompressed tar file ({error}); fetch or make it again"
        ) from error
    for key, member in pictures.items():
        yield member.name, _sample_label(shard, key, labels.get(key, {})), member.offset_data, member.size


def _sample_label(shard: Path, key: str, parts: dict[str, bytes]) -> str:
    for ending in ("cls", "json", "txt"):
        try:
            text = parts.get(ending, b"").decode().strip()
            value = json.loads(text) if ending == "json" and text else text
        except ValueError as error:
            raise DataError(f"{shard}: {key}.{ending} cannot be read ({error}); make the shard again") from error
        if isinstance(value, dict):
            value = next((value[name] for name in CLASS_KEYS if name in value), "")
        if str(value).strip():
            return str(value).strip()
    raise DataError(f"{shard}: {key} has no label; put {key}.cls (or .json, .txt) beside the picture")
