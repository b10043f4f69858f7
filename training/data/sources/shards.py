"""WebDataset shards, read in place."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.decode import SUFFIXES
from training.data.sources.found import CLASS_KEYS, HELD_OUT, Found, Split, label_text
from training.errors import TrainingError

LABELS = (".cls", ".json", ".txt")
CLASS_NAMES = ("classnames.txt", "classes.txt")


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
    left_out: list[str] = []
    for number, shard in enumerate(shards):
        for member, label, complaint in _samples(shard):
            if complaint:
                left_out.append(complaint)
                continue
            names.append(f"{shard.name}/{member.name}")
            labels.append(label)
            places.append((number, member.offset_data, member.size))
    classes = _class_names(shards[0], set(labels))
    found = Found(
        where,
        names,
        [classes[int(label)] for label in labels] if classes else labels,
        _Members(shards, np.array(places, np.int64).reshape(-1, 3)),
        classes,
        split=separate,
        left_out=tuple(left_out),
        complaint=next(iter(left_out), ""),
    )
    return found


def _class_names(shard: Path, labels: set[str]) -> tuple[str, ...] | None:
    """The classes by number, from a text file beside the shards or their folder; None: there is none, or no number."""
    beside = (folder / name for folder in (shard.parent, shard.parent.parent) for name in CLASS_NAMES)
    path = next((path for path in beside if path.is_file()), None)
    if path is None or not labels or not all(label.isdecimal() for label in labels):
        return None
    classes = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    largest = max(map(int, labels))
    if largest >= len(classes) or len(set(classes)) < len(classes):
        what = (
            "names a class twice"
            if largest < len(classes)
            else f"has {len(classes)} names, but there is a label {largest}"
        )
        raise TrainingError(f"{path} {what}; write one name a line, the first for label 0")
    return classes


def _samples(shard: Path) -> Iterator[tuple[tarfile.TarInfo, str, str]]:
    """Picture and label of the samples of a shard, and what to say of one that has no label.

    The key of a sample is what comes before the first dot of its file names. But where NAME.1.jpg has NAME.1.cls beside
    it, the key has a dot, and all that is left for the ending is what comes after the last.
    """
    members: dict[str, tarfile.TarInfo] = {}
    texts: dict[str, bytes] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                stem, ending = os.path.splitext(member.name)
                name = f"{stem}{ending.lower()}"
                if not member.isfile() or not stem.rpartition("/")[2] or stem.rpartition("/")[2].startswith("."):
                    continue
                if ending.lower() in SUFFIXES:
                    members[name] = member
                elif ending.lower() in LABELS and (content := tar.extractfile(member)):
                    texts[name] = content.read()
    except tarfile.TarError as error:
        raise TrainingError(
            f"{shard} cannot be read as an uncompressed tar file ({error}); fetch or make it again"
        ) from error
    taken: set[str] = set()
    keys = {_key(name) for name in members if _key(name) == os.path.splitext(name)[0]}
    for name, member in members.items():
        key = os.path.splitext(name)[0]
        parts = {ending: texts[key + ending] for ending in LABELS if key + ending in texts}
        if not parts and key != _key(name):
            if _key(name) in keys:  # KEY.mask.png beside KEY.jpg
                continue
            yield member, "", f"{shard}: {key} has no label, and a key ends at its first dot; name it without the dot"
            continue
        if key in taken:
            raise TrainingError(f"{shard}: there are two pictures of {key}; make the shard again")
        taken.add(key)
        label = _sample_label(shard, key, parts)
        yield member, label, "" if label else f"{shard}: {key} has no label; put {key}.cls (or .json, .txt) beside it"


def _key(name: str) -> str:
    """What comes before the first dot of a file's name, with its folders."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _sample_label(shard: Path, key: str, parts: dict[str, bytes]) -> str:
    """The label of a sample; empty where it has none."""
    for ending, content in parts.items():
        try:
            text = content.decode("utf-8-sig").strip()
            value = json.loads(text) if ending == ".json" and text else text
        except ValueError as error:
            raise TrainingError(f"{shard}: {key}{ending} cannot be read ({error}); make the shard again") from error
        if isinstance(value, dict):
            value = next((value[name] for name in CLASS_KEYS if name in value), "")
        if label := label_text(value):
            return label
    return ""
