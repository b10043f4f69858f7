"""How well few time steps of the structure flow agree with many, per solver:

    python tests/benchmarks/few_steps.py --model emoji64

At every stage of generated images, each setting splits the regions from the same canvas and the same noise. The
agreement is the share of positions that go to the same child as with 200 Euler steps; by chance it is a half.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import torch

import nvg_model
from nvg_model import NVG, SamplingSettings, VisualGranularitySequence
from nvg_model.model import Request
from nvg_model.sampling import next_structure


@torch.no_grad()
def splits(
    model: NVG, whole: VisualGranularitySequence, settings: SamplingSettings, noise: torch.Tensor
) -> torch.Tensor:
    """Which child every position goes to at the stages that the flow splits: bool [B,K-1,L]."""
    classes = torch.arange(len(whole)) % len(model.classes)
    request = Request(classes, 0, 0, settings, whole.structure[:, :1], (), noise)
    return torch.stack(
        [
            next_structure(model, request, whole.canvases[:, stage], whole.structure[:, stage], noise, stage) % 2 == 1
            for stage in range(model.config.splits - 1)
        ],
        dim=1,
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="emoji64")
    parser.add_argument("--images", type=int, default=48)
    args = parser.parse_args()
    model = nvg_model.load(args.model)
    classes = torch.arange(args.images) % len(model.classes)
    noise = torch.randn(
        args.images, model.config.positions, model.config.splits, generator=torch.Generator().manual_seed(0)
    )
    whole = model.generate(classes, structure_noise=noise)
    many = splits(model, whole, dataclasses.replace(model.settings, structure_steps=200, solver="euler"), noise)
    print("solver     steps evaluations  agreement  by stage" + " " * 33 + "seconds")
    for solver, steps in (
        [("euler", n) for n in (25, 8, 4, 2)] + [("heun", n) for n in (4, 2)] + [("multistep", n) for n in (8, 4, 2)]
    ):
        settings = dataclasses.replace(model.settings, structure_steps=steps, solver=solver)
        start = time.perf_counter()
        same = (splits(model, whole, settings, noise) == many).float()
        seconds = time.perf_counter() - start
        stages = " ".join(f"{value:.3f}" for value in same.mean(dim=(0, 2)).tolist())
        evaluations = steps * (2 if solver == "heun" else 1)
        print(f"{solver:<10}{steps:>6}{evaluations:>12}{same.mean():>11.3f}  {stages:<40}{seconds:>8.2f}")


if __name__ == "__main__":
    main()
