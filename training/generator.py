"""Training of both generators: `python -m training generator RECIPE` (paper sections 2.2 and 3.1).

Shapes: B images, S = K+1 stages, L positions, C latent channels, R rows (one per image and stage trained in a step).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import nvg_model
from nvg_model.model import NVG
from training import checkpointing, distributed
from training.data.cache import fingerprint
from training.data.dataset import ImageDataset
from training.data.generator_batch import Source, assemble
from training.distributed import Shard, World
from training.logging import describe_run
from training.loop import Phase, Task, train
from training.losses.generators import GeneratorObjective
from training.optim import optimizers, warmup_stable_decay
from training.precision import with_precision
from training.recipes.base import GeneratorRecipe, Recipe
from training.run_folder import (
    Identity,
    alone_in,
    generator_folder,
    notice_other_data,
    open_run,
    weights_digest,
)
from training.samples import sample_sheets
from training.warm_start import (
    network_weights,
    saved_weights,
    starting_point,
    use_weights,
)

HELD_OUT_VIEWS, MOST_HELD_OUT = 8, 256  # of a held-out picture, and in all


HELD_OUT_PART = 32  # that are measured at once, to save memory


def train_generator(recipe: Recipe, data: Path | str, run: Path) -> Path:
    """Trains, or continues to train, the generators of `recipe` on the tokenizer of `run`.

    A network that is trained alone has a folder of its own (`generator_folder`), and starts from the run's training of
    both if there is one.

    Returns:
        The file with the averaged weights.
    """
    recipe, world = recipe.resolved(), distributed.start(recipe.generator.timeout)
    with alone_in(generator_folder(run, recipe.generator.networks), world):
        return _train(recipe, data, run, world)


def _train(recipe: Recipe, data: Path | str, run: Path, world: World) -> Path:
    settings = with_precision(recipe.generator, world)
    recipe, folder = dataclasses.replace(recipe, generator=settings), generator_folder(run, settings.networks)
    path = folder / "generator.pt"
    dataset = recipe.dataset(data, "train")
    held_out = recipe.dataset(data, "held-out", dataset.classes)
    torch.manual_seed(recipe.seed)  # the initial weights
    nvg = starting_point(recipe, run, dataset.classes).to(world.device)
    identity = identity_of(recipe, nvg, dataset, data)
    opened = open_run(recipe, "generator", folder, identity, path, world)
    if opened.finished:
        return path
    if not recipe.start:
        notice_other_data(run / "tokenizer", identity, world)
    describe_run(folder, recipe, world, classes=dataset.classes, data=str(data))
    source = Source.make(recipe, nvg, dataset, generator_folder(run), world, identity)
    objective = new_objective(recipe, nvg, source, run, world)
    task = Task(
        [Phase(objective, optimizers(objective, settings), schedule(settings))],
        source.draw,
        validate=held_out_loss(recipe, nvg, objective, held_out, world.first),
        sample=lambda: sample_sheets(nvg, recipe.sampling or nvg.settings),
        meta=opened.meta(recipe, identity),
        seed=recipe.seed,
    )
    average = train(task, settings, folder, world)
    state, averaged = checkpointing.module_state(objective), average.state_dict()  # where sharded, all take part
    if world.first:
        checkpointing.write(path, network_weights(state, averaged))
        print(f"generator: {path}")
    world.wait()
    return path


def new_objective(recipe: Recipe, nvg: NVG, source: Source, run: Path, world: World) -> GeneratorObjective:
    """The networks before training, in their loss: random, or as they come out of the training of both."""
    settings = recipe.generator
    both = None if recipe.start or settings.networks == "both" else checkpointing.latest(generator_folder(run))
    if both is not None:
        use_weights(nvg, saved_weights(both), ("content.", "structure."), run)
    elif not recipe.start:
        prepare(nvg, source, settings)
    objective = GeneratorObjective(nvg, settings)
    if settings.parallel == "fsdp":
        distributed.shard_parameters(objective, objective.blocks(), world)
    return objective


def make_cache(recipe: Recipe, data: Path | str, run: Path) -> None:
    """Tokenizes the views of a recipe into `run`/generator, where the training finds them."""
    recipe, world = recipe.resolved(), distributed.start(recipe.generator.timeout)
    dataset = recipe.dataset(data, "train")
    nvg = starting_point(recipe, run, dataset.classes)
    identity = identity_of(recipe, nvg, dataset, data)
    Source.make(recipe, nvg.to(world.device), dataset, generator_folder(run), world, identity)


def identity_of(recipe: Recipe, nvg: NVG, dataset: ImageDataset, data: Path | str) -> Identity:
    """What must stay the same when a training of the generators continues."""
    weights = {"tokenizer": fingerprint(nvg.tokenizer)}
    if recipe.start:
        weights["start"] = weights_digest(nvg_model.load(recipe.start).state_dict())
    return Identity.of(dataset, data, recipe.start, weights)


def schedule(settings: GeneratorRecipe) -> Callable[[int], float]:
    """WSD."""
    return lambda step: warmup_stable_decay(
        step,
        settings.steps,
        settings.warmup,
        settings.decay,
        settings.final_rate,
        settings.warmup_start,
        settings.decay_after_warmup,
    )


@torch.no_grad()
def prepare(nvg: NVG, source: Source, settings: GeneratorRecipe) -> None:
    """Measures the canvases' scales before training. With our own initialisation it also sets the code head."""
    whole = dataclasses.replace(source, settings=dataclasses.replace(settings, batch=512))
    stages = assemble(whole.draw(0, Shard()).to(nvg.device), nvg.tokenizer)
    nvg.content.canvas_scales[0] = 1.0
    nvg.content.canvas_scales[1:] = 1 / stages.canvases.std(dim=(0, 2, 3))
    if settings.initialisation != "normal":
        return
    # The nearest code is a little likelier from the start. Sharper scores would punish the first, wrong predictions:
    # on emoji64 a sharpness of 0.1 starts at 6.5 nats, of 1 at 20.
    weight, bias = nvg.tokenizer.quantizer.prior(sharpness=0.1)
    nvg.content.code_head.weight.copy_(weight)
    nvg.content.code_head.bias.copy_(bias)


def held_out_loss(
    recipe: Recipe, nvg: NVG, objective: nn.Module, held_out: ImageDataset, first: bool = True
) -> Callable[[], dict[str, float]]:
    """Measures the loss on views of held-out pictures, always the same and with the same noise: eight of every picture,
    but no more than 256."""
    batch = min(HELD_OUT_VIEWS * len(held_out), MOST_HELD_OUT)
    parts = -(-batch // HELD_OUT_PART)
    settings = dataclasses.replace(
        recipe.generator,
        batch=-(-batch // parts) * parts,
        label_dropout=0.0,
        token_noise=0.0,
        own_tokens=0.0,
        cached_views=0,
        content_stages=99,
        structure_stages=99,
    )
    source = Source(settings, recipe, nvg.config, held_out, None)

    def measure() -> dict[str, float]:
        values: dict[str, float] = {}
        for part in tqdm(range(parts), "held-out pictures", leave=False, delay=2, disable=not first):
            loss, others = objective(source.draw(0, Shard(part, parts)), 0)
            for name, value in {"loss": loss, **others}.items():
                values[name] = values.get(name, 0.0) + float(value) / parts
        return values

    return measure
