"""Whether bfloat16 pays on this machine: measured, for no list of processors stays complete.

Processors without bfloat16 units compute such products in software, ten to seventy times slower than in float32.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from training.distributed import World
from training.recipes.base import Running

SIDE = 256  # of the square matrices that are multiplied
REPEATS = 5
TOLERATED = 1.25
"""Times as long as in float32 that a product in bfloat16 may take: near 1 noise would decide, at every start anew."""
Settings = TypeVar("Settings", bound=Running)


@cache
def slowdown(device: str = "cpu") -> float:
    """How many times as long a matrix product takes in bfloat16 as in float32; measured once in a process, in a tenth
    of a second. GPUs are not measured but asked: infinity where they have no such units."""
    if device == "cuda":
        return 0.5 if torch.cuda.is_bf16_supported(including_emulation=False) else float("inf")
    if device != "cpu":
        return 0.5
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # and by the time that the processor spent, so that what else runs does not matter
    try:
        matrix = torch.linspace(-1, 1, SIDE * SIDE).view(SIDE, SIDE)
        return _seconds(matrix.bfloat16()) / _seconds(matrix)
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _seconds(matrix: Tensor) -> float:
    """The shortest of several products."""
    times = []
    for _ in range(REPEATS + 1):  # the first one sets up
        start = time.thread_time()
        matrix @ matrix
        times.append(time.thread_time() - start)
    return min(times[1:])


def is_slow(device: str = "cpu") -> bool:
    """Whether bfloat16 costs time on such a device instead of saving it."""
    return slowdown(device) > TOLERATED


def with_precision(settings: Settings, world: World) -> Settings:
    """Settings with float32 instead of bfloat16 where that is slow, which is said; the same in all processes.

    `bfloat16_anyway` keeps it.
    """
    if not settings.bfloat16 or settings.bfloat16_anyway:
        return settings
    factor = max(world.gather(slowdown(world.device.type)))
    if factor <= TOLERATED:
        return settings
    if world.first:
        times = "is computed in software" if factor == float("inf") else f"takes {factor:.1f} times as long as float32"
        print(f"bfloat16 {times} on this machine, so float32 is used; --bfloat16 keeps bfloat16", file=sys.stderr)
    return dataclasses.replace(settings, bfloat16=False)
