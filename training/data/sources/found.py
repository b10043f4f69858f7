"""What every kind of source gives, and what the rest of the training gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from training.errors import TrainingError

Split = Literal["train", "held-out", "all"]
HELD_OUT = ("held-out", "val", "validation", "valid", "test")
CLASS_KEYS = ("class", "label", "class_name", "category", "cls")


@dataclass(frozen=True)
class Found:
    """Pictures of a source with the labels that it gives them."""

    where: str
    names: list[str]
    labels: list[str]
    """A class name or a number each."""
    read: Callable[[int], bytes]
    classes: tuple[str, ...] | None = None
    """All classes in order, where the source knows them."""
    split: bool = False
    """Whether these are only the pictures of the split that was asked for."""
    left_out: tuple[str, ...] = ()
    """What is incomplete: pictures without a label, labels without a picture."""
    complaint: str = ""
    """The sentence about these, for the case that they are too many."""

    def within(self, tolerance: float) -> Found:
        """Itself. Raises TrainingError: more than this share of it is incomplete."""
        if len(self.left_out) > tolerance * (len(self.names) + len(self.left_out)):
            raise TrainingError(self.complaint)
        return self


@dataclass(frozen=True)
class Listing:
    """The pictures to use."""

    where: str
    names: tuple[str, ...]
    labels: Tensor
    """long [M], index into `classes`."""
    classes: tuple[str, ...]
    rows: np.ndarray
    """int64 [M]: the picture's number for `reader`."""
    reader: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """The bytes of a picture's file."""
        return self.reader(int(self.rows[index]))

    def subset(self, keep: np.ndarray) -> Listing:
        """The pictures `keep` (int64, ascending)."""
        names = tuple(self.names[index] for index in keep)
        return replace(self, names=names, labels=self.labels[torch.from_numpy(keep)], rows=self.rows[keep])

    def require_every_class(self) -> Listing:
        """Itself. Raises TrainingError where a class has no pictures."""
        counts = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        for name, count in zip(self.classes, counts, strict=True):
            if not count:
                raise TrainingError(f"class {name!r} has no pictures in {self.where}; add some or leave the class out")
        return self


def label_text(value: object) -> str:
    """A label as text, a class name or a number; empty where it is none (null, true, a list)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


def few(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
