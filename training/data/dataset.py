"""The pictures of a data set of any kind: small sets are held in memory, large ones decoded when they are asked for.

Shapes: M pictures, B batch, h w pixels of a loaded picture; RGBA, 8 bits a channel.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from training.data.decode import UnreadablePictureError, decode
from training.data.sources import Listing, Split, few, list_pictures
from training.errors import TrainingError

MEMORY = 2 * 2**30
"""Bytes of pixels that are held in memory, in every process."""
FILES = 64
"""This many files are hashed, to tell a set from another with the same names."""


@dataclass(frozen=True)
class ImageDataset:
    """Pictures of one size, with their classes."""

    labels: Tensor
    """long [M], index into `classes`."""
    classes: tuple[str, ...]
    names: tuple[str, ...]
    """Where every picture is: a file name relative to the folder, a member of a shard, a row."""
    size: tuple[int, int]
    """Height and width of what `load` gives."""
    margin: float | None
    """None: `load` gives the whole picture, stretched. A number: it crops from the short side at margin x size."""
    fetch: Callable[[int], np.ndarray]
    """Picture -> uint8 [4,h',w'], at least of `size`."""
    skipped: tuple[str, ...] = ()
    """Files that were left out when the set was opened, with the reason."""
    digest: str = ""
    """A hash of the classes, the names and labels, and of some of the files. Other data has another hash."""

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: Tensor, corner: Tensor | None = None) -> Tensor:
        """The pictures `index` [B] as uint8 [B,4,h,w]: red, green, blue and opacity, not premultiplied.

        Args:
            corner: [B,2] in [0,1), where the crop starts, down and right, as a share of the room; None: the centre.
                Without a margin there is nothing to crop.
        Raises:
            TrainingError: more files than the tolerated share turned out to be broken.
        """
        if corner is None:
            corner = torch.full((len(index), 2), 0.5)
        crops = [
            _crop(self.fetch(one), self.size, place) for one, place in zip(index.tolist(), corner.tolist(), strict=True)
        ]
        return torch.from_numpy(np.stack(crops))


def open_dataset(
    source: str | Path,
    size: tuple[int, int],
    classes: Sequence[str] | None = None,
    split: Split = "train",
    *,
    margin: float | None = None,
    held_out: float = 0.05,
    tolerance: float = 0.01,
    memory: int = MEMORY,
) -> ImageDataset:
    """The pictures of a split of a data set of any kind (see training.data.sources).

    Broken files are named on standard error and left out. In a set too large for memory they are only found when they
    are loaded; there the next good picture of the class takes their place, the same picture every time.

    Args:
        size: height and width of the pictures.
        classes: class names in order, pictures of others are left out; None: all classes of the source, sorted.
        split: "train" or "held-out"; "all": everything in `source` as it is.
        margin: None: whole pictures, stretched to `size`. A number >= 1 for photos: the short side is resized to
            margin x size, for crops (paper section 3.1: 1.125).
        held_out: the share that is held out where the source has no split of its own.
        tolerance: the share of broken, missing and unlabelled pictures up to which they are left out.
        memory: bytes of decoded pictures up to which the set is held in memory; 0: never.
    Raises:
        TrainingError: the source cannot be used; one sentence that names the place.
    """
    if margin is not None and margin < 1:
        raise TrainingError(f"the margin is {margin}; give at least 1, the paper's is 1.125")
    listing = list_pictures(source, classes, split, held_out, tolerance)
    digest = _digest(listing)
    if not 0 < _least_bytes(len(listing), size, margin) <= memory:
        dataset = _pictures(listing, size, margin, _OnDemand(listing, size, margin, tolerance))
    else:
        dataset = _held(listing, size, margin, tolerance, memory, strict=split != "held-out")
    return dataclasses.replace(dataset, digest=digest)


def _digest(listing: Listing) -> str:
    """Of names, labels and classes, and of the bytes of some files, spread evenly over the set."""
    digest = hashlib.sha256("\n".join((*listing.classes, "", *listing.names)).encode())
    digest.update(listing.labels.numpy().tobytes())
    for index in np.unique(np.linspace(0, len(listing) - 1, min(FILES, len(listing))).astype(np.int64)):
        try:
            digest.update(hashlib.sha256(listing.read(int(index))).digest())
        except OSError:
            digest.update(b"unreadable")
    return digest.hexdigest()[:16]


def _pictures(
    listing: Listing,
    size: tuple[int, int],
    margin: float | None,
    fetch: Callable[[int], np.ndarray],
    skipped: tuple[str, ...] = (),
) -> ImageDataset:
    return ImageDataset(listing.labels, listing.classes, listing.names, size, margin, fetch, skipped)


def _least_bytes(count: int, size: tuple[int, int], margin: float | None) -> float:
    return count * 4 * size[0] * size[1] * (margin or 1) ** 2


def _crop(pixels: np.ndarray, size: tuple[int, int], corner: Sequence[float]) -> np.ndarray:
    top, left = (
        int(share * (there - wanted + 1)) for share, there, wanted in zip(corner, pixels.shape[1:], size, strict=True)
    )
    return pixels[:, top : top + size[0], left : left + size[1]]


def _read(listing: Listing, index: int, size: tuple[int, int], margin: float | None) -> np.ndarray | str:
    """A picture of the listing, uint8 [4,h',w'], or why there is none."""
    try:
        return decode(listing.read(index), size, margin)
    except (UnreadablePictureError, OSError) as error:
        return f"{listing.names[index]} cannot be read as a picture ({error})"


def _report(reason: str) -> None:
    print(f"left out: {reason}", file=sys.stderr)


def _too_many(listing: Listing, broken: Sequence[str], tolerance: float) -> TrainingError:
    return TrainingError(
        f"of {len(listing)} pictures in {listing.where}, {len(broken)} are broken, more than {tolerance:.2%}: "
        f"{few(broken)}; repair or remove them"
    )


def _held(
    listing: Listing, size: tuple[int, int], margin: float | None, tolerance: float, memory: int, strict: bool
) -> ImageDataset:
    """All pictures, decoded now; on demand after all where they turn out to be larger than `memory`."""
    good: list[int] = []
    arrays: list[np.ndarray] = []
    broken: list[str] = []
    room = memory
    chunks = np.array_split(np.arange(len(listing)), -(-len(listing) // 256))
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
        for chunk in tqdm(chunks, "reading pictures", leave=False, delay=5):
            for index, result in zip(
                chunk, pool.map(lambda one: _read(listing, one, size, margin), chunk), strict=True
            ):
                if isinstance(result, str):
                    broken.append(result)
                else:
                    good.append(index)
                    arrays.append(result)
                    room -= result.nbytes
            if room < 0:
                return _pictures(listing, size, margin, _OnDemand(listing, size, margin, tolerance))
    if len(broken) > tolerance * len(listing):
        raise _too_many(listing, broken, tolerance)
    for reason in broken:
        _report(reason)
    left = listing.subset(np.array(good, np.int64))
    if strict:
        left.require_every_class()
    return _pictures(left, size, margin, arrays.__getitem__, tuple(broken))


class _OnDemand:
    """Decodes pictures when they are asked for; keeps count of the broken ones that it meets."""

    def __init__(self, listing: Listing, size: tuple[int, int], margin: float | None, tolerance: float) -> None:
        self.listing, self.size, self.margin, self.tolerance = listing, size, margin, tolerance
        self.broken: dict[int, str] = {}

    def __call__(self, index: int) -> np.ndarray:
        picture = self._read(index)
        if picture is not None:
            return picture
        same_class = torch.nonzero(self.listing.labels == self.listing.labels[index]).squeeze(1)
        place = int(torch.searchsorted(same_class, index))
        for other in torch.roll(same_class, -place)[1:].tolist():
            picture = self._read(other)
            if picture is not None:
                return picture
        name = self.listing.classes[int(self.listing.labels[index])]
        raise TrainingError(f"class {name!r} has no readable pictures in {self.listing.where}; repair or remove them")

    def _read(self, index: int) -> np.ndarray | None:
        if index in self.broken:
            return None
        result = _read(self.listing, index, self.size, self.margin)
        if not isinstance(result, str):
            return result
        self.broken[index] = result
        if len(self.broken) > self.tolerance * len(self.listing):
            raise _too_many(self.listing, list(self.broken.values()), self.tolerance)
        _report(result)
        return None
