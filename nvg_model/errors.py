"""The exceptions that users meet: one clear sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class NVGError(ValueError):
    """A wrong input: the message says what is wrong, with which value, and what to do."""


class CheckpointError(NVGError):
    """A checkpoint that cannot be read or written."""


class UnreachableError(CheckpointError):
    """A checkpoint of the hub that is not in the local cache, and no hub that answers."""


def shortened(text: str, most: int = 80) -> str:
    """A text as one line of at most so many characters, for a sentence: cut between words, where there are any."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    start = text[: most - 4]
    return (start.rpartition(" ")[0] or start).rstrip(" ,;") + " ..."


def all_finite(x: Tensor) -> bool:
    """Whether no value is NaN or infinite. Waits for the device that `x` is on: not for the stage loop."""
    return bool(x.isfinite().all())
