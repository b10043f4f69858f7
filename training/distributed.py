"""Several processes under torchrun: who does which part, and what they must agree on.

A step is the same whatever the number of processes: everything random of a step is drawn for its whole batch, from
(seed, images seen), and every process takes its share of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeGuard, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.errors import TrainingError
from training.pulse import Pulse

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

TIMEOUT = 600.0
"""Seconds without a sign of life of a process after which the others give up (`training.pulse`)."""
WORK = timedelta(hours=24)
"""The first process may take this long to measure or write while the others wait for it."""

CPU = torch.device("cpu")
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among all that train together."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in some process; the same answer in all."""
        if self.size == 1:
            return flag
        value = torch.tensor(float(flag))  # between the hosts: no waiting for what the GPUs still have to do
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value)

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean over the processes of values that all have under the same names."""
        if self.size == 1 or not values:
            return values
        stacked = torch.stack([value.detach().float().to(self.device) for value in values.values()])
        dist.all_reduce(stacked)
        return dict(zip(values, stacked / self.size, strict=True))

    def gather(self, value: T) -> list[T]:
        """The small picklable value of every process, in order of rank."""
        if self.size == 1:
            return [value]
        everyone: list[T | None] = [None] * self.size
        dist.all_gather_object(everyone, value)
        return everyone  # type: ignore[return-value]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


@dataclass(frozen=True)
class Shard:
    """One of `parts` equal parts of a batch: of one process, and of one accumulation step."""

    part: int = 0
    parts: int = 1

    def of(self, batch: Tensor) -> Tensor:
        """This part of a tensor whose first axis is the batch."""
        return batch[self.slice(len(batch))]

    def slice(self, count: int) -> slice:
        """Which of `count` items are this part's. Raises TrainingError where they cannot be parted evenly."""
        size, rest = divmod(count, self.parts)
        if rest:
            raise TrainingError(
                f"a batch of {count} cannot be parted evenly among {self.parts} (processes x accumulation steps); "
                "choose another --batch or --accumulate"
            )
        return slice(self.part * size, (self.part + 1) * size)


_PULSES: list[Pulse] = []


def start(timeout: float = TIMEOUT) -> World:
    """Joins the other processes if torchrun started this one.

    Args:
        timeout: seconds without a sign of life of another process after which this one ends.
    Raises:
        TrainingError: they did not find each other.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = CPU
    if torch.cuda.is_available():
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if timeout < 1:
        raise TrainingError(f"the timeout is {timeout:g} seconds; it must be at least 1")
    if size > 1 and not dist.is_initialized():
        try:
            if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
                _PULSES.append(Pulse(rank, size, timeout))
                _PULSES[-1].start()
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=WORK)
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"the {size} processes could not find each other ({error}); start with torchrun"
            ) from error
    return World(rank, size, device)


def stop(orderly: bool = True) -> None:
    """Leaves the other processes.

    Args:
        orderly: the work is done; else they are to miss this process, and end as well.
    """
    while _PULSES:
        _PULSES.pop().stop(orderly)
    if dist.is_initialized():
        dist.destroy_process_group()


def is_loss_of_another(error: RuntimeError) -> bool:
    """Whether an error says that another process has gone, in the words of whatever noticed it."""
    signs = ("gloo", "NCCL", "Connection reset", "Connection closed", "Broken pipe", "Socket")
    return dist.is_initialized() and (isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs))


def replicate(objective: nn.Module, world: World) -> nn.Module:
    """DistributedDataParallel around a module whose forward gives its loss; the module itself for one process."""
    if world.size == 1 or is_sharded(objective):
        return objective
    devices = [world.device] if world.device.type == "cuda" else None
    # The first backward differs in no way from the later ones: every parameter takes part in every step.
    return nn.parallel.DistributedDataParallel(objective, device_ids=devices, broadcast_buffers=False)


def shard_parameters(objective: nn.Module, blocks: Iterable[nn.Module], world: World) -> None:
    """FSDP2, in place. Every block, and the rest as one group, keeps only its share of parameters in a process."""
    if world.size == 1:
        return
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for block in blocks:
        fully_shard(block)
        register_fsdp_forward_method(block, "modulate")  # called apart from forward, and needs the weights as well
    fully_shard(objective)


@contextmanager
def parts_callable(objective: nn.Module) -> Iterator[None]:
    """Within, the parts of a module can be called by themselves, as sampling does, even if it is sharded.

    Outside, the parameters that are in no block are whole only in the objective's own forward. They are parted again
    at the end, so that the next forward gathers what the parameters have become.
    """
    if not is_sharded(objective):
        yield
        return
    objective.unshard()  # type: ignore[operator]
    try:
        yield
    finally:
        objective.reshard()  # type: ignore[operator]


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard_parameters` was applied. (That imports FSDP, which takes a second; nothing else does.)"""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def is_sharded_tensor(value: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a sharded module's, of which this process has its part."""
    tensors = sys.modules.get("torch.distributed.tensor")
    return tensors is not None and isinstance(value, tensors.DTensor)
