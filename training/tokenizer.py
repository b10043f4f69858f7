"""Training of the tokenizer: `python -m training tokenizer RECIPE` (paper sections 2.1 and 3.1).

Shapes: images [B,3,H,W] in [-1,1]; latent [B,L,C]; S stages.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import nvg_model
from nvg_model.tokenizer import Tokenizer
from training import checkpointing, distributed
from training.data.augmentation import plain_images
from training.data.dataset import ImageDataset
from training.data.tokenizer_batch import Source
from training.distributed import Shard, World
from training.errors import TrainingError
from training.files import replacing
from training.logging import describe_run
from training.loop import Phase, Task, train
from training.losses.adversarial import DiscriminatorObjective, Seen
from training.losses.autoencoder import TokenizerObjective, make_discriminator, seen_by_discriminator
from training.losses.reconstruction import psnr
from training.metrics.codes import CodeCounts
from training.optim import adamw, cosine, trained
from training.precision import with_precision
from training.recipes.base import Recipe, TokenizerRecipe
from training.run_folder import Identity, alone_in, open_run, weights_digest
from training.samples import reconstruction_sheet
from training.warm_start import (
    DECODER,
    WEIGHTS,
    tokenizer_weights,
)


def train_tokenizer(recipe: Recipe, data: Path | str, run: Path) -> Path:
    """Trains, or continues to train, the tokenizer of `recipe` on `data`/train in `run`/tokenizer.

    Returns:
        The file with the averaged weights. `report.json` beside it holds PSNR and code usage on the held-out set.
    """
    start = nvg_model.load(recipe.start, dtype=torch.float32).tokenizer.state_dict() if recipe.start else None
    return _train(recipe, recipe.tokenizer, data, run / "tokenizer", start)


def finish_decoder(recipe: Recipe, data: Path | str, run: Path) -> Path:
    """Trains, or continues to train, the decoder of the run's tokenizer with the tokenizer's losses, in `run`/decoder.

    Encoder and codes stay as they are, so a generator that is trained on them, before or after, stays valid.

    Returns:
        The file with the averaged weights of the whole tokenizer.
    Raises:
        TrainingError: the run has no finished tokenizer.
    """
    settings = dataclasses.replace(recipe.decoder, decoder_only=True)
    return _train(recipe, settings, data, run / DECODER, tokenizer_weights(run))


def _train(
    recipe: Recipe, settings: TokenizerRecipe, data: Path | str, folder: Path, start: dict[str, Tensor] | None
) -> Path:
    recipe, world = recipe.resolved(), distributed.start(settings.timeout)
    with alone_in(folder, world):
        return _train_in(folder, recipe, settings, data, start, world)


def _train_in(
    folder: Path,
    recipe: Recipe,
    settings: TokenizerRecipe,
    data: Path | str,
    start: dict[str, Tensor] | None,
    world: World,
) -> Path:
    settings = with_precision(settings, world)
    dataset = recipe.dataset(data, "train")
    path, part = folder / WEIGHTS, "decoder" if folder.name == DECODER else "tokenizer"
    ran = dataclasses.replace(getattr(recipe, part), bfloat16=settings.bfloat16)
    recipe = dataclasses.replace(recipe, **{part: ran})
    base = {} if start is None else {"tokenizer" if part == "decoder" else "start": weights_digest(start)}
    identity = Identity.of(dataset, data, recipe.start if part == "tokenizer" else "", base)
    opened = open_run(recipe, part, folder, identity, path, world)
    if opened.finished:
        return path
    held_out = recipe.dataset(data, "held-out", dataset.classes)
    if settings.separation_weight and settings.separation_by == "subject":
        require_transparency(dataset, data)
    describe_run(folder, recipe, world, data=str(data))
    tokenizer = new_tokenizer(recipe, start, world)
    phases, draw = training_phases(tokenizer, settings, world), Source(dataset, recipe, settings).draw
    task = reconstruction_task(phases, draw, tokenizer, held_out, opened.meta(recipe, identity), recipe.seed)
    task.validate = lambda: _numbers(evaluate_tokenizer(tokenizer, held_out))
    average = train(task, settings, folder, world)
    if world.first:
        checkpointing.write(path, tokenizer.state_dict() | _without_prefix(average.state_dict()))
        _report(tokenizer, path, held_out)
    world.wait()
    return path


def reconstruction_task(
    phases: list[Phase],
    draw: Callable[[int, Shard], Any],
    tokenizer: Tokenizer,
    held_out: ImageDataset,
    meta: dict[str, Any],
    seed: int,
) -> Task[Any]:
    """A training that shows held-out pictures and what becomes of them, and keeps the save with the best PSNR."""
    return Task(
        phases,
        draw,
        best=("largest", "psnr"),
        sample=lambda: {"reconstructions": reconstruction_sheet(tokenizer, held_out)},
        meta=meta,
        seed=seed,
    )


def _numbers(report: dict[str, Any]) -> dict[str, float]:
    """The numbers of a report that are logged."""
    return {name: report[name] for name in ("psnr", "codes_used")}


def new_tokenizer(recipe: Recipe, start: dict[str, Tensor] | None, world: World) -> Tokenizer:
    """The tokenizer before training: random weights of the recipe's seed, or those to start from."""
    torch.manual_seed(recipe.seed)
    tokenizer = Tokenizer(recipe.config).to(world.device)
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # three times faster on CPUs
    if start is not None:
        tokenizer.load_state_dict(start)
    return tokenizer


def require_transparency(dataset: ImageDataset, data: Path | str) -> None:
    """Raises TrainingError where the first pictures are opaque: they do not tell what their subject is."""
    some = torch.arange(min(64, len(dataset)))
    if int(dataset.load(some)[:, 3].min()) == 255:
        raise TrainingError(
            f"the first {len(some)} pictures of {data} have no transparency, by which `subject` tells subject from "
            "background; use --separation-by spread"
        )


def training_phases(tokenizer: Tokenizer, settings: TokenizerRecipe, world: World) -> list[Phase]:
    """The autoencoder's step, and the discriminator's where there is one; each with its own optimiser."""
    restart = settings.separation_start

    def schedule(step: int) -> float:
        if step < restart:
            return cosine(step, restart, settings.warmup)
        return cosine(step - restart, settings.steps - restart, settings.warmup)

    discriminator = make_discriminator(settings)
    objective = TokenizerObjective(tokenizer, settings, discriminator).to(world.device)
    phases = [
        Phase(
            objective, [adamw([{"params": trained(objective), "weight_decay": 0.0}], settings.learning_rate)], schedule
        )
    ]
    if discriminator is not None:
        phases.append(discriminator_phase(discriminator, settings, seen_by_discriminator, schedule, world))
    return phases


def discriminator_phase(
    discriminator: nn.Module, settings: TokenizerRecipe, seen: Seen, schedule: Callable[[int], float], world: World
) -> Phase:
    """The discriminator's step, with an optimiser of its own. `seen` takes its inputs from a batch."""
    objective = DiscriminatorObjective(discriminator, settings, seen, world).to(world.device)
    groups = [{"params": trained(objective), "weight_decay": settings.discriminator_weight_decay}]
    optimizer = adamw(groups, settings.discriminator_learning_rate)
    return Phase(objective, [optimizer], schedule, start=settings.adversarial_start)


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as in the tokenizer, from those in its objective."""
    return {name.removeprefix("tokenizer."): value for name, value in weights.items()}


def _report(tokenizer: Tokenizer, path: Path, held_out: ImageDataset) -> None:
    """Writes what the saved weights reach on the held-out pictures."""
    tokenizer.load_state_dict(checkpointing.read(path))
    report = evaluate_tokenizer(tokenizer, held_out)
    write_report(path.parent, report)
    print(f"tokenizer: {path}; held out: {json.dumps(report)}")


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """What a training reached, as report.json."""
    with replacing(folder / "report.json") as partial:
        partial.write_text(json.dumps(report, indent=1))


@torch.inference_mode()
def evaluate_tokenizer(tokenizer: Tokenizer, dataset: ImageDataset, batch: int = 64) -> dict[str, Any]:
    """Mean PSNR in decibels and, per stage, the share of codes used, on pictures over white."""
    tokenizer.eval()
    quantizer = tokenizer.quantizer
    values, codes = [], CodeCounts.empty(quantizer.num_stages, quantizer.num_codes)
    for start in tqdm(range(0, len(dataset), batch), "held-out pictures", leave=False, delay=2):
        images = plain_images(dataset, torch.arange(start, min(start + batch, len(dataset)))).to(quantizer.device)
        sequence = tokenizer.tokenize(images)
        values.append(psnr(tokenizer.decode(sequence.canvases[:, -1]), images).cpu())
        codes.add(sequence)
    return {
        "pictures": len(dataset),
        "psnr": round(float(torch.cat(values).mean()), 2),
        "codes_used": round(codes.used(), 4),
        "codes_used_per_stage": [round(share, 4) for share in codes.used_per_stage()],
    }
