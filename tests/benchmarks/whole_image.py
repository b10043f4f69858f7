"""Time and memory of a whole image, ours against the plain eager loop, in one run:

python tests/benchmarks/whole_image.py --preset d16
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import plain

from nvg_model import PRESETS, SamplingSettings, preset
from nvg_model.cli.bench import matrix_peak, random_model


def measure(which: str, name: str, batch: int, steps: int, queue: multiprocessing.Queue) -> None:
    """One image batch in a process of its own, so that its peak memory is its own."""
    model = random_model(preset(name))
    settings = SamplingSettings(top_k=1, structure_steps=steps)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch, model.config.positions, model.config.splits, generator=generator)
    classes = torch.arange(batch) % len(model.classes)

    def image(chosen: SamplingSettings) -> torch.Tensor:
        if which == "plain":
            return plain.generate(model, classes, noise, chosen)[1]
        sequence = model.generate(classes, settings=chosen, structure_noise=noise)
        model.decode(sequence)
        return sequence.tokens

    image(SamplingSettings(top_k=1, structure_steps=1))  # warm up
    start = time.perf_counter()
    tokens = image(settings)
    seconds = time.perf_counter() - start
    queue.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, tokens.numpy().tobytes()))


def main() -> None:
    """Runs both, `--rounds` times in turn, and prints times, memory and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=list(PRESETS), default="d16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    print(f"matrix product peak {matrix_peak(torch.device('cpu'), torch.float32) / 1e9:.0f} GFLOP/s")
    context = multiprocessing.get_context("spawn")
    for _ in range(args.rounds):
        results = {}
        for which in ("plain", "ours"):
            queue = context.Queue()
            process = context.Process(target=measure, args=(which, args.preset, args.batch, args.steps, queue))
            process.start()
            results[which] = queue.get()
            process.join()
            print(f"{which:<6}{results[which][0]:>9.2f} s {results[which][1]:>8.0f} MiB", flush=True)
        ratio = results["ours"][0] / results["plain"][0]
        print(f"ours / plain: {ratio:.3f}; the same tokens: {results['ours'][2] == results['plain'][2]}", flush=True)


if __name__ == "__main__":
    main()
