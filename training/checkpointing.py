"""Resumable training state, whole or not at all.

A save is written to a temporary file, flushed to the disk and renamed: its final name is the mark of completion, and
a process killed at any moment leaves the earlier saves as they were. The latest two are kept, and the best.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.distributed import is_sharded, is_sharded_tensor
from training.errors import TrainingError
from training.files import remove_partials, replacing

BEST, BEST_NUMBERS = "best.pt", "best.json"


def save(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Writes `state` as `folder`/state-<step>.pt; whole or not at all. Older files than the last `keep` go.

    Raises:
        TrainingError: it could not be written; the earlier saves are intact.
    """
    path = folder / f"state-{step:08d}.pt"
    write(path, {**state, "step": step})
    for old in sorted(folder.glob("state-*.pt"))[:-keep]:
        old.unlink()
    remove_partials(folder)
    return path


def write(path: Path, content: Any) -> None:
    """`torch.save` that leaves either the complete file or none under its name. Raises TrainingError."""
    message = "{path} could not be written ({error}); free some room and run the command again"
    with replacing(path, message) as partial, partial.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's says at which byte, the one before it why
            raise OSError(str(error.__context__ or error)) from error


def keep_best(path: Path, numbers: dict[str, float]) -> None:
    """Keeps a save as `best.pt` beside it (a second name for the same file), and what it reached in `best.json`.

    A copy where the file system has no second names (exFAT, many network shares).
    """
    with replacing(path.with_name(BEST)) as partial:
        try:
            os.link(path, partial)
        except OSError:
            shutil.copyfile(path, partial)
    with replacing(path.with_name(BEST_NUMBERS)) as partial:
        partial.write_text(json.dumps(numbers, indent=1) + "\n")


def best_numbers(folder: Path) -> dict[str, float] | None:
    """What the best save in `folder` reached; None where there is none yet."""
    path = folder / BEST_NUMBERS
    return json.loads(path.read_text()) if path.is_file() else None


def latest(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The newest state in `folder`, or None. Only tensors and plain values. Raises TrainingError if damaged."""
    path = newest(folder)
    return None if path is None else read(path, device)


def about(folder: Path) -> dict[str, Any] | None:
    """`step` and `meta` of the newest state in `folder`, without tensors, or None. Raises TrainingError if damaged."""
    path = newest(folder)
    if path is None:
        return None
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception:
        state = read(path)  # which says what is wrong with it
    return {"step": state["step"], "meta": state["meta"]}


def newest(folder: Path) -> Path | None:
    """The file of the newest state in `folder`, or None."""
    return max(folder.glob("state-*.pt"), default=None)


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A saved state. Raises TrainingError where there is none or it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()  # torch.load does not compare the checksums
        if broken is None:
            return torch.load(path, map_location=device, weights_only=True)
        reason = f"the checksum of {broken} is wrong"
    except Exception as error:  # zipfile and torch raise whatever the damaged bytes lead them to
        reason = str(error) or type(error).__name__
    raise TrainingError(f"{path} cannot be read ({reason}); remove it to go on from the save before it")


def module_state(module: nn.Module) -> dict[str, Any]:
    """Parameters and buffers. Of a sharded module: whole, on the CPU, in the first process only; all must call this."""
    if not is_sharded(module):
        return module.state_dict()
    sharded, options = _of_sharded()
    return sharded.get_model_state_dict(module, options=options)


def optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Any]:
    """The state of an optimiser of a module's parameters, the same however many processes share it.

    Of a sharded module: on the CPU, in the first process only; all must call this.
    """
    if not is_sharded(module):
        return optimizer.state_dict()
    sharded, options = _of_sharded()
    named: Any = sharded.get_optimizer_state_dict(module, optimizer, options=options)
    groups = named.get("param_groups", ())  # nothing in the other processes
    numbers = {name: number for number, name in enumerate(name for group in groups for name in group["params"])}
    return {
        "state": {numbers[name]: values for name, values in named.get("state", {}).items()},
        "param_groups": [{**group, "params": [numbers[name] for name in group["params"]]} for group in groups],
    }


def load_module(module: nn.Module, state: dict[str, Any]) -> None:
    """The inverse of `module_state`."""
    if not is_sharded(module):
        module.load_state_dict(state)
        return
    sharded, options = _of_sharded()
    sharded.set_model_state_dict(module, state, options=options)


def _of_sharded() -> tuple[Any, Any]:
    """Torch's functions for states of sharded modules, imported where there are some, and options for whole states."""
    from torch.distributed.checkpoint import state_dict

    return state_dict, state_dict.StateDictOptions(full_state_dict=True, cpu_offload=True)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The inverse of `optimizer_state`. Learning rates and the like stay as `optimizer` has them: they may be new.

    Raises:
        ValueError: the state has other groups of parameters.
    """
    groups = optimizer.state_dict()["param_groups"]
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in state["param_groups"]]:
        raise ValueError("the optimiser's groups of parameters are others")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def shared(parameter: Tensor, values: dict[str, Any]) -> dict[str, Any]:
        return _each(lambda value: like(value, parameter) if value.shape == parameter.shape else value, values)

    sharded = {index: shared(parameters[index], values) for index, values in state["state"].items()}
    optimizer.load_state_dict({"state": sharded, "param_groups": groups})


def _each(change: Callable[[Tensor], Tensor], values: dict[str, Any]) -> dict[str, Any]:
    """The same structure with `change` applied to every tensor."""
    return {name: change(value) if isinstance(value, Tensor) else value for name, value in values.items()}


def whole(value: Tensor) -> Tensor:
    """A tensor, complete and on the CPU if it was sharded; then all processes must call this."""
    return value.full_tensor().cpu() if is_sharded_tensor(value) else value


def like(value: Tensor, target: Tensor) -> Tensor:
    """A whole tensor, sharded like `target`."""
    if not is_sharded_tensor(target):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
