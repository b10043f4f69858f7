"""How long a recipe's training steps take on a GPU, estimated: `python tests/benchmarks/roofline.py [RECIPE DATA]`.

Every operation of a real step (forward, backward, optimiser; a small batch, on the CPU) is counted: its arithmetic, the
bytes it reads and writes, and one launch. Arithmetic and bytes grow with the batch, launches do not. A step takes as
long as its operations, each by the slower of arithmetic and memory, or as all launches, whichever is longer.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from nvg_model.model import NVG
from nvg_model.tokenizer import Tokenizer
from training import decoder
from training.data.decoder_batch import Batch as DecoderBatch
from training.data.generator_batch import Source as GeneratorSource
from training.data.tokenizer_batch import Source as TokenizerSource
from training.distributed import Shard, World
from training.loop import Phase
from training.losses.decoder import DecoderObjective
from training.losses.generators import GeneratorObjective
from training.optim import optimizers
from training.recipes import recipe
from training.recipes.base import Recipe
from training.tokenizer import training_phases

PRODUCTS = {"mm": 350e12, "convolution": 100e12}
"""Operations a second in bfloat16: half of what large products reach (798, measured), and an eighth for convolutions
of few channels."""
BANDWIDTH = 2.4e12
"""Bytes a second: four fifths of what copies reach (3.0, measured)."""
LAUNCH = 9e-6
"""Seconds of Python and launch an operation."""
BATCH = 4


class Count(TorchDispatchMode):
    """Seconds of the device for the counted operations at their batch, and how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self.flops, self.launches = 0.0, 0, 0

    def subtract(self, other: Count) -> None:
        """Leaves a part out."""
        self.seconds, self.flops = self.seconds - other.seconds, self.flops - other.flops
        self.launches -= other.launches

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = call(*args, **(kwargs or {}))
        if call.is_view or call.namespace != "aten":
            return result
        tensors = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor)]
        size = sum(one.numel() * one.element_size() for one in tensors)
        packet, flops = call.overloadpacket, 0
        if packet in flop_registry:
            flops = flop_registry[packet](*args, **(kwargs or {}), out_val=result)
        kind = "convolution" if "conv" in str(packet) else "mm"
        self.seconds += max(flops / PRODUCTS[kind], size / BANDWIDTH)
        self.flops, self.launches = self.flops + flops, self.launches + 1
        return result


def counted(step: Callable[[], object]) -> Count:
    """What a call does; the second one, after whatever is made once."""
    step()
    with Count() as count:
        step()
    return count


def step_of(phases: list[Phase], batch: Callable[[], Any], step: int) -> tuple[Count, Count]:
    """Counts of a training step: of what grows with the batch, and of the optimiser."""

    def losses() -> None:
        drawn = batch()
        for phase in phases:
            if step >= phase.start:
                phase.objective(drawn, step)[0].backward()

    def optimise() -> None:
        for phase in phases:
            torch.nn.utils.clip_grad_norm_(phase.objective.parameters(), 1.0)
            for optimizer in phase.optimizers:
                optimizer.step()

    return counted(losses), counted(optimise)


def tokenizer_step(chosen: Recipe, data: Path) -> tuple[Count, Count]:
    """Of the recipe's tokenizer."""
    source = TokenizerSource(chosen.dataset(data, "train"), chosen, chosen.tokenizer)
    tokenizer = Tokenizer(chosen.config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return step_of(training_phases(tokenizer, chosen.tokenizer, World()), lambda: source.draw(0, Shard()), 10**6)


def generator_step(chosen: Recipe, data: Path) -> tuple[Count, Count]:
    """Of the recipe's generators, on cached tokens."""
    dataset, nvg = chosen.dataset(data, "train"), NVG(chosen.config)
    nvg.tokenizer.requires_grad_(False)
    nvg.tokenizer.quantizer.spread()
    objective = GeneratorObjective(nvg, chosen.generator).train()
    source = GeneratorSource(chosen.generator, chosen, chosen.config, dataset, None)
    phase = Phase(objective, optimizers(objective, chosen.generator), lambda _: 1.0)
    batch = source.draw(0, Shard())
    grows, fixed = step_of([phase], lambda: batch, 0)
    with torch.no_grad():
        grows.subtract(counted(lambda: nvg.tokenize(batch.images)))
    return grows, fixed


def decoder_step(chosen: Recipe, data: Path) -> tuple[Count, Count]:
    """Of the recipe's decoder."""
    settings = chosen.decoder
    before = NVG(dataclasses.replace(chosen.config, generator=None))
    config = decoder.with_output(before.config, settings)
    objective = DecoderObjective(decoder.new_tokenizer(before, config), settings)
    shape = BATCH, config.positions, config.autoencoder.latent_channels
    pixels, colours = torch.rand(BATCH, 4, *config.output_size), torch.rand(BATCH, 3)

    def batch() -> DecoderBatch:
        return DecoderBatch(torch.randn(shape), pixels, colours, colours, torch.rand(BATCH, 5, 7), ())

    return step_of(decoder.training_phases(objective, settings, World()), batch, 0)


def main(name: str = "emoji128", data: str = "~/nvg-data/emoji128") -> None:
    """Prints the table of docs/training.md."""
    chosen, small = recipe(name), {}
    for part in ("tokenizer", "generator", "decoder"):
        small[part] = dataclasses.replace(getattr(chosen, part), batch=BATCH)
    reduced = dataclasses.replace(chosen, **small)
    print("| part | batch | operations an image | launches | launching | computing | of 989 TFLOP/s |")
    print("|---|---|---|---|---|---|---|")
    for part, measure in (("tokenizer", tokenizer_step), ("generator", generator_step), ("decoder", decoder_step)):
        batch = getattr(chosen, part).batch
        grows, fixed = measure(reduced, Path(data).expanduser())
        computing = grows.seconds * batch / BATCH + fixed.seconds
        launches = grows.launches + fixed.launches
        share = grows.flops * batch / BATCH / max(computing, launches * LAUNCH) / 989e12
        print(
            f"| {part} | {batch} | {grows.flops / BATCH / 1e9:.1f} G | {launches} | "
            f"{1000 * launches * LAUNCH:.0f} ms | {1000 * computing:.0f} ms | {share:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
