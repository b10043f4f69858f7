"""Training of a decoder on the canvases of a finished tokenizer: `python -m training decoder RECIPE`.

Encoder, codes and generators stay as they are and stay valid: a decoder may have more channels than the tokenizer's
own, larger pictures and opacity.
Shapes: B images.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
import torch.nn.functional as F

import nvg_model
from nvg_model import preview
from nvg_model.config import NVGConfig
from nvg_model.model import NVG
from nvg_model.tokenizer import Tokenizer
from training import checkpointing, distributed
from training.data.augmentation import plain_images
from training.data.dataset import ImageDataset, open_dataset
from training.data.decoder_batch import Source
from training.distributed import World
from training.logging import describe_run
from training.loop import Phase, train
from training.losses.autoencoder import make_discriminator
from training.losses.decoder import DecoderObjective, seen_by_discriminator
from training.losses.reconstruction import psnr
from training.optim import adamw, cosine, trained
from training.precision import with_precision
from training.recipes.base import FINISH, DecoderRecipe, Recipe
from training.run_folder import Identity, alone_in, open_run, weights_digest
from training.tokenizer import discriminator_phase, reconstruction_task, write_report
from training.warm_start import (
    DECODER,
    WEIGHTS,
    has_trained_generator,
    tokenizer_weights,
    trained_generator,
    widened,
)


def train_decoder(recipe: Recipe, data: Path | str, run: Path) -> Path:
    """Trains, or continues to train, a decoder for the run's finished tokenizer or for a checkpoint, in `run`/decoder.

    Returns:
        The file with the averaged weights of the whole tokenizer; for a checkpoint to start from, that checkpoint with
        the new decoder.
    Raises:
        TrainingError: the run has no finished tokenizer, or something that the settings need.
    """
    world = distributed.start(recipe.decoder.timeout)
    with alone_in(run / DECODER, world):
        return _train(recipe, data, run / DECODER, starting_model(recipe, run), world)


def _train(recipe: Recipe, data: Path | str, folder: Path, before: NVG, world: World) -> Path:
    settings = with_precision(recipe.decoder, world)
    recipe = dataclasses.replace(recipe, decoder=settings)
    config = with_output(before.config, settings)
    dataset = _pictures(recipe, data, "train", config, before.classes)
    held_out = _pictures(recipe, data, "held-out", config, dataset.classes)
    base = weights_digest(before.tokenizer.state_dict())
    identity = Identity.of(dataset, data, recipe.start, {"start" if recipe.start else "tokenizer": base})
    path = folder / (f"{recipe.name}.safetensors" if recipe.start else WEIGHTS)
    opened = open_run(recipe, "decoder", folder, identity, path, world)
    if opened.finished:
        return path
    describe_run(folder, recipe, world, data=str(data))
    source = Source.make(before.to(world.device), dataset, recipe, settings, folder)
    torch.manual_seed(recipe.seed)
    tokenizer = new_tokenizer(before.cpu(), config).to(world.device)
    objective = DecoderObjective(tokenizer, settings).to(world.device)
    phases = training_phases(objective, settings, world)
    task = reconstruction_task(phases, source.draw, tokenizer, held_out, opened.meta(recipe, identity), recipe.seed)
    task.validate = lambda: {"psnr": held_out_psnr(tokenizer, held_out)}
    average = train(task, settings, folder, world)
    if world.first:
        with average.applied():
            path = _write(before, tokenizer, config, recipe, folder)
            report = {"pictures": len(held_out), "psnr": round(held_out_psnr(tokenizer, held_out), 2)}
        write_report(folder, report)
        print(f"decoder: {path}; held out: {json.dumps(report)}")
    world.wait()
    return path


def starting_model(recipe: Recipe, run: Path) -> NVG:
    """The checkpoint to start from, or the run's tokenizer with its generators, as far as they are trained."""
    if recipe.start:
        return nvg_model.load(recipe.start, dtype=torch.float32)
    if has_trained_generator(run):
        nvg, _ = trained_generator(recipe, run)
        nvg.settings = recipe.sampling or nvg.settings
        return nvg.eval().requires_grad_(False)
    nvg = NVG(dataclasses.replace(recipe.config, generator=None))
    nvg.tokenizer.load_state_dict(tokenizer_weights(run))
    return nvg.eval().requires_grad_(False)


def with_trained_decoder(model: NVG, run: Path) -> NVG:
    """The model, or one with a decoder of the sizes that the run has trained; its weights are not loaded yet."""
    state = checkpointing.latest(run / DECODER)
    known = {one.name for one in dataclasses.fields(DecoderRecipe)}
    saved = state["meta"]["recipe"]["decoder"] if state is not None else {}
    settings = dataclasses.replace(FINISH, **{name: value for name, value in saved.items() if name in known})
    config = with_output(model.config, dataclasses.replace(settings, decoder_channels=tuple(settings.decoder_channels)))
    if state is None or config == model.config:
        return model
    other = NVG(config, model.classes, model.settings)
    weights = {name: one for name, one in model.state_dict().items() if not name.startswith("tokenizer.decoder.")}
    other.load_state_dict(weights, strict=False)
    return other


def with_output(config: NVGConfig, settings: DecoderRecipe) -> NVGConfig:
    """The configuration with the pictures and channels of the new decoder."""
    autoencoder = dataclasses.replace(
        config.autoencoder,
        output_channels=settings.output_channels,
        output_scale=settings.output_scale,
        decoder_channels=settings.decoder_channels or config.autoencoder.decoder_channels,
    )
    return dataclasses.replace(config, autoencoder=autoencoder)


def new_tokenizer(before: NVG, config: NVGConfig) -> Tokenizer:
    """The tokenizer of `before` with a decoder of `config`; nothing else is trained.

    It starts from what that one's decoder has learnt, where it has the same blocks and no channels fewer; else anew.
    """
    tokenizer = Tokenizer(config)
    tokenizer.encoder.load_state_dict(before.tokenizer.encoder.state_dict())
    tokenizer.quantizer.load_state_dict(before.tokenizer.quantizer.state_dict())
    weights = widened(before.tokenizer.decoder.state_dict(), tokenizer.decoder, config.autoencoder.norm_groups)
    if weights is not None:
        tokenizer.decoder.load_state_dict(weights)
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tokenizer.requires_grad_(False)
    tokenizer.decoder.requires_grad_(True)
    return tokenizer


def _pictures(
    recipe: Recipe, data: Path | str, split: str, config: NVGConfig, classes: tuple[str, ...]
) -> ImageDataset:
    wanted = classes or recipe.classes or None
    return open_dataset(data, config.output_size, wanted, split, margin=recipe.views.margin)  # type: ignore[arg-type]


def training_phases(objective: DecoderObjective, settings: DecoderRecipe, world: World) -> list[Phase]:
    """The decoder's step, and the discriminator's where there is one."""

    def schedule(step: int) -> float:
        return cosine(step, settings.steps, settings.warmup)

    groups = [{"params": trained(objective), "weight_decay": 0.0}]
    phases = [Phase(objective, [adamw(groups, settings.learning_rate)], schedule)]
    discriminator = make_discriminator(settings)
    if discriminator is not None:
        objective.set_discriminator(discriminator)
        phases.append(discriminator_phase(discriminator, settings, seen_by_discriminator, schedule, world))
    return phases


@torch.inference_mode()
def held_out_psnr(tokenizer: Tokenizer, dataset: ImageDataset, batch: int = 64) -> float:
    """Mean PSNR in decibels on pictures over white, at the size of the pictures that are encoded."""
    tokenizer.eval()
    values = []
    for start in range(0, len(dataset), batch):
        images = plain_images(dataset, torch.arange(start, min(start + batch, len(dataset))))
        images = images.to(tokenizer.quantizer.device)
        output = tokenizer.decode(tokenizer.tokenize(images).canvases[:, -1])
        size = tokenizer.image_size
        pair = (F.interpolate(one, size, mode="area") for one in (output, images))
        values.append(psnr(*pair).cpu())
    return float(torch.cat(values).mean())


def _write(before: NVG, tokenizer: Tokenizer, config: NVGConfig, recipe: Recipe, folder: Path) -> Path:
    """The tokenizer's weights; for a checkpoint to start from, the checkpoint with them."""
    checkpointing.write(folder / WEIGHTS, tokenizer.state_dict())
    if not recipe.start:
        return folder / WEIGHTS
    model = NVG(config, before.classes, before.settings)
    model.load_state_dict(
        before.state_dict() | {f"tokenizer.{name}": one for name, one in tokenizer.state_dict().items()}
    )
    model.preview_map = preview.fit(model.tokenizer, torch.float16)
    commands = [*before.provenance.get("commands", ()), f"python -m training decoder {recipe.name}"]
    provenance = before.provenance | {"decoder": dataclasses.asdict(recipe.decoder), "commands": commands}
    return nvg_model.save(model, folder / f"{recipe.name}.safetensors", provenance, dtype=torch.float16)
