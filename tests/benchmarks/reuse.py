"""What `reuse` saves and what it changes, per solver and number of steps:

    python tests/benchmarks/reuse.py --model emoji64

Agreement: share of positions that go to the same child as with 25 Euler steps, from the same canvas and noise. Seconds
are the processor's, of the structure network alone. Without and with reuse take turns on two halves of the images, so
what else the machine does hits both.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from itertools import product

import torch

import nvg_model
from nvg_model import NVG, SamplingSettings
from training.split_agreement import Images, splits, with_steps

STEPS = (2, 4, 8, 25)
FEW = 4
"""Images that 25 steps are measured on, which take long."""


def part(images: Images, rows: slice) -> Images:
    """Some of the images."""
    sequence = images.sequence
    chosen = (one[rows] for one in (sequence.structure, sequence.tokens, sequence.canvases))
    return Images(images.classes[rows], images.noise[rows], type(sequence)(*chosen, sequence.grid))


def compare(model: NVG, images: Images, wanted: torch.Tensor, settings: SamplingSettings) -> list[tuple[float, float]]:
    """(agreement, processor seconds an image) without and with reuse."""
    found: list[list[torch.Tensor]] = [[], []]
    seconds = [0.0, 0.0]
    half = len(images.classes) // 2
    for rows in (slice(half), slice(half, None)):
        for index in (0, 1):
            chosen = dataclasses.replace(settings, reuse=bool(index))
            start = time.process_time()
            found[index].append(splits(model, part(images, rows), chosen))
            seconds[index] += time.process_time() - start
    return [
        (float((torch.cat(one) == wanted).float().mean()), spent / len(wanted))
        for one, spent in zip(found, seconds, strict=True)
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="emoji64")
    parser.add_argument("--images", type=int, default=16)
    args = parser.parse_args()
    model = nvg_model.load(args.model)
    images = Images.generate(model, args.images, model.settings)
    wanted = splits(model, images, with_steps(model.settings, 25))
    print("| solver | steps | images | agreement | with reuse | seconds an image | with reuse | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for steps, solver in product(STEPS, nvg_model.solvers.SOLVERS):
        count = FEW if steps == 25 else args.images
        some = part(images, slice(count))
        (plain, slow), (reused, fast) = compare(model, some, wanted[:count], with_steps(model.settings, steps, solver))
        numbers = f"{plain:.3f} | {reused:.3f} | {slow:.2f} | {fast:.2f} | {fast / slow:.2f}"
        print(f"| {solver} | {steps} | {count} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
