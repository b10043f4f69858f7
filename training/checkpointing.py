"""Resumable training state: written to a temporary file and renamed, the latest two kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from training.data import DataError


def save(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Writes `state` as `folder`/state-<step>.pt; whole or not at all. Older files than the last `keep` go."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"state-{step:08d}.pt"
    partial = path.with_suffix(".partial")
    try:
        torch.save({**state, "step": step}, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"the training state could not be written to {path} ({error}); free some room") from error
    partial.replace(path)
    for old in sorted(folder.glob("state-*.pt"))[:-keep]:
        old.unlink()
    return path


def latest(folder: Path) -> dict[str, Any] | None:
    """The newest state in `folder`, or None. Only tensors and plain values are read."""
    paths = sorted(folder.glob("state-*.pt"))
    return torch.load(paths[-1], map_location="cpu", weights_only=True) if paths else None
