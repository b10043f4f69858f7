"""Finds the pictures of a data set and their labels, wherever they are kept; nothing is decoded here.

Four kinds, told apart by what is there:

- A folder per class: FOLDER/CLASS/PICTURE, at any depth below the class.
- A folder of pictures with a label file, labels.csv, .tsv, .json or .jsonl (or metadata.*), or the path of such a
  file; its file names are relative to its folder. CSV: a header with a column `file` (or filename, file_name, path,
  image) and a column `class` (or label, class_name, category), parted by comma, semicolon or tab. JSON: an object
  {file: class}, a list of objects with these keys, or of pairs [file, class], or such a list under the key "labels".
  JSON lines: one such object a line.
- WebDataset shards: a .tar file, a folder or a pattern (`train-*.tar`) of them, not compressed, that hold
  KEY.jpg (or another picture) with KEY.cls, KEY.json or KEY.txt (the first of them): a class name or number. Names
  for the numbers, one a line, are read from classnames.txt (or classes.txt) beside the shards or their folder.
- A data set of the hub, hf://OWNER/NAME (or hf://OWNER/NAME@REVISION/CONFIGURATION), or a folder or file of parquet
  as one downloads it from there: an image column and a label column. Needs the package `datasets`.

Where the classes are given in order and all labels are numbers, a number is a place in that order.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from training.data.decode import SUFFIXES
from training.data.sources import labels as label_files
from training.data.sources.folders import class_folders
from training.data.sources.found import HELD_OUT, Found, Listing, Split, few
from training.data.sources.hub import hub
from training.data.sources.shards import shards_at
from training.errors import TrainingError

MANY = 20
"""Classes up to which every picture may be the only one of its class."""
ACCEPTED = "class folders, pictures with a labels.csv or labels.json, .tar shards, or parquet files"


def list_pictures(
    source: str | Path,
    classes: Sequence[str] | None = None,
    split: Split = "train",
    held_out: float = 0.05,
    tolerance: float = 0.01,
) -> Listing:
    """The pictures of a split of `source`.

    A folder `train` beside one of `held-out`, `val`, `validation`, `valid`, `test`, shards with such a word in their
    name, and a hub data set with such splits are taken as they are. Elsewhere the share `held_out` of the pictures
    is held out by the hash of their names: a picture stays on its side when others are added.

    Args:
        classes: the class names in order, pictures of others are left out; None: all classes of the source, sorted.
        split: train, held-out, or all: everything in `source` as it is.
        tolerance: the share of pictures without a label, and of labels without a picture, up to which they are named
            on standard error and left out.
    Raises:
        TrainingError: in one sentence, what is wrong where.
    """
    try:
        found = _find(source, split).within(tolerance)
    except OSError as error:
        raise TrainingError(f"{error.filename or source} cannot be read ({error.strerror or error})") from error
    if not found.names and not found.classes:
        raise TrainingError(f"there are no pictures in {found.where}; it should hold {ACCEPTED}")
    if split != "held-out":
        for reason in found.left_out:
            print(f"left out: {reason}", file=sys.stderr)
    if not classes:
        _refuse_captions(found)
    if split == "held-out" and found.split:
        # A class may be missing there, so the names and their order are those of the training pictures.
        listing = _numbered(found, classes or list_pictures(source, None, "train", held_out, tolerance).classes)
        if not listing.names:
            raise TrainingError(f"there are no pictures of {few(listing.classes)} in {found.where}; add some")
        return listing
    listing = _numbered(found, classes).require_every_class()
    return listing if split == "all" or found.split else _share(listing, split, held_out)


def _find(source: str | Path, split: Split) -> Found:
    text = str(source)
    if text.startswith("hf://"):
        return hub(text, text.removeprefix("hf://"), split)
    path = Path(source).expanduser()
    if path.is_dir():
        return _find_in_folder(path, split)
    if path.suffix == ".parquet" and path.is_file():
        return hub(text, path, split)
    if path.is_file() and path.suffix in {Path(name).suffix for name in label_files.NAMES}:
        return label_files.label_file(path)
    shards = [path] if path.is_file() else sorted(Path(name) for name in glob.glob(str(path)))
    if shards and all(shard.suffix == ".tar" for shard in shards):
        return shards_at(text, shards, split)
    if shards:
        raise TrainingError(f"{shards[0]} is no data set; give a folder with {ACCEPTED}, or hf://OWNER/NAME")
    raise TrainingError(f"there is no folder {path}; make the data first or pass --data")


def _find_in_folder(folder: Path, split: Split) -> Found:
    os.listdir(folder)  # says so where it may not be read; the questions below might just say no
    if split != "all" and (folder / "train").is_dir():
        there = [name for name in HELD_OUT if (folder / name).is_dir()]
        part = "train" if split == "train" or not there else there[0]
        return replace(_find_in_folder(folder / part, "all"), split=bool(there))
    for name in label_files.NAMES:
        if (folder / name).is_file():
            return label_files.label_file(folder / name)
    if shards := sorted(folder.glob("*.tar")):
        return shards_at(str(folder), shards, split)
    if any(folder.glob("*.parquet")) or any(folder.glob("data/*.parquet")):
        return hub(str(folder), folder, split)
    found = class_folders(folder)
    if not found.names and any(path.suffix.lower() in SUFFIXES for path in folder.iterdir()):
        raise TrainingError(
            f"the pictures in {folder} have no labels; add labels.csv, or sort them into a folder per class"
        )
    return found


def _refuse_captions(found: Found) -> None:
    """Raises TrainingError: the labels are too many for classes, as captions are."""
    counts = Counter(found.labels)
    alone = sum(count == 1 for count in counts.values())
    if found.classes is None and len(counts) > MANY and alone > len(counts) / 2:
        raise TrainingError(
            f"{found.where} has {len(counts)} different labels for {len(found.labels)} pictures ({few(counts, 1)}): "
            "these are captions, not classes; give pictures of a kind the same label, or sort them into folders"
        )


def _numbered(found: Found, wanted: Sequence[str] | None) -> Listing:
    """With numbers for labels, in the order of the wanted classes or the source's own, without the others."""
    labels, given = found.labels, set(found.labels)
    numeric = all(label.isdecimal() for label in given)
    if numeric and wanted and not given <= set(wanted):
        labels = _by_number(found, labels, wanted)
    classes = tuple(wanted or found.classes or sorted(given, key=int if numeric else str))
    number = {name: index for index, name in enumerate(classes)}
    keep = np.array([row for row, label in enumerate(labels) if label in number], np.int64)
    others = Counter(label for label in labels if label not in number)
    if others:
        left_out = f"{others.total()} pictures of other classes ({few(sorted(others))})"
        print(f"{found.where}: left out {left_out}", file=sys.stderr)
    numbers = torch.tensor([number[labels[row]] for row in keep], dtype=torch.long)
    return Listing(found.where, tuple(found.names[row] for row in keep), numbers, classes, keep, found.read)


def _by_number(found: Found, labels: list[str], classes: Sequence[str]) -> list[str]:
    for name, label in zip(found.names, labels, strict=True):
        if int(label) >= len(classes):
            raise TrainingError(f"{found.where}: {name} has label {label}, but the {len(classes)} classes count from 0")
    return [classes[int(label)] for label in labels]


def _share(listing: Listing, split: Split, share: float) -> Listing:
    """The training or the held-out pictures, by the hash of the names; no class is held out whole."""
    digests = (hashlib.sha256(name.encode()).digest() for name in listing.names)
    place = np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])
    labels = listing.labels.numpy()
    out = place < share
    left = np.bincount(labels[~out], minlength=len(listing.classes))
    out &= left[labels] > 0
    spare = np.bincount(labels)[labels] > 1
    if share > 0 and spare.any() and not out.any():
        out[np.where(spare, place, 1.0).argmin()] = True  # of a small set at least one
    if split == "held-out" and not out.any():
        raise TrainingError(
            f"{listing.where} has too few pictures to hold {share:.0%} out; put some into a folder held-out"
        )
    return listing.subset(np.flatnonzero(out if split == "held-out" else ~out))
