"""Time and peak memory of generating an image, measured in a fresh process: `measure`."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import nvg_model
from nvg_model.model import NVG
from training.errors import TrainingError


@dataclass(frozen=True)
class Cost:
    """What an image costs."""

    seconds: float
    """One image alone, with decoding: the median of several."""
    seconds_in_batch: float
    """An image of a batch."""
    batch: int
    loading_seconds: float
    peak_mib: float
    """Highest memory of the process (CPU) or of its tensors (CUDA), with one image at a time."""
    before_mib: float
    """Highest memory of the process before the checkpoint was loaded; 0 for CUDA."""
    threads: int


def measure(checkpoint: str, device: str, dtype: str, batch: int = 8, repeats: int = 3) -> Cost:
    """Measures in a process of its own, whose memory nothing else has touched.

    Raises:
        TrainingError: the process failed; its own last line says why.
    """
    arguments = [checkpoint, device, dtype, str(batch), str(repeats)]
    command = [sys.executable, "-m", "training.metrics.cost", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise TrainingError(f"time and memory could not be measured ({last}); leave the part `cost` out")
    return Cost(**json.loads(ended.stdout.splitlines()[-1]))


def _measure_here(checkpoint: str, device: torch.device, dtype: torch.dtype, batch: int, repeats: int) -> Cost:
    before = 0.0 if device.type == "cuda" else _peak_mib(device)
    start = time.perf_counter()
    nvg = nvg_model.load(checkpoint, device, dtype)
    loading = time.perf_counter() - start
    _seconds(nvg, 1)  # the first run also prepares kernels
    alone = [_seconds(nvg, 1) for _ in range(repeats)]
    peak = _peak_mib(device)
    together = _seconds(nvg, batch) / batch
    return Cost(statistics.median(alone), together, batch, loading, peak, before, torch.get_num_threads())


def _seconds(nvg: NVG, batch: int) -> float:
    start = time.perf_counter()
    nvg.decode(nvg.generate([index % len(nvg.classes) for index in range(batch)])).cpu()
    return time.perf_counter() - start


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where ru_maxrss would begin with that of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    name, device, dtype, batch, repeats = sys.argv[1:]
    cost = _measure_here(name, torch.device(device), getattr(torch, dtype), int(batch), int(repeats))
    print(json.dumps(asdict(cost)))
