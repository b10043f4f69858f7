"""Images per second of the generators' training step, against a plain loop that does the same work.

`python tests/benchmarks/training_step.py [--preset emoji64] [--batch 16] [--stages 3 2] [--bfloat16]`

In between, as `own`, ours with tokens that the content generator draws itself (`--own-tokens 0.8`).
The plain loop has these too; it tokenizes the images in every step and goes through the stages one after the other;
ours reads cached tokens and computes all rows of a step in one batch. All train the same stages of the same pictures
with the same optimisers. They take turns in one process, so the ratios hold on a busy machine as well.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import torch

from nvg_model.cli.bench import random_model
from nvg_model.config import preset
from nvg_model.hierarchy import all_stages
from nvg_model.model import NVG
from training.cpu.allocator import keep_freed_memory
from training.cpu.attention import use_plain_attention
from training.data.generator_batch import Batch, assemble
from training.losses.generators import GeneratorObjective
from training.optim import optimizers
from training.recipes.base import GeneratorRecipe


def make_batch(nvg: NVG, settings: GeneratorRecipe) -> Batch:
    """Random images and the tokens of the same."""
    size, splits = settings.batch, nvg.config.splits
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size, 3, *nvg.config.image_size, generator=generator) * 2 - 1
    sequence = nvg.tokenizer.tokenize(images)
    stages = [torch.rand(size, count, generator=generator).argsort(1) for count in (splits + 1, splits - 1)]
    return Batch(
        classes=torch.zeros(size, dtype=torch.long),
        content_stages=stages[0][:, : settings.content_stages],
        structure_stages=stages[1][:, : settings.structure_stages],
        noise=torch.randn(size, nvg.config.positions, splits, generator=generator),
        times=torch.rand(size, settings.structure_stages, generator=generator),
        finest=sequence.structure[:, -1],
        codes=tuple(sequence.cluster_tokens(stage) for stage in range(splits + 1)),
        images=images,
    )


def with_own_tokens(batch: Batch, splits: int, share: float = 0.8) -> Batch:
    """The batch with tokens to draw, for a share of its images from the middle stage or a later one on."""
    middle = splits // 2
    start = middle + torch.arange(len(batch.classes)) % (splits - middle)
    start[round(share * len(start)) :] = splits
    return dataclasses.replace(batch, start=start, chance=torch.rand(len(start), 2 ** (splits + 1) - 1))


def plain_parts(batch: Batch, tokens: Batch) -> list[Batch]:
    """One batch for every trained stage, as a loop over stages has them."""
    parts = []
    for index in range(batch.content_stages.shape[1]):
        structure = min(index, batch.structure_stages.shape[1] - 1)
        parts.append(
            dataclasses.replace(
                tokens,
                content_stages=batch.content_stages[:, index : index + 1],
                structure_stages=batch.structure_stages[:, structure : structure + 1],
                times=batch.times[:, structure : structure + 1],
            )
        )
    return parts


def step(objective: GeneratorObjective, optimisers: list[torch.optim.Optimizer], parts: list[Batch]) -> None:
    """One training step over the parts of a batch."""
    for optimizer in optimisers:
        optimizer.zero_grad()
    for part in parts:
        (objective(part, 0)[0] / len(parts)).backward()
    for optimizer in optimisers:
        optimizer.step()


def plain_step(nvg: NVG, objective: GeneratorObjective, optimisers: list[torch.optim.Optimizer], batch: Batch) -> None:
    """Tokenizes, then goes through the stages; a stage of structure only as often as ours trains one."""
    stages = assemble(dataclasses.replace(batch, finest=None, codes=()), nvg.tokenizer)
    tokens = dataclasses.replace(batch, finest=stages.structure[:, -1], codes=stages.codes)
    assert torch.equal(all_stages(tokens.finest), stages.structure)
    for optimizer in optimisers:
        optimizer.zero_grad()
    networks = objective.settings
    for index, part in enumerate(plain_parts(batch, tokens)):
        both = index < batch.structure_stages.shape[1]
        objective.settings = dataclasses.replace(networks, networks="both" if both else "content")
        objective(part, 0)[0].backward()
    objective.settings = networks
    for optimizer in optimisers:
        optimizer.step()


def seconds(call: Callable[[], None]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Prints one row of the table in docs/training.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="emoji64")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--stages", type=int, nargs=2, default=(3, 2), metavar=("CONTENT", "STRUCTURE"))
    parser.add_argument("--bfloat16", action="store_true", help="autocast, as the recipe emoji64 has it")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    settings = GeneratorRecipe(
        steps=1,
        batch=options.batch,
        content_stages=options.stages[0],
        structure_stages=options.stages[1],
        bfloat16=options.bfloat16,
    )
    keep_freed_memory()  # as training does; the plain loop gains by it as well
    nvg = random_model(preset(options.preset))
    nvg.tokenizer.requires_grad_(False)
    objective = GeneratorObjective(nvg, settings).train()
    use_plain_attention(objective)
    optimisers = optimizers(objective, settings)
    batch = make_batch(nvg, settings)
    cached = dataclasses.replace(batch, images=None)
    drawn = with_own_tokens(cached, nvg.config.splits)
    calls: dict[str, Callable[[], None]] = {
        "ours": lambda: step(objective, optimisers, [cached]),
        "own": lambda: step(objective, optimisers, [drawn]),
        "plain": lambda: plain_step(nvg, objective, optimisers, batch),
    }
    runs: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(options.repeats + 1):  # the first one warms up
        for name, call in calls.items():
            took = seconds(call)
            if repeat:
                runs[name].append(options.batch / took)
    ours, *others = (statistics.median(one) for one in runs.values())
    cells = [f"{rate:.1f}" for rate in (ours, *others)] + [f"{ours / other:.2f}" for other in others]
    print(f"| {options.batch} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
