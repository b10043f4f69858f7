"""How well few time steps of the structure flow agree with many, per solver and choice of times:

    python tests/benchmarks/few_steps.py --model emoji64

At every stage of generated images, each setting splits the regions from the same canvas and the same noise. The
agreement is the share of positions that go to the same child as with `--reference` Euler steps; by chance it is a half.
With `--search` the times of each stage are also optimised, on other images than those they are measured on.
`python -m training few-step` prints the same for a converted checkpoint beside the one it came from.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

import nvg_model
from nvg_model import NVG, SamplingSettings
from nvg_model.solvers import evaluations
from training.split_agreement import Images, agreement, split, splits, with_steps

SOLVERS = {"euler": (25, 8, 4, 2, 1), "heun": (4, 2, 1), "multistep": (8, 4, 2)}


def shifted(steps: int, mu: float) -> Tensor:
    """Times t' = e^mu / (e^mu + 1/t - 1) from 1 to 0; mu = 0 are even ones."""
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return (math.exp(mu) * t / (math.exp(mu) * t + 1 - t)).float()


@torch.no_grad()
def search(model: NVG, images: Images, settings: SamplingSettings, stage: int, wanted: Tensor) -> Tensor:
    """Times [n+1] by which a stage's splits agree best with `wanted` [B,L]: one inner time after the other is moved."""
    best = shifted(settings.structure_steps, 0)

    def score(grid: Tensor) -> float:
        return float((split(model, images, settings, stage, grid) == wanted).float().mean())

    highest = score(best)
    for index in range(1, settings.structure_steps):
        low, high = float(best[index + 1]), float(best[index - 1])
        for share in (0.15, 0.35, 0.5, 0.65, 0.85):
            grid = best.clone()
            grid[index] = low + share * (high - low)
            if (found := score(grid)) > highest:
                best, highest = grid, found
    return best


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="emoji64")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--reference", type=int, default=200)
    parser.add_argument("--search", action="store_true")
    args = parser.parse_args()
    model = nvg_model.load(args.model)
    images = Images.generate(model, args.images, model.settings)
    wanted = splits(model, images, with_steps(model.settings, args.reference))
    print(f"{'solver':<22}{'steps':>6}{'evaluations':>12}{'agreement':>11}  {'by stage':<40}{'seconds':>8}")

    def line(title: str, settings: SamplingSettings, grids: Sequence[Tensor] = ()) -> None:
        start = time.perf_counter()
        found = agreement(splits(model, images, settings, grids), wanted)
        seconds = time.perf_counter() - start
        stages = " ".join(f"{value:.3f}" for value in found)
        steps = settings.structure_steps
        count = evaluations(settings.solver, steps)
        print(f"{title:<22}{steps:>6}{count:>12}{sum(found) / len(found):>11.3f}  {stages:<40}{seconds:>8.2f}")

    for solver, numbers in SOLVERS.items():
        for steps in numbers:
            line(solver, with_steps(model.settings, steps, solver))
    for steps in (4, 2):
        settings = with_steps(model.settings, steps, "multistep")
        for mu in (-0.5, 0.0, 1.2):
            line(f"multistep, mu = {mu:g}", settings, [shifted(steps, mu)] * wanted.shape[1])
        if args.search:
            others = Images.generate(model, args.images, model.settings, seed=1)
            goal = splits(model, others, with_steps(model.settings, 25))
            grids = [search(model, others, settings, stage, goal[:, stage]) for stage in range(goal.shape[1])]
            line("multistep, searched", settings, grids)
            print("   ", "; ".join(" ".join(f"{t:.2f}" for t in grid.tolist()) for grid in grids))


if __name__ == "__main__":
    main()
