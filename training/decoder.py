"""Training of a decoder on the canvases of a finished tokenizer: `python -m training decoder RECIPE`.

Encoder, codes and generators stay as they are and stay valid: a decoder may have more channels than the tokenizer's
own, larger pictures and opacity.
Shapes: B images, C channels of the decoder's pictures, H W their pixels; V canvases of a view, L positions.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nvg_model
from nvg_model import preview
from nvg_model.config import NVGConfig
from nvg_model.model import NVG
from nvg_model.tokenizer import Tokenizer
from training import checkpointing, distributed
from training.data.augmentation import on_colour, plain_images, stream
from training.data.cache import CHUNK
from training.data.canvases import CanvasCache, load_or_generate, load_or_make
from training.data.dataset import ImageDataset, open_dataset
from training.distributed import Shard, World
from training.errors import TrainingError
from training.files import replacing
from training.logging import describe_run
from training.loop import Phase, Task, train
from training.losses import diffaug
from training.losses.adversarial import (
    LeCam,
    frozen,
    hinge_discriminator,
    non_saturating_discriminator,
    non_saturating_generator,
)
from training.losses.autoencoder import make_discriminator
from training.losses.diffaug import augment
from training.losses.perceptual import load_perceptual
from training.losses.reconstruction import multiscale_gradient, psnr, ssim
from training.optim import adamw, cosine, trained
from training.precision import with_precision
from training.recipes.base import FINISH, DecoderRecipe, Recipe
from training.run_folder import Identity, alone_in, open_run, weights_digest
from training.samples import reconstruction_sheet
from training.warm_start import DECODER, WEIGHTS, tokenizer_weights, widened


@dataclass
class Batch:
    """A share of a step's images."""

    canvas: Tensor
    """float [B,L,C]."""
    pixels: Tensor
    """float [B,4,H,W] in [0,1], premultiplied: what the decoder should make of them."""
    own_background: Tensor
    """float [B,3] in [0,1]: the one that the encoder saw."""
    background: Tensor
    """float [B,3] in [0,1]: the one that opacity is looked at on."""
    augmentation: Tensor
    """Random numbers [B,5,7] for what the discriminator sees: real; the views and the generated, in both turns."""
    names: tuple[str, ...]
    generated: Tensor | None = None
    """float [b,L,C], b <= B: canvases of generated pictures, which need only look real."""
    real: Tensor | None = None
    """What the discriminator sees as real, [B,3,H,W]."""
    made: Tensor | None = None
    """What the decoder made, [B+b,3,H,W], for the discriminator's turn."""


def train_decoder(recipe: Recipe, data: Path | str, run: Path) -> Path:
    """Trains, or goes on training, a decoder for the run's finished tokenizer or for a checkpoint, in `run`/decoder.

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
    source = Source.make(before, dataset, recipe, settings, folder)
    torch.manual_seed(recipe.seed)
    tokenizer = new_tokenizer(before, config).to(world.device)
    objective = DecoderObjective(tokenizer, settings).to(world.device)
    phases = training_phases(objective, settings, world)
    average = train(
        Task(
            phases,
            source.draw,
            names=lambda batch: batch.names,
            validate=lambda: {"psnr": held_out_psnr(tokenizer, held_out)},
            best=("largest", "psnr"),
            sample=lambda: {"reconstructions": reconstruction_sheet(tokenizer, held_out)},
            meta=opened.meta(recipe, identity),
            seed=recipe.seed,
        ),
        settings,
        folder,
        world,
    )
    if world.first:
        with average.applied():
            path = _write(before, tokenizer, config, recipe, folder)
            report = {"pictures": len(held_out), "psnr": round(held_out_psnr(tokenizer, held_out), 2)}
        with replacing(folder / "report.json") as partial:
            partial.write_text(json.dumps(report, indent=1))
        print(f"decoder: {path}; held out: {json.dumps(report)}")
    world.wait()
    return path


def starting_model(recipe: Recipe, run: Path) -> NVG:
    """The checkpoint to start from, or the run's tokenizer without generators."""
    if recipe.start:
        return nvg_model.load(recipe.start, dtype=torch.float32)
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


@dataclass(frozen=True)
class Source:
    """Where the batches come from."""

    cache: CanvasCache
    generated: Tensor | None
    """float16 [G,L,C]: canvases of generated pictures."""
    settings: DecoderRecipe
    seed: int

    @classmethod
    def make(cls, before: NVG, dataset: ImageDataset, recipe: Recipe, settings: DecoderRecipe, folder: Path) -> Source:
        """With canvases from `folder`, made first. Raises TrainingError where some must be generated and cannot."""
        if (settings.drawn or settings.generated) and before.config.generator is None:
            raise TrainingError(
                "drawn and generated canvases need generators; give a checkpoint that has them: --start-from"
            )
        if CHUNK % settings.batch:
            raise TrainingError(
                f"the batch is {settings.batch}; {CHUNK} views are drawn together, so give 8, 16, 32 or {CHUNK}"
            )
        drawn = settings.drawn > 0
        path = folder / "canvases.safetensors"
        cache = load_or_make(path, before, dataset, recipe.views, settings.cached_views, recipe.seed, drawn)
        made = None
        if settings.generated:
            made = load_or_generate(folder / "generated.safetensors", before, settings.generated, recipe.seed)
        return cls(cache, made, settings, recipe.seed)

    def draw(self, step: int, shard: Shard) -> Batch:
        """A share of a step's batch; a pure function. Every view comes once in a pass over the cache."""
        settings, cache = self.settings, self.cache
        parts = cache.parts(settings.batch)
        order = torch.randperm(parts, generator=stream(self.seed, 21, step // parts))
        canvases, pixels, own, index = cache.part(int(order[step % parts]), settings.batch)
        generator = stream(self.seed, 22, step)
        count = len(index)
        drawn = (torch.rand(count, generator=generator) < settings.drawn).long()
        colours = torch.rand(count, 3, generator=generator)
        white = torch.rand(count, 1, generator=generator) < 0.5
        augmentation = diffaug.draw(5 * count, generator).unflatten(0, (count, 5))
        canvas = canvases[torch.arange(count), drawn]
        background = torch.where(white, 1.0, colours)
        names = tuple(cache.dataset.names[int(one)] for one in shard.of(index))
        generated = None
        if self.generated is not None and step >= settings.adversarial_start:
            chosen = torch.randint(len(self.generated), (count // 2,), generator=generator)
            generated = self.generated[shard.of(chosen)].float()
        return Batch(
            shard.of(canvas), shard.of(pixels), shard.of(own), shard.of(background), shard.of(augmentation), names,
            generated,
        )  # fmt: skip


def training_phases(objective: DecoderObjective, settings: DecoderRecipe, world: World) -> list[Phase]:
    """The decoder's turn, and the discriminator's where there is one."""

    def schedule(step: int) -> float:
        return cosine(step, settings.steps, settings.warmup)

    groups = [{"params": trained(objective), "weight_decay": 0.0}]
    phases = [Phase(objective, [adamw(groups, settings.learning_rate)], schedule)]
    discriminator = make_discriminator(settings)
    if discriminator is not None:
        objective.set_discriminator(discriminator)
        opponent = Opponent(discriminator, settings, world).to(world.device)
        groups = [{"params": trained(opponent), "weight_decay": settings.discriminator_weight_decay}]
        second = adamw(groups, settings.discriminator_learning_rate)
        phases.append(Phase(opponent, [second], schedule, start=settings.adversarial_start))
    return phases


class DecoderObjective(nn.Module):
    """How far the decoder's pictures are from the views: colours, opacity, features, and from looking real."""

    def __init__(self, tokenizer: Tokenizer, settings: DecoderRecipe) -> None:
        super().__init__()
        self.tokenizer, self.settings = tokenizer, settings
        self._discriminator: tuple[nn.Module | None] = (None,)  # in a tuple: no part of what this trains and saves
        self._perceptual = (load_perceptual(),) if settings.perceptual_weight else ()

    def set_discriminator(self, discriminator: nn.Module) -> None:
        """Which one the pictures should convince."""
        self._discriminator = (discriminator,)

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts for the log; leaves pictures for the discriminator in the batch."""
        tokenizer, device = self.tokenizer, self.tokenizer.quantizer.device
        canvas, pixels = (one.to(device, non_blocking=True) for one in (batch.canvas, batch.pixels))
        everything = (
            canvas if batch.generated is None else torch.cat([canvas, batch.generated.to(device, non_blocking=True)])
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            latent = everything.mT.unflatten(2, tokenizer.grid).contiguous(memory_format=torch.channels_last)
            output, extra = tokenizer.decoder(latent).float().split([len(canvas), len(everything) - len(canvas)])
        transparent = output.shape[1] == 4
        white = torch.ones_like(batch.own_background)
        wanted = on_colour(pixels, (white if transparent else batch.own_background).to(device, non_blocking=True))
        losses = {"l1": (1.0, F.l1_loss(output[:, :3], wanted))}
        seen, real = output, wanted
        if transparent:
            losses["opacity"] = self.settings.opacity_weight, F.l1_loss(output[:, 3], 2 * pixels[:, 3] - 1)
            background = batch.background.to(device, non_blocking=True)
            seen, real = laid_on(output, background), on_colour(pixels, background)
            extra = laid_on(extra, background[: len(extra)])
        losses |= self._looks(seen, real)
        if step >= self.settings.adversarial_start:
            batch.real, batch.made = real, torch.cat([seen, extra]).detach()
            losses |= self._convinces(seen, extra, batch)
        if self.settings.cycle_weight:
            losses["cycle"] = self.settings.cycle_weight, self._cycle(output[:, :3], canvas)
        total = torch.stack([weight * loss for weight, loss in losses.values()]).sum()
        values = {name: loss.detach() for name, (_, loss) in losses.items()}
        return total, values | {"psnr": psnr(output[:, :3].detach(), wanted).mean()}

    def _looks(self, seen: Tensor, real: Tensor) -> dict[str, tuple[float, Tensor]]:
        """(weight, loss) by name of how unlike two sets of pictures [B,3,H,W] are to the eye."""
        settings = self.settings
        losses: dict[str, tuple[float, Tensor]] = {}
        if settings.gradient_weight:
            losses["gradient_loss"] = settings.gradient_weight, multiscale_gradient(seen, real)
        if settings.ssim_weight:
            losses["ssim_loss"] = settings.ssim_weight, 1 - ssim(seen, real).mean()
        for perceptual in self._perceptual:
            losses["perceptual"] = settings.perceptual_weight, perceptual.to(seen.device)(seen, real).mean()
        return losses

    def _convinces(self, seen: Tensor, extra: Tensor, batch: Batch) -> dict[str, tuple[float, Tensor]]:
        """(weight, loss) of how real the pictures [B,3,H,W] of the views and [b,3,H,W] of the generator look."""
        settings, discriminator = self.settings, self._discriminator[0]
        if discriminator is None:
            return {}
        losses = {}
        with frozen(discriminator), torch.autocast(seen.device.type, torch.bfloat16, enabled=settings.bfloat16):
            for name, images, place in (("adversarial", seen, 1), ("adversarial_generated", extra, 2)):
                if len(images):
                    logits = discriminator(augment(images, batch.augmentation[: len(images), place]))
                    losses[name] = settings.adversarial_weight, non_saturating_generator(logits)
        return losses

    def _cycle(self, output: Tensor, canvas: Tensor) -> Tensor:
        """How far the output, encoded again, is from the canvas, relative to the canvas's variance."""
        with torch.autocast(output.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            again = self.tokenizer.encode(output.clamp(-1, 1), check=output.device.type == "cpu").float()
        return F.mse_loss(again, canvas) / canvas.var()


class Opponent(nn.Module):
    """The discriminator's side: real views against what the decoder made in this step, with LeCam."""

    def __init__(self, discriminator: nn.Module, settings: DecoderRecipe, world: World) -> None:
        super().__init__()
        self.discriminator, self.settings, self.lecam = discriminator, settings, LeCam(world=world)
        hinge = settings.discriminator_loss == "hinge"
        self.loss = hinge_discriminator if hinge else non_saturating_discriminator

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts for the log."""
        assert batch.real is not None and batch.made is not None, "the decoder's turn comes first"
        numbers = batch.augmentation
        count, extra = len(batch.real), len(batch.made) - len(batch.real)
        seen = [augment(batch.real, numbers[:, 0]), augment(batch.made, torch.cat([numbers[:, 3], numbers[:extra, 4]]))]
        with torch.autocast(batch.real.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            real, fake = self.discriminator(torch.cat(seen)).float().split([count, count + extra])
        self.lecam.update(real, fake)
        loss, lecam = self.loss(real, fake), self.lecam(real, fake)
        values = {"discriminator": loss, "logits_real": real.mean(), "logits_fake": fake.mean()}
        return loss + self.settings.lecam_weight * lecam, {name: value.detach() for name, value in values.items()}


def laid_on(output: Tensor, background: Tensor) -> Tensor:
    """The decoder's output [B,4,H,W], colours on white and opacity, on backgrounds [B,3] in [0,1]: [B,3,H,W]."""
    through = (1 - output[:, 3:]) / 2  # what is seen of the background
    return output[:, :3] + through * 2 * (background[:, :, None, None] - 1)


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
    model.preview_map = preview.fit(model.tokenizer)
    provenance = before.provenance | {"decoder": dataclasses.asdict(recipe.decoder)}
    return nvg_model.save(model, folder / f"{recipe.name}.safetensors", provenance, dtype=torch.float16)
