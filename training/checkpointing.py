"""Resumable training state, whole or not at all.

A save is written to a temporary file, flushed to the disk and renamed: its final name is the mark of completion, and
a process killed at any moment leaves the earlier saves as they were. The latest two are kept, and the best.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from training.data import DataError
from training.distributed import is_sharded

BEST = "best.pt"
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def save(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Writes `state` as `folder`/state-<step>.pt; whole or not at all. Older files than the last `keep` go.

    Raises:
        DataError: it could not be written; the earlier saves are intact.
    """
    path = folder / f"state-{step:08d}.pt"
    write(path, {**state, "step": step})
    for old in sorted(folder.glob("state-*.pt"))[:-keep]:
        old.unlink()
    return path


def write(path: Path, content: Any) -> None:
    """`torch.save` that leaves either the complete file or none under its name. Raises DataError."""
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)  # the new name is on the disk only when the folder is
        os.fsync(folder)
        os.close(folder)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        cause = error.__context__ or error  # torch's error says at which byte, the one before it why
        raise DataError(f"{path} could not be written ({cause}); free some room and run the command again") from error


def keep_best(path: Path) -> None:
    """Keeps a save as `best.pt` beside it (a second name for the same file)."""
    link = path.with_name(BEST + ".partial")
    link.unlink(missing_ok=True)
    os.link(path, link)
    link.replace(path.with_name(BEST))


def latest(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The newest state in `folder`, or None. Only tensors and plain values are read. Raises DataError if damaged."""
    paths = sorted(folder.glob("state-*.pt"))
    return read(paths[-1], device) if paths else None


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A saved state. Raises DataError where there is none or it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch.load does not compare the checksums
        if broken is None:
            return torch.load(path, map_location=device, weights_only=True)
        reason = f"the checksum of {broken} is wrong"
    except Exception as error:  # zipfile and torch raise whatever the damaged bytes lead them to
        reason = str(error) or type(error).__name__
    raise DataError(f"{path} cannot be read ({reason}); remove it to go on from the save before it")


def module_state(module: nn.Module) -> dict[str, Any]:
    """Parameters and buffers. Of a sharded module: whole, on the CPU, in the first process only; all must call this."""
    return get_model_state_dict(module, options=_WHOLE) if is_sharded(module) else module.state_dict()


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state, whole in every process: the same however many processes share it."""
    saved = optimizer.state_dict()
    return {**saved, "state": {index: _each(whole, values) for index, values in saved["state"].items()}}


def load_module(module: nn.Module, state: dict[str, Any]) -> None:
    """The inverse of `module_state`."""
    if is_sharded(module):
        set_model_state_dict(module, state, options=_WHOLE)
    else:
        module.load_state_dict(state)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The inverse of `optimizer_state`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def shared(parameter: Tensor, values: dict[str, Any]) -> dict[str, Any]:
        return _each(lambda value: like(value, parameter) if value.shape == parameter.shape else value, values)

    sharded = {index: shared(parameters[index], values) for index, values in state["state"].items()}
    optimizer.load_state_dict({**state, "state": sharded})


def _each(change: Callable[[Tensor], Tensor], values: dict[str, Any]) -> dict[str, Any]:
    """With every tensor changed."""
    return {name: change(value) if isinstance(value, Tensor) else value for name, value in values.items()}


def whole(value: Tensor) -> Tensor:
    """A tensor, complete and on the CPU if it was sharded; then all processes must call this."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def like(value: Tensor, target: Tensor) -> Tensor:
    """A whole tensor, sharded like `target`."""
    if isinstance(target, DTensor):
        return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    return value
