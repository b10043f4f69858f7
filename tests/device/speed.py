"""Images a second of whole pictures, 25 steps and guidance: presets, batches, precisions, compiled or not."""

from __future__ import annotations

import dataclasses
import statistics
from itertools import product

import torch
from results import Cell, Options, Results, forget_memory, memory, seconds, use_tf32

from nvg_model import NVG, NVGError, SamplingSettings, preset
from nvg_model.cli.bench import random_model
from nvg_model.compiling import check_compiler

PRECISIONS = {
    "float32": (torch.float32, None),
    "tf32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "bfloat16 compiled": (torch.bfloat16, {"mode": "default"}),
    "bfloat16 compiled, CUDA graphs": (torch.bfloat16, {"mode": "reduce-overhead"}),
    "tf32 compiled, CUDA graphs": (torch.float32, {"mode": "reduce-overhead"}),
    "float32 compiled": (torch.float32, {"mode": "default"}),
}
"""Type of the weights, and arguments of `NVG.compile`."""
ON_CPU = ("float32", "bfloat16", "float32 compiled")
AT_LEAST = 2.0
"""Seconds that a cell is repeated for."""


def measure(options: Options, results: Results) -> None:
    """All cells, the larger network first and what takes longest to compile last."""
    on_gpu = options.device.type == "cuda"
    presets, batches = (("tiny",), (2,)) if options.tiny else (("d16", "d12"), (1, 32, 8))
    precisions = tuple(PRECISIONS) if on_gpu else ON_CPU
    try:
        check_compiler(options.device)
    except NVGError as error:
        print(f"nothing is measured compiled: {error}", flush=True)
        precisions = tuple(one for one in precisions if PRECISIONS[one][1] is None)
    for precision, name in product(precisions, presets):
        for batch in batches:
            cell = f"{name}, batch {batch}, {precision}"
            results.measure(cell, images_a_second, name, batch, precision, options)


def images_a_second(name: str, batch: int, precision: str, options: Options) -> Cell:
    """Whole pictures, decoded; all shapes were seen once before."""
    device = options.device
    dtype, compiling = PRECISIONS[precision]
    use_tf32(precision.startswith("tf32"))
    forget_memory(device)
    nvg = network(name, options.tiny).to(device, dtype)
    if compiling is not None:
        torch.compiler.reset()
        nvg.compile(**compiling)
    try:
        first = seconds(lambda: draw(nvg, batch, SamplingSettings(structure_steps=1)), device)
        settings = SamplingSettings(structure_steps=2 if options.tiny else 25)
        times: list[float] = []
        while not times or (sum(times) < (0 if options.tiny else AT_LEAST) and len(times) < 5):
            times.append(seconds(lambda: draw(nvg, batch, settings), device))
    finally:
        use_tf32(False)
    middle = statistics.median(times)
    return {
        "images_per_second": batch / middle,
        "seconds": middle,
        "runs": len(times),
        "first_call_s": first,
        "memory_bytes": memory(device),
    }


def network(name: str, tiny: bool) -> NVG:
    """The preset with random weights; in the tests one block deep: as many graphs to compile, smaller ones."""
    config = preset(name)
    if tiny and config.generator:
        generator = dataclasses.replace(config.generator, content_depth=1, structure_depth=1)
        config = dataclasses.replace(config, generator=generator)
    return random_model(config)


@torch.inference_mode()
def draw(nvg: NVG, batch: int, settings: SamplingSettings) -> None:
    """Pictures of the first classes."""
    nvg.decode(nvg.generate([index % len(nvg.classes) for index in range(batch)], settings=settings))
