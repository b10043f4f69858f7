"""What regions take of memory, beside what `nvg_model.memory` says before they run:

    python tests/benchmarks/memory.py --preset emoji64 d12 --regions 1 2 4 8

One picture with so many regions, with guidance: the last stage of the content and the last split of the structure flow,
each in a process of its own, whose largest resident size is compared with that after one row (torch's own tracing does
not see what its kernels allocate).
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

import torch

import nvg_model
from nvg_model import Region, SamplingSettings, memory
from nvg_model.cli.bench import random_model
from nvg_model.generation import Request, Run

PARTS = ("content", "structure")
SETTINGS = SamplingSettings(structure_steps=1, content_guidance=(3, 3), structure_guidance=(3, 3))


def largest() -> int:
    """Bytes of the largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work(run: Run, part: str) -> None:
    """The part with most clusters."""
    splits, positions = run.splits, run.given_structure.shape[-1]
    canvas = torch.zeros(1, positions, run.quantizer.channels)
    with torch.no_grad():
        if part == "content":
            run.next_codes(canvas, torch.arange(positions)[None], splits)
        else:
            run.integrate(canvas, torch.arange(positions)[None] >> 2, run.flow_noise(), splits - 2)


def measure(preset: str, part: str, regions: int) -> None:
    """Prints the bytes that the rows of so many regions took beyond those of one."""
    torch.set_num_threads(1)
    model = random_model(nvg_model.preset(preset))
    height, width = model.config.image_size
    bands = (torch.arange(width) * (regions + 1) // width).expand(height, width)
    masks = [(bands == index).float() for index in range(regions)]
    areas = [Region(mask, index + 1) for index, mask in enumerate(masks)]
    plain = SamplingSettings(structure_steps=1, content_guidance=(1, 1), structure_guidance=(1, 1))
    work(model.run(Request(0, 0, plain)), part)
    before = largest()
    work(model.run(Request(0, 0, SETTINGS, regions=areas)), part)
    print(largest() - before)


def main() -> None:
    """Prints a line for every preset, part and number of regions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", default=["emoji64", "d12"], choices=nvg_model.PRESETS)
    parser.add_argument("--regions", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        preset, part, regions = args.one
        return measure(preset, part, int(regions))
    print(f"{'preset':<10}{'part':<12}{'regions':>8}{'rows':>6}{'measured':>12}{'a row':>10}{'estimate':>10}  MiB")
    for preset in args.preset:
        for part in PARTS:
            for regions in args.regions:
                line(preset, part, regions)


def line(preset: str, part: str, regions: int) -> None:
    """Measures in a process of its own."""
    command = [sys.executable, __file__, "--one", preset, part, str(regions)]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 2**20
    rows = regions + 2  # the rest of the picture, and the null class
    estimate = memory.row_bytes(nvg_model.preset(preset), 4) / 2**20
    each = taken / (rows - 1)
    print(f"{preset:<10}{part:<12}{regions:>8}{rows:>6}{taken:>12.1f}{each:>10.2f}{estimate:>10.2f}", flush=True)


if __name__ == "__main__":
    main()
