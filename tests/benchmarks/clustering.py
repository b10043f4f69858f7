"""Clustering against the plain greedy loop, in one run:

python tests/benchmarks/clustering.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import plain
import torch
from torch import Tensor

from nvg_model import cluster


def best(function: Callable[[Tensor], Tensor], points: Tensor, runs: int) -> tuple[float, Tensor]:
    """Fewest seconds of several runs, and the result."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        labels = function(points)
        times.append(time.perf_counter() - start)
    return min(times), labels


def main() -> None:
    """Prints a line for each size."""
    for batch, positions in ((8, 64), (8, 256), (8, 1024)):
        points = torch.randn(batch, positions, 32, generator=torch.Generator().manual_seed(positions))
        (fast, ours), (slow, theirs) = (
            best(cluster, points, 5),
            best(plain.cluster, points, 2 if positions > 256 else 5),
        )
        print(
            f"batch {batch}, L = {positions:<5} ours {fast * 1e3:8.1f} ms   greedy loop {slow * 1e3:8.1f} ms   "
            f"{slow / fast:5.1f} times as fast, labels equal: {torch.equal(ours, theirs)}"
        )


if __name__ == "__main__":
    main()
