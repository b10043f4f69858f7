"""Training of both generators: `python -m training generator RECIPE` (paper sections 2.2 and 3.1).

Shapes: B images, S = K+1 stages, L positions, C latent channels, R rows (one per image and stage trained in a step).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import nvg_model
from nvg_model import hierarchy
from nvg_model.config import NVGConfig
from nvg_model.content import ContentGenerator
from nvg_model.model import NVG
from nvg_model.sampling import filter_logits, top_p_schedule
from nvg_model.structure_flow import StructureGenerator, known_channels
from nvg_model.tokenizer import Tokenizer
from training import checkpointing, distributed, initialisation, lora
from training.data.augmentation import draw_augmented, draw_balanced, draw_epochs, stream
from training.data.cache import TokenCache, fingerprint, load_or_make
from training.data.dataset import ImageDataset
from training.depth import deepened, with_depths
from training.distributed import Shard, World
from training.errors import TrainingError
from training.logging import describe_run
from training.loop import LoopSettings, Phase, Task, train
from training.losses.repa import Repa, make_repa
from training.optim import adamw, muon, warmup_stable_decay
from training.precision import with_precision
from training.recipes.base import GeneratorRecipe, Recipe
from training.run_folder import CACHE, Identity, alone_in, claim, notice_other_data, open_run, weights_digest
from training.samples import sample_sheets
from training.tokenizer import tokenizer_weights

VIEWS_EACH, MOST_VIEWS = 32, 24_000  # that are cached of a picture, and of a set, unless a recipe says otherwise
HELD_OUT_VIEWS, MOST_HELD_OUT = 8, 256  # of a held-out picture, and in all
HELD_OUT_PART = 32  # that are measured at once, to save memory


@dataclass(frozen=True)
class Batch:
    """A share of a step's images, with all the random choices of the step."""

    classes: Tensor
    """long [B], some of them dropped to the null class."""
    content_stages: Tensor
    """long [B,n]: the stages of the content generator that are trained."""
    structure_stages: Tensor
    """long [B,m]: the splits of the structure generator that are trained."""
    noise: Tensor
    """float [B,L,K], one for all splits of an image."""
    times: Tensor
    """float [B,m] in (0, 1)."""
    finest: Tensor | None = None
    """long [B,L]: labels of the last stage, from the cache; None when the images are tokenized in the step."""
    codes: tuple[Tensor, ...] = ()
    """long [B,2^i] of each stage, from the cache."""
    images: Tensor | None = None
    """float [B,3,H,W] in [-1,1]."""
    canvas_noise: Tensor | None = None
    """float [B,L,C], for a content generator that sees noised canvases."""
    wrong: Tensor | None = None
    """bool [B,2^S-1]: the tokens, of all stages one after the other, that are exchanged for wrong ones."""
    start: Tensor | None = None
    """long [B]: the stage from which on the content generator draws the tokens of what is seen itself."""
    chance: Tensor | None = None
    """float [B,2^S-1] in [0,1): which tokens it draws."""
    names: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """With all tensors there."""

        def moved(value: object) -> object:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            return tuple(moved(one) for one in value) if isinstance(value, tuple) else value

        return Batch(**{field.name: moved(getattr(self, field.name)) for field in dataclasses.fields(self)})  # type: ignore[arg-type]


def train_generator(recipe: Recipe, data: Path | str, run: Path) -> Path:
    """Trains, or goes on training, the generators of `recipe` on the tokenizer of `run`.

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
    both = None if recipe.start or settings.networks == "both" else checkpointing.latest(generator_folder(run))
    if both is not None:
        use_weights(nvg, saved_weights(both), ("content.", "structure."), run)
    elif not recipe.start:
        prepare(nvg, source, settings)
    objective = GeneratorObjective(nvg, settings)
    if settings.parallel == "fsdp":
        distributed.shard_parameters(objective, objective.blocks(), world)
    average = train(
        Task(
            [Phase(objective, optimizers(objective, settings), schedule(settings))],
            source.draw,
            names=lambda batch: batch.names,
            validate=held_out_loss(recipe, nvg, objective, held_out, world.first),
            sample=lambda: sample_sheets(nvg, recipe.sampling or nvg.settings),
            meta=opened.meta(recipe, identity),
        ),
        LoopSettings.of(settings, recipe.seed),
        folder,
        world,
    )
    state, averaged = checkpointing.module_state(objective), average.state_dict()  # where sharded, all take part
    if world.first:
        checkpointing.write(path, network_weights(state, averaged))
        print(f"generator: {path}")
    world.wait()
    return path


def make_cache(recipe: Recipe, data: Path | str, run: Path) -> None:
    """Tokenizes the views of a recipe into `run`/generator, where the training finds them."""
    recipe, world = recipe.resolved(), distributed.start(recipe.generator.timeout)
    dataset = recipe.dataset(data, "train")
    nvg = starting_point(recipe, run, dataset.classes)
    identity = identity_of(recipe, nvg, dataset, data)
    Source.make(recipe, nvg.to(world.device), dataset, generator_folder(run), world, identity)


def identity_of(recipe: Recipe, nvg: NVG, dataset: ImageDataset, data: Path | str) -> Identity:
    """What a training of the generators may not change while it goes on."""
    weights = {"tokenizer": fingerprint(nvg.tokenizer)}
    if recipe.start:
        weights["start"] = weights_digest(nvg_model.load(recipe.start).state_dict())
    return Identity.of(dataset, data, recipe.start, weights)


def generator_folder(run: Path, networks: str = "both") -> Path:
    """Where the training of these networks keeps its saves; that of both has the token cache of all."""
    return run / ("generator" if networks == "both" else f"generator-{networks}")


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


def network_weights(state: dict[str, Tensor], average: dict[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights of both generators, named as in NVG, from the saved state of an objective."""
    weights = lora.plain_weights(state, average)
    return {name: value for name, value in weights.items() if name.startswith(("content.", "structure."))}


def starting_point(recipe: Recipe, run: Path, classes: tuple[str, ...]) -> NVG:
    """The model before training: on the run's tokenizer, or a checkpoint to fine-tune with the data's classes."""
    if recipe.start:
        start = nvg_model.load(recipe.start, dtype=torch.float32)
        return with_classes(deepened(start, recipe.generator), classes)
    assert recipe.config.generator is not None
    generator = with_depths(recipe.config.generator, recipe.generator)
    config = dataclasses.replace(recipe.config, generator=dataclasses.replace(generator, num_classes=len(classes)))
    nvg = NVG(config, classes)
    nvg.tokenizer.load_state_dict(tokenizer_weights(run))
    nvg.content.initialize()
    nvg.structure.initialize()
    if recipe.generator.initialisation == "xavier":
        initialisation.as_released(nvg)
    nvg.tokenizer.requires_grad_(False).eval()
    return nvg


def saved_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """The averaged weights of both generators in a save."""
    return network_weights(state["phases"][0]["module"], state["average"])


def trained_generator(recipe: Recipe, run: Path, best: bool = False) -> tuple[NVG, dict[str, dict[str, Any]]]:
    """The averaged weights of a run's newest saves (or the best ones) as a model, and the saves by what they train.

    A network that was trained alone as well is taken from there.

    Raises:
        TrainingError: there is no such save, one of the networks was never trained, or a save does not fit the recipe.
    """
    states = {}
    for networks in ("both", "content", "structure"):
        folder = generator_folder(run, networks)
        newest = checkpointing.newest(folder)
        if newest is not None:
            states[networks] = checkpointing.read(folder / checkpointing.BEST if best else newest)
    if not states:
        raise TrainingError(f"there is no saved generator in {run}; run `python -m training generator` first")
    first = next(iter(states.values()))["meta"]
    start = first["recipe"]["start"]
    recipe = dataclasses.replace(recipe, start=start, generator=with_depths_of(recipe.generator, states))
    nvg = starting_point(recipe, run, tuple(first["classes"]))
    require_same_tokenizer(nvg, states, run)
    missing = set() if start or "both" in states else {"content", "structure"} - states.keys()
    if missing:
        raise TrainingError(
            f"the {missing.pop()} network was never trained in {run}; run `python -m training generator`"
        )
    for networks, state in states.items():
        if state["meta"]["classes"] != first["classes"]:
            raise TrainingError(
                f"the networks of {run} were trained on other classes than each other; train them alike"
            )
        own = ("content.", "structure.") if networks == "both" else (f"{networks}.",)
        use_weights(nvg, saved_weights(state), own, run)
    return nvg, states


def require_same_tokenizer(nvg: NVG, states: dict[str, dict[str, Any]], run: Path) -> None:
    """Raises TrainingError where the tokens that the generators have learned are those of another tokenizer."""
    for state in states.values():
        learned = state["meta"].get("weights", {}).get("tokenizer")  # not in saves older than this
        if learned not in (None, fingerprint(nvg.tokenizer)):
            raise TrainingError(
                f"the tokenizer of {run} has been trained on, or exchanged, since its generators were trained; train "
                "these on it in another --folder"
            )


def with_depths_of(settings: GeneratorRecipe, states: dict[str, dict[str, Any]]) -> GeneratorRecipe:
    """Settings with the depth of each network as in the training that it is taken from, which may be of it alone."""
    for networks, state in states.items():
        saved = state["meta"]["recipe"]["generator"]  # without depths if it is older than they are
        if networks != "structure":
            settings = dataclasses.replace(settings, content_depth=saved.get("content_depth", 0))
        if networks != "content":
            settings = dataclasses.replace(settings, structure_depth=saved.get("structure_depth", 0))
    return settings


def use_weights(nvg: NVG, weights: dict[str, Tensor], own: tuple[str, ...], run: Path) -> None:
    """Loads those of the weights whose names begin so. Raises TrainingError: they are not those that the model has."""
    weights = {name: value for name, value in weights.items() if name.startswith(own)}
    differ = weights.keys() ^ {name for name in nvg.state_dict() if name.startswith(own)}
    if differ:
        raise TrainingError(f"the run {run} does not fit the recipe; they differ in {sorted(differ)[:3]}")
    nvg.load_state_dict(weights, strict=False)


def with_classes(start: NVG, classes: tuple[str, ...]) -> NVG:
    """A model with other classes: those that it had before keep what was learned, new ones start from their mean."""
    assert start.config.generator is not None
    generator = dataclasses.replace(start.config.generator, num_classes=len(classes))
    nvg = NVG(dataclasses.replace(start.config, generator=generator), classes, start.settings)
    weights = start.state_dict()
    for name in ("content.class_embedding.weight", "structure.class_embedding.weight"):
        old = weights[name]
        rows = [old[start.classes.index(one)] if one in start.classes else old[:-1].mean(0) for one in classes]
        weights[name] = torch.stack([*rows, old[-1]])  # the null class is the last
    nvg.load_state_dict(weights)
    nvg.tokenizer.requires_grad_(False).eval()
    return nvg


@dataclass(frozen=True)
class Source:
    """Where the batches of a generator's training come from: cached tokens, or images."""

    settings: GeneratorRecipe
    recipe: Recipe
    config: NVGConfig
    dataset: ImageDataset
    cache: TokenCache | None

    @classmethod
    def make(
        cls, recipe: Recipe, nvg: NVG, dataset: ImageDataset, folder: Path, world: World, identity: Identity
    ) -> Source:
        """Makes the cache in `folder`, if one is wanted. Raises TrainingError where that is of other data."""
        settings, cache = recipe.generator, None
        views = number_of_views(settings, len(dataset))
        if views:
            if settings.repa_weight:
                raise TrainingError(
                    "REPA needs the images, which a token cache does not hold; train with --cached-views 0"
                )
            claim(folder, identity, world, cache_only=True)
            with alone_in(folder, world, ".cache.lock"):
                cache = load_or_make(
                    folder / CACHE,
                    nvg.tokenizer,
                    dataset,
                    recipe.views,
                    views,
                    recipe.seed,
                    rank=world.rank,
                    world=world.size,
                    wait=world.wait,
                    workers=settings.workers,
                )
        return cls(settings, recipe, nvg.config, dataset, cache)

    def draw(self, step: int, shard: Shard) -> Batch:
        """This share of a step; everything random is drawn for the whole step, so that shares fit together."""
        settings, config = self.settings, self.config
        generator = stream(self.recipe.seed, 2, step * settings.batch)
        index = self._index(step, generator)
        dropped = torch.rand(settings.batch, generator=generator) < settings.label_dropout
        content = draw_stages(
            settings.batch, config.splits + 1, settings.content_stages, generator, settings.content_stage_odds
        )
        structure = draw_stages(
            settings.batch, config.splits - 1, settings.structure_stages, generator, settings.structure_stage_odds
        )
        noise = torch.randn(settings.batch, config.positions, config.splits, generator=generator)
        mean, deviation = settings.time_logit
        times = (mean + deviation * torch.randn(structure.shape, generator=generator)).sigmoid()
        canvas_noise = None
        if config.generator is not None and config.generator.content_input != "canvas":
            shape = settings.batch, config.positions, config.autoencoder.latent_channels
            canvas_noise = shard.of(torch.randn(shape, generator=generator))
        tokens = 2 ** (config.splits + 1) - 1
        wrong = None
        if settings.token_noise:
            rate = settings.token_noise * torch.rand(settings.batch, 1, generator=generator)
            wrong = shard.of(torch.rand(settings.batch, tokens, generator=generator) < rate)
        start = chance = None
        if settings.own_tokens:
            own = torch.rand(settings.batch, generator=generator) < settings.own_tokens
            late = torch.randint(config.splits // 2, config.splits, (settings.batch,), generator=generator)
            start = shard.of(torch.where(own, late, config.splits))
            chance = shard.of(torch.rand(settings.batch, tokens, generator=generator))
        what = self._images(index, generator, shard) if self.cache is None else self._tokens(shard.of(index))
        classes = what.pop("classes")
        return Batch(
            classes=torch.where(shard.of(dropped), len(self.dataset.classes), classes),
            content_stages=shard.of(content),
            structure_stages=shard.of(structure),
            noise=shard.of(noise),
            canvas_noise=canvas_noise,
            wrong=wrong,
            start=start,
            chance=chance,
            times=shard.of(times),
            **what,
        )

    def _index(self, step: int, generator: torch.Generator) -> Tensor:
        """Of the step's views in the cache, or of its pictures."""
        if self.settings.order == "epochs":
            total = len(self.dataset if self.cache is None else self.cache)
            return draw_epochs(total, step * self.settings.batch, self.settings.batch, self.recipe.seed)
        if self.cache is not None:
            return torch.randint(len(self.cache), (self.settings.batch,), generator=generator)
        return draw_balanced(self.dataset.labels, len(self.dataset.classes), self.settings.batch, generator)

    def _tokens(self, index: Tensor) -> dict[str, Any]:
        assert self.cache is not None
        return {
            "classes": self.cache.classes[index].long(),
            "finest": self.cache.finest[index].long(),
            "codes": tuple(self.cache.codes(index, stage) for stage in range(self.config.splits + 1)),
            "names": tuple(self.cache.name(int(one)) for one in index),
        }

    def _images(self, index: Tensor, generator: torch.Generator, shard: Shard) -> dict[str, Any]:
        own = shard.of(index)
        return {
            "classes": self.dataset.labels[own],
            "images": draw_augmented(self.dataset, index, self.recipe.views, generator, shard.slice(len(index))),
            "names": tuple(self.dataset.names[int(one)] for one in own),
        }


def number_of_views(settings: GeneratorRecipe, pictures: int) -> int:
    """How many views are cached of so many pictures. Raises TrainingError: a negative number was asked for."""
    if settings.cached_views is None:
        return max(pictures, min(VIEWS_EACH * pictures, MOST_VIEWS))
    if settings.cached_views < 0:
        raise TrainingError(
            f"--cached-views {settings.cached_views} is no number of views; give 0 for no cache, or leave it out"
        )
    return settings.cached_views


def draw_stages(
    batch: int, stages: int, count: int, generator: torch.Generator, odds: tuple[float, ...] = ()
) -> Tensor:
    """`count` different stages of every image: long [B,n].

    Args:
        odds: how likely each of the `stages` is drawn first, relative to the others; empty: all alike.
    Raises:
        TrainingError: not as many odds as stages, or one that is not positive.
    """
    if odds and (len(odds) != stages or min(odds) <= 0):
        raise TrainingError(f"{len(odds)} stage odds {odds} for {stages} stages; give one positive number for each")
    # The smallest of exponential times with these rates: drawing without replacement.
    times = -torch.rand(batch, stages, generator=generator).log() / torch.tensor(odds or (1.0,))
    return times.argsort(dim=1)[:, : min(count, stages)]


def optimizers(objective: nn.Module, settings: GeneratorRecipe) -> list[torch.optim.Optimizer]:
    """Muon or AdamW for the matrices of the blocks, AdamW for everything else; weight decay on matrices only.

    The code head and the start canvas decay where the settings say so (`decay_all`).
    """
    found: list[list[Tensor]] = [[] for _ in range(6)]
    matrices, classes, tables, vectors, head, head_bias = found
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue
        if ".code_head." in name:
            (head_bias if parameter.dim() < 2 and settings.decay_all else head).append(parameter)
        elif parameter.dim() < 2 or name.endswith("qk_scale"):  # two vectors
            vectors.append(parameter)
        elif name.endswith("start_canvas"):
            (tables if settings.decay_all else vectors).append(parameter)
        elif ".linear_" in name:
            matrices.append(parameter)
        elif name.endswith("class_embedding.weight") and (settings.class_learning_rate or settings.class_steps):
            classes.append(parameter)
        else:
            tables.append(parameter)
    decay = settings.weight_decay
    of_head = decay if settings.decay_all else 0.0
    alone = min(settings.class_steps, settings.steps // 5)
    groups: list[dict[str, Any]] = [
        {"params": classes, "weight_decay": decay, "lr": settings.class_learning_rate or settings.learning_rate},
        {"params": tables, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
        {"params": head, "weight_decay": of_head, "lr": settings.head_learning_rate},
        {"params": head_bias, "weight_decay": 0.0, "lr": settings.head_learning_rate},
    ]
    if settings.optimizer == "adamw":
        groups.insert(0, {"params": matrices, "weight_decay": decay})
        return with_classes_first([adamw(groups, settings.learning_rate)], classes, alone)
    if settings.parallel == "fsdp":
        raise TrainingError("Muon needs whole matrices, which fsdp parts among the processes; use --optimizer adamw")
    both = [muon(matrices, settings.matrix_learning_rate, decay), adamw(groups, settings.learning_rate)]
    return with_classes_first(both, classes, alone)


def with_classes_first(
    optimizers: list[torch.optim.Optimizer], classes: list[Tensor], steps: int
) -> list[torch.optim.Optimizer]:
    """The same, whose groups but that of the class embeddings have a rate of 0 for so many steps."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups if steps):
        if group["params"][0] is not classes[0]:
            group["start"] = steps
    return optimizers


@torch.no_grad()
def prepare(nvg: NVG, source: Source, settings: GeneratorRecipe) -> None:
    """What is measured on the data before training: the canvases' scales and, with weights of our own initialisation,
    a useful first code head."""
    whole = dataclasses.replace(source, settings=dataclasses.replace(settings, batch=512))
    stages = assemble(whole.draw(0, Shard()).to(nvg.device), nvg.tokenizer)
    nvg.content.canvas_scales[0] = 1.0
    nvg.content.canvas_scales[1:] = 1 / stages.canvases.std(dim=(0, 2, 3))
    if settings.initialisation != "normal":
        return
    # Scores by squared distance, 2 z.e - |e|^2: the nearest code is a little likelier from the start. Sharper scores
    # would punish the first, wrong predictions (on emoji64 a tenth starts at 6.5 nats, the whole at 20).
    codebook = nvg.tokenizer.quantizer.codebook
    sharpness = 0.1 / codebook.square().sum(-1).mean()
    nvg.content.code_head.weight.copy_(2 * sharpness * codebook)
    nvg.content.code_head.bias.copy_(-sharpness * codebook.square().sum(-1))


@dataclass(frozen=True)
class Stages:
    """All stages of B images, for teacher forcing."""

    structure: Tensor
    """long [B,S,L]."""
    canvases: Tensor
    """float [B,S,L,C], after each stage."""
    codes: tuple[Tensor, ...]
    """long [B,2^i] of each stage."""


@torch.no_grad()
def assemble(batch: Batch, tokenizer: Tokenizer) -> Stages:
    """Structure, canvases and codes of a batch, from its cached tokens or its images."""
    if batch.finest is None:
        assert batch.images is not None
        sequence = tokenizer.tokenize(batch.images)
        codes = tuple(sequence.cluster_tokens(stage) for stage in range(sequence.num_stages))
        return Stages(sequence.structure, sequence.canvases, codes)
    structure, quantizer = hierarchy.all_stages(batch.finest), tokenizer.quantizer
    canvas = torch.zeros(*structure.shape[::2], quantizer.codebook.shape[1], device=structure.device)
    canvases = []
    for stage, code in enumerate(batch.codes):
        canvas = quantizer.add_stage(canvas, code, structure[:, stage], stage)
        canvases.append(canvas)
    return Stages(structure, torch.stack(canvases, 1), batch.codes)


@torch.no_grad()
def with_mistakes(
    stages: Stages, tokenizer: Tokenizer, wrong: Tensor | None = None, own: OwnTokens | None = None
) -> Stages:
    """Stages with mistakes as sampling makes them, and the tokens that are right after these.

    In sampling a wrong token stays, and those that follow must make up for it. Trained on the data alone, the
    generators never see such a thing (the self-correction of Infinity, Han et al. 2024).

    Args:
        wrong: bool [B,2^S-1], of the clusters of all stages one after the other. Each takes the token that the
            same cluster has in the image before it in the batch.
        own: who draws the tokens of some images from some stage on, whatever is right.
    """
    quantizer, final, structure = tokenizer.quantizer, stages.canvases[:, -1], stages.structure
    canvas, changed = torch.zeros_like(final), torch.zeros_like(final[..., :1])
    canvases, codes = [], []
    for stage, code in enumerate(stages.codes):
        labels, clusters = structure[:, stage], 2**stage
        again = quantizer.nearest(hierarchy.cluster_means(final - canvas, labels, clusters))
        right = torch.where(hierarchy.cluster_means(changed, labels, clusters)[..., 0] > 0, again, code)
        taken = right
        if wrong is not None:
            exchanged = wrong[:, clusters - 1 : 2 * clusters - 1]
            taken = torch.where(exchanged, right.roll(1, 0), right)
            changed = changed.maximum(hierarchy.place(exchanged[..., None].float(), labels))
        if own is not None and stage < len(stages.codes) - 1:  # nothing is seen after the last
            images = own.images(stage)
            taken = taken.index_put((images,), own.draw(images, canvas, labels, stage))
            changed = changed.index_fill(0, images, 1.0)
        canvas = quantizer.add_stage(canvas, taken, labels, stage)
        canvases.append(canvas)
        codes.append(right)
    return Stages(structure, torch.stack([*canvases[:-1], final], 1), tuple(codes))


@dataclass(frozen=True)
class OwnTokens:
    """Tokens that the content generator draws in training, to learn from its own mistakes (scheduled sampling, Bengio
    et al. 2015). Only from the middle stage on: before, another token is no mistake but another picture."""

    content: ContentGenerator
    batch: Batch
    top_p: tuple[float, float]
    bfloat16: bool

    def images(self, stage: int) -> Tensor:
        """Those of the batch, long [b], for which it draws the tokens of a stage."""
        assert self.batch.start is not None
        return (self.batch.start <= stage).nonzero().squeeze(1)

    @torch.no_grad()
    def draw(self, images: Tensor, canvas: Tensor, labels: Tensor, stage: int) -> Tensor:
        """Codes long [b,2^i] of these images, drawn as in sampling without guidance, on canvases [B,L,C]."""
        batch, clusters = self.batch, 2**stage
        assert batch.chance is not None
        if not len(images):
            return labels.new_empty(0, clusters)
        noise = None if batch.canvas_noise is None else batch.canvas_noise[images]
        with torch.autocast(canvas.device.type, torch.bfloat16, enabled=self.bfloat16):
            _, logits = self.content.predict(canvas[images], labels[images], batch.classes[images], stage, noise)
        top_p = top_p_schedule(self.top_p, self.content.splits)[stage]
        below = filter_logits(logits, top_p=top_p).softmax(-1).cumsum(-1)
        chance = batch.chance[images, clusters - 1 : 2 * clusters - 1, None] * below[..., -1:]
        return torch.searchsorted(below, chance, right=True).squeeze(-1).clamp(max=below.shape[-1] - 1)


class GeneratorObjective(nn.Module):
    """The loss of both generators: the content loss, a mean over K+1 stages, plus the flow loss, a mean over K-1."""

    def __init__(self, nvg: NVG, settings: GeneratorRecipe) -> None:
        super().__init__()
        self.content, self.structure = nvg.content, nvg.structure
        self.settings, self.top_p = settings, nvg.settings.top_p
        self._frozen = (nvg.tokenizer,)  # in a tuple: no part of what is trained and saved
        if settings.own_tokens and settings.parallel == "fsdp":
            raise TrainingError(
                "own tokens are drawn for different images in every process; use --parallel ddp, not fsdp"
            )
        self.structure.requires_grad_(settings.networks != "content")
        self.content.requires_grad_(settings.networks != "structure")
        if settings.lora_rank:
            lora.adapt(self, settings.lora_rank)
        self.repa = None
        if settings.repa_weight:
            self.repa = make_repa(self.content, settings.repa_layer, settings.repa_encoder)
            if settings.initialisation == "xavier":
                initialisation.xavier(self.repa.projector)
        for network in (self.content, self.structure):
            network.transformer.checkpoint_blocks = settings.checkpoint_blocks
            if settings.compile:
                network.transformer.compile()

    def blocks(self) -> list[nn.Module]:
        """The transformer blocks, for sharding."""
        return [*self.content.transformer.blocks, *self.structure.transformer.blocks]

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts for the log."""
        batch = batch.to(self.content.canvas_scales.device)
        tokenizer = self._frozen[0]
        stages = assemble(batch, tokenizer)
        own = None
        if batch.start is not None:
            own = OwnTokens(self.content, batch, self.top_p, self.settings.bfloat16)
        if own or batch.wrong is not None:
            stages = with_mistakes(stages, tokenizer, batch.wrong, own)
        total = batch.noise.new_zeros(())
        values: dict[str, Tensor] = {}
        if self.settings.networks != "structure":
            loss, parts = content_loss(self.content, batch, stages, self.settings, self.repa)
            total, values = total + loss, values | parts
        if self.settings.networks != "content":
            loss, parts = structure_loss(self.structure, batch, stages, self.settings)
            total, values = total + loss, values | parts
        return total, values


def content_loss(
    content: ContentGenerator, batch: Batch, stages: Stages, settings: GeneratorRecipe, repa: Repa | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over rows of mse(x_hat, final canvas) + cross-entropy of the tokens (+ REPA), and its parts for the log."""
    row, stage = _rows(batch.content_stages)
    weight = _weights(stage, settings.content_stage_weights)
    before = torch.where(stage[:, None, None] > 0, stages.canvases[row, stage - 1], 0.0)
    with torch.autocast(before.device.type, torch.bfloat16, enabled=settings.bfloat16):
        noise = None if batch.canvas_noise is None else batch.canvas_noise[row]
        final = content(before, stages.structure[row, stage], batch.classes[row], stage, noise)
        unlike = repa(batch.images, row) if repa is not None else None
    error = (final - stages.canvases[row, -1]).square().mean(dim=(1, 2))
    entropy, values = error.new_zeros(len(row)), {"content_mse": error.detach().mean()}
    for one, codes in enumerate(stages.codes):
        rows = (stage == one).nonzero().squeeze(1)
        if len(rows):
            image = row[rows]
            change = hierarchy.cluster_means(final[rows] - before[rows], stages.structure[image, one], 2**one)
            value = F.cross_entropy(content.logits(change).mT, codes[image], reduction="none").mean(1)
            entropy = entropy.index_put((rows,), value)
            values[f"entropy_{one}"] = value.detach().mean()
    loss = error + entropy
    if unlike is not None:
        loss = loss + settings.repa_weight * unlike
        values["repa"] = unlike.detach().mean()
    return (weight * loss).mean(), values


def structure_loss(
    structure: StructureGenerator, batch: Batch, stages: Stages, settings: GeneratorRecipe
) -> tuple[Tensor, dict[str, Tensor]]:
    """Rectified-flow loss: mse between noise - v and the embedding s, the channels before the stage known."""
    splits = batch.noise.shape[-1]
    row, stage = _rows(batch.structure_stages)
    t = batch.times.flatten()
    clean = known_channels(stages.structure[:, -1], splits, splits)[row]
    known = (torch.arange(splits, device=stage.device) < stage[:, None, None]) & structure.partial
    noise = torch.where(known, clean, batch.noise[row])  # what is known stays as it is
    z = torch.lerp(clean, noise, t[:, None, None])
    with torch.autocast(z.device.type, torch.bfloat16, enabled=settings.bfloat16):
        velocity = structure(z, t, stages.canvases[row, stage], stages.structure[row, stage], batch.classes[row], stage)
    error = (noise - velocity - clean).square()
    decides = error.gather(2, stage[:, None, None].expand(-1, clean.shape[1], 1))  # the channel that is used
    values = {"structure_mse": error.detach().mean(), "structure_split_mse": decides.detach().mean()}
    loss = torch.lerp(error.mean(dim=(1, 2)), decides.mean(dim=(1, 2)), settings.split_weight)
    return (_weights(stage, settings.structure_stage_weights) * loss).mean(), values


def _rows(stages: Tensor) -> tuple[Tensor, Tensor]:
    """(image [R], stage [R]) of stages [B,n]."""
    images = torch.arange(len(stages), device=stages.device)
    return images.repeat_interleave(stages.shape[1]), stages.flatten()


def _weights(stage: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Weight [R] of every row; the mean over all stages is 1."""
    if not weights:
        return torch.ones(len(stage), device=stage.device)
    if int(stage.max()) >= len(weights):
        raise TrainingError(f"{len(weights)} stage weights {weights}; give one number for every stage")
    table = torch.tensor(weights, dtype=torch.float32, device=stage.device)
    return (table / table.mean())[stage]


def held_out_loss(
    recipe: Recipe, nvg: NVG, objective: GeneratorObjective, held_out: ImageDataset, first: bool = True
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
