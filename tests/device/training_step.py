"""A training step of the paper's generators: images a second, memory, share of what the card's products reach."""

from __future__ import annotations

import dataclasses
import statistics
import time

import torch
from results import Cell, Options, Results, forget_memory, memory, seconds
from torch.utils.flop_counter import FlopCounterMode

from nvg_model.cli.bench import matrix_peak, random_model
from nvg_model.config import NVGConfig, preset
from training.data.generator_batch import Batch
from training.losses.generators import GeneratorObjective
from training.optim import optimizers
from training.recipes import recipe
from training.recipes.base import GeneratorRecipe

BATCH = 64
"""Images of the first try; half as many each time that the memory does not suffice."""


def measure(options: Options, results: Results) -> None:
    """Every preset, as its recipe trains it but for REPA, which needs another network's weights."""
    for name in ("tiny",) if options.tiny else ("d16", "d12"):
        for compiled in (False, True) if options.device.type == "cuda" else (False,):
            title = f"{name}, bfloat16{' compiled' if compiled else ''}"
            results.measure(title, largest_that_fits, name, compiled, options)


def largest_that_fits(name: str, compiled: bool, options: Options) -> Cell:
    """Halves the batch until the memory suffices."""
    batch = 4 if options.tiny else BATCH
    while True:
        try:
            return steps_a_second(name, compiled, batch, options)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2


def steps_a_second(name: str, compiled: bool, batch: int, options: Options) -> Cell:
    """Some seconds of whole steps: forward, backward, optimiser."""
    device = options.device
    torch.compiler.reset()
    settings = settings_of(name, batch, compiled)
    nvg = random_model(preset(name)).to(device)
    nvg.tokenizer.requires_grad_(False)
    objective = GeneratorObjective(nvg, settings).train()
    optimisers = optimizers(objective, settings)
    data = random_batch(nvg.config, settings).to(device)

    def step() -> None:
        for optimizer in optimisers:
            optimizer.zero_grad(set_to_none=True)
        objective(data, 0)[0].backward()
        for optimizer in optimisers:
            optimizer.step()

    forget_memory(device)
    first = seconds(step, device)
    flops = None
    if not compiled:
        with FlopCounterMode(display=False) as counter:
            step()
        flops = counter.get_total_flops()
    times, end = [], time.perf_counter() + (0.1 if options.tiny else 4.0)
    while len(times) < 2 or time.perf_counter() < end:
        times.append(seconds(step, device))
    middle = statistics.median(times)
    peak = matrix_peak(device, torch.bfloat16, 512 if options.tiny else 8192)
    cell = {"batch": batch, "images_per_second": batch / middle, "seconds": middle, "first_step_s": first}
    cell |= {"memory_bytes": memory(device), "product_peak_flops": peak}
    return cell if flops is None else cell | {"flops": flops, "share_of_peak": flops / middle / peak}


def settings_of(name: str, batch: int, compiled: bool) -> GeneratorRecipe:
    """Of the recipe of that name; a test's preset has none."""
    settings = recipe(name).generator if name.startswith("d") else GeneratorRecipe(steps=1, optimizer="adamw")
    return dataclasses.replace(settings, batch=batch, repa_weight=0.0, compile=compiled, bfloat16=True)


def random_batch(config: NVGConfig, settings: GeneratorRecipe) -> Batch:
    """Cached tokens of nothing: costs do not depend on them. The labels of a last stage are any order of L numbers."""
    generator, size, splits = torch.Generator().manual_seed(0), settings.batch, config.splits
    stages = [torch.rand(size, count, generator=generator).argsort(1) for count in (splits + 1, splits - 1)]
    structure = min(settings.structure_stages, splits - 1)
    codes = config.autoencoder.codebook_size
    return Batch(
        classes=torch.arange(size) % config.generator.num_classes if config.generator else torch.zeros(size),
        content_stages=stages[0][:, : settings.content_stages],
        structure_stages=stages[1][:, :structure],
        noise=torch.randn(size, config.positions, splits, generator=generator),
        times=torch.rand(size, structure, generator=generator),
        finest=torch.rand(size, config.positions, generator=generator).argsort(1),
        codes=tuple(torch.randint(codes, (size, 2**stage), generator=generator) for stage in range(splits + 1)),
    )
