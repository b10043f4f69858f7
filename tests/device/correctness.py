"""Whether the device computes what a CPU does: our frozen numbers, and the shipped checkpoint on both.

Shapes: B batch, L positions, C latent channels, K splits.
"""

from __future__ import annotations

import copy
import dataclasses

import test_regression as regression
import torch
from results import Cell, Options, Results, use_tf32
from safetensors.torch import load_file
from torch import Tensor
from training_step import random_batch

import nvg_model
from nvg_model import NVG
from nvg_model.cli.bench import random_model
from training.losses.generators import GeneratorObjective
from training.recipes.base import GeneratorRecipe

LIMITS = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 5e-2}
"""Largest error of the networks' results, relative to their largest value."""
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}


def measure(options: Options, results: Results) -> None:
    """All checks."""
    use_tf32(False)
    results.measure("frozen numbers of the tiny model", frozen_numbers, options.device)
    count = 2 if options.tiny else 34
    on_cpu = nvg_model.load("emoji64")
    if options.tiny:
        on_cpu.settings = dataclasses.replace(on_cpu.settings, structure_steps=1)
    there = copy.deepcopy(on_cpu).to(options.device)
    results.measure("emoji64 drawn as on the CPU", drawn_alike, on_cpu, there, count)
    results.measure("emoji64 tokenized as on the CPU", tokenized_alike, on_cpu, there, count)
    results.measure("a picture alone as in a batch", alone_as_in_a_batch, there)
    preset = "tiny" if options.tiny else "d12"
    for precision in LIMITS:
        results.measure(f"{preset} networks in {precision}", networks_alike, preset, options.device, precision)
    results.measure("gradients of a training step", gradients_alike, options.device)
    if options.device.type == "cuda":
        results.measure("emoji64 compiled draws the same", compiled_alike, there, count)


def frozen_numbers(device: torch.device) -> Cell:
    """tests/nvg_model/regression.safetensors, which a CPU wrote."""
    found = regression.compute(regression.model_of_numbers().to(device))
    wanted = load_file(regression.FILE)
    wrong = [
        name
        for name, value in wanted.items()
        if not value.is_floating_point() and not torch.equal(regression.compact(found[name].cpu()), value)
    ]
    error = max(
        float((found[name].cpu() - value).abs().max()) for name, value in wanted.items() if value.is_floating_point()
    )
    return {"passed": not wrong and error <= 1e-3, "other_labels_or_tokens": wrong, "largest_error": error}


def drawn_alike(on_cpu: NVG, there: NVG, count: int) -> Cell:
    """Pictures of all classes by one seed. Rounding may decide between two tokens that are as likely: of 20 pictures
    one may differ."""
    classes = [index % len(on_cpu.classes) for index in range(count)]
    wanted, found = on_cpu.generate(classes, 7), there.generate(classes, 7).to("cpu")
    same = (wanted.tokens == found.tokens).flatten(1).all(1)
    difference = (on_cpu.decode(wanted)[same] - there.decode(found).cpu()[same]).abs()
    largest = float(difference.max()) if same.any() else None
    return {
        "passed": float(same.double().mean()) >= 0.95 and largest is not None and largest <= 1e-3,
        "pictures": count,
        "with_equal_tokens": int(same.sum()),
        "equal_labels": share(wanted.structure, found.structure),
        "largest_pixel_error": largest,
    }


def tokenized_alike(on_cpu: NVG, there: NVG, count: int) -> Cell:
    """The clustering on a GPU goes another way to the same pairs."""
    images = on_cpu.decode(on_cpu.generate([index % len(on_cpu.classes) for index in range(count)], 8))
    wanted, found = on_cpu.tokenize(images), there.tokenize(images).to("cpu")
    labels, tokens = share(wanted.structure, found.structure), share(wanted.tokens, found.tokens)
    return {"passed": labels >= 0.99 and tokens >= 0.98, "equal_labels": labels, "equal_tokens": tokens}


def alone_as_in_a_batch(there: NVG) -> Cell:
    """Item 1 of a batch of 2, and the same alone."""
    batch = there.generate([0, 3], 5)
    alone = there.generate([3], 5, first_item=1)
    equal = share(batch.tokens[1:], alone.tokens)
    return {"passed": equal == 1.0, "equal_tokens": equal}


def networks_alike(preset: str, device: torch.device, precision: str) -> Cell:
    """One pass of both networks, random weights, against float32 on the CPU."""
    use_tf32(precision == "tf32")
    try:
        wanted = passes(random_model(nvg_model.preset(preset)))
        found = passes(random_model(nvg_model.preset(preset)).to(device, DTYPES[precision]))
    finally:
        use_tf32(False)
    errors = {name: relative_error(found[name].cpu(), value) for name, value in wanted.items()}
    return {"passed": max(errors.values()) <= LIMITS[precision], "errors": errors}


@torch.no_grad()
def passes(nvg: NVG) -> dict[str, Tensor]:
    """Velocity, predicted canvas and scores of two images at the middle stage."""
    generator, config, stage = torch.Generator().manual_seed(0), nvg.config, nvg.config.splits // 2
    shape = 2, config.positions
    labels = torch.arange(config.positions).expand(shape).contiguous() >> (config.splits - stage)
    canvas = torch.randn(*shape, config.autoencoder.latent_channels, generator=generator)
    z = torch.randn(*shape, config.splits, generator=generator)
    classes = torch.tensor([0, 1])
    z, canvas, labels, classes = (value.to(nvg.device) for value in (z, canvas, labels, classes))
    final, logits = nvg.content.predict(canvas, labels, classes, stage)
    velocity = nvg.structure.velocity(z, 0.6, canvas, labels, classes, stage)
    return {"velocity": velocity, "final canvas": final, "scores": logits}


def gradients_alike(device: torch.device) -> Cell:
    """Of the tiny model's loss, without bfloat16."""
    settings = GeneratorRecipe(steps=1, batch=4)

    def gradients(where: torch.device) -> dict[str, Tensor]:
        nvg = regression.model_of_numbers().to(where)
        objective = GeneratorObjective(nvg, settings).train()
        objective.requires_grad_(True)
        loss, _ = objective(random_batch(nvg.config, settings), 0)
        loss.backward()
        return {name: one.grad.cpu() for name, one in objective.named_parameters() if one.grad is not None}

    wanted, found = gradients(torch.device("cpu")), gradients(device)
    error = max(relative_error(found[name], value) for name, value in wanted.items() if value.abs().max() > 1e-6)
    return {"passed": error <= 1e-3 and found.keys() == wanted.keys(), "largest_error": error}


def compiled_alike(there: NVG, count: int) -> Cell:
    """`compile` may round otherwise; of 20 pictures one may differ."""
    classes = [index % len(there.classes) for index in range(count)]
    wanted = there.generate(classes, 7)
    compiled = copy.deepcopy(there)
    compiled.compile()
    found = compiled.generate(classes, 7)
    same = float((wanted.tokens == found.tokens).flatten(1).all(1).double().mean())
    return {"passed": same >= 0.95, "pictures_with_equal_tokens": same}


def share(one: Tensor, other: Tensor) -> float:
    """Of equal values."""
    return float((one == other).double().mean())


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())
