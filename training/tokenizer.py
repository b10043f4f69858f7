"""Training of the tokenizer: `python -m training tokenizer RECIPE` (paper sections 2.1 and 3.1).

Shapes: images [B,3,H,W] in [-1,1]; latent [B,L,C]; S stages.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import nvg_model
from nvg_model.hierarchy import cluster
from nvg_model.quantizer import quantizer_loss, straight_through
from nvg_model.tokenizer import Tokenizer
from training import checkpointing, distributed
from training.data.augmentation import draw_balanced, draw_epochs, draw_with_opacity, plain_images, stream
from training.data.dataset import ImageDataset
from training.distributed import Shard, World
from training.errors import TrainingError
from training.files import replacing
from training.logging import describe_run
from training.loop import LoopSettings, Phase, Task, train
from training.losses import diffaug
from training.losses.adversarial import (
    LeCam,
    frozen,
    hinge_discriminator,
    non_saturating_discriminator,
    non_saturating_generator,
)
from training.losses.diffaug import augment
from training.losses.discriminators import PatchDiscriminator, dino_discriminator
from training.losses.lpips import LPIPS, load_lpips
from training.losses.reconstruction import multiscale_gradient, psnr, ssim
from training.metrics.codes import CodeCounts
from training.optim import adamw, cosine
from training.precision import with_precision
from training.recipes.base import Recipe, TokenizerRecipe
from training.run_folder import Identity, alone_in, open_run, weights_digest
from training.samples import reconstruction_sheet

WEIGHTS = "tokenizer.pt"
DECODER = "decoder"
"""Folder of a run for the decoder trained once more."""
EDGE = 0.3
"""A position with a larger share of the subject, and of what is around it, may belong to either."""
OWN_SIDE = 0.7
"""Where positions should be between the middle of the gap (0) and the mean of their own part (1)."""
COMMON = 0.2
"""Share of the latents' variance over the positions that may be the same for all pictures: most show an object in their
middle."""


@dataclass
class Batch:
    """A share of a step's images."""

    images: Tensor
    """float [B,3,H,W] in [-1,1]."""
    names: tuple[str, ...]
    augmentation: Tensor
    """Random numbers [B,3,7] for what the discriminator sees: the output in the autoencoder's turn, real, output."""
    places: Tensor
    """Random numbers [B,3,3] for where the discriminator looks, in the same three turns."""
    opacity: Tensor | None = None
    """float [B,H,W] in [0,1] of the pictures within their views; what is opaque is the subject."""
    output: Tensor | None = None
    """What the autoencoder made of them in this step, for the discriminator's turn."""


def train_tokenizer(recipe: Recipe, data: Path | str, run: Path) -> Path:
    """Trains, or goes on training, the tokenizer of `recipe` on `data`/train in `run`/tokenizer.

    Returns:
        The file with the averaged weights. `report.json` beside it holds PSNR and code usage on the held-out set.
    """
    start = nvg_model.load(recipe.start, dtype=torch.float32).tokenizer.state_dict() if recipe.start else None
    return _train(recipe, recipe.tokenizer, data, run / "tokenizer", start)


def train_decoder(recipe: Recipe, data: Path | str, run: Path) -> Path:
    """Trains, or goes on training, the decoder of the run's finished tokenizer once more, in `run`/decoder.

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
    torch.manual_seed(recipe.seed)  # the initial weights only
    tokenizer = Tokenizer(recipe.config).to(world.device)
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # three times faster on CPUs
    describe_run(folder, recipe, world, data=str(data))
    if start is not None:
        tokenizer.load_state_dict(start)
    phases = training_phases(tokenizer, settings, world)

    def draw(step: int, shard: Shard) -> Batch:
        generator = stream(recipe.seed, step * settings.batch)
        if settings.order == "epochs":
            index = draw_epochs(len(dataset), step * settings.batch, settings.batch, recipe.seed)
        else:
            index = draw_balanced(dataset.labels, len(dataset.classes), settings.batch, generator)
        images, opacity = draw_with_opacity(dataset, index, recipe.views, generator, shard.slice(settings.batch))
        augmentation = diffaug.draw(3 * settings.batch, generator).unflatten(0, (settings.batch, 3))
        places = torch.rand(settings.batch, 3, 3, generator=generator)
        return Batch(
            images=images,
            names=tuple(dataset.names[int(one)] for one in shard.of(index)),
            augmentation=shard.of(augmentation),
            places=shard.of(places),
            opacity=opacity,
        )

    def validate() -> dict[str, float]:
        report = evaluate_tokenizer(tokenizer, held_out)
        return {"psnr": report["psnr"], "codes_used": report["codes_used"]}

    average = train(
        Task(
            phases,
            draw,
            names=lambda batch: batch.names,
            validate=validate,
            best=("largest", "psnr"),
            sample=lambda: {"reconstructions": reconstruction_sheet(tokenizer, held_out)},
            meta=opened.meta(recipe, identity),
        ),
        LoopSettings.of(settings, recipe.seed),
        folder,
        world,
    )
    if world.first:
        checkpointing.write(path, tokenizer.state_dict() | _without_prefix(average.state_dict()))
        _report(tokenizer, path, held_out)
    world.wait()
    return path


def require_transparency(dataset: ImageDataset, data: Path | str) -> None:
    """Raises TrainingError where the first pictures are opaque: they do not tell what their subject is."""
    some = torch.arange(min(64, len(dataset)))
    if int(dataset.load(some)[:, 3].min()) == 255:
        raise TrainingError(
            f"the first {len(some)} pictures of {data} have no transparency, by which `subject` tells subject from "
            "background; use --separation-by spread"
        )


def training_phases(tokenizer: Tokenizer, settings: TokenizerRecipe, world: World) -> list[Phase]:
    """The autoencoder's turn, and the discriminator's where there is one; each with its own optimiser."""
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
        opponent = DiscriminatorObjective(discriminator, settings, world).to(world.device)
        groups = [{"params": trained(opponent), "weight_decay": settings.discriminator_weight_decay}]
        second = adamw(groups, settings.discriminator_learning_rate)
        phases.append(Phase(opponent, [second], schedule, start=settings.adversarial_start))
    return phases


def make_discriminator(settings: TokenizerRecipe) -> nn.Module | None:
    """The recipe's, or None. Raises TrainingError where its weights cannot be had."""
    if settings.discriminator == "patch":
        return PatchDiscriminator(settings.discriminator_width, layers=settings.discriminator_layers)
    return dino_discriminator(settings.discriminator_encoder) if settings.discriminator == "dino" else None


def lpips_of(settings: TokenizerRecipe) -> LPIPS:
    """With the recipe's files. Raises TrainingError where they cannot be had."""
    files = [Path(one).expanduser() if one else None for one in (settings.lpips_backbone, settings.lpips_calibration)]
    return load_lpips(*files)


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def tokenizer_weights(run: Path) -> dict[str, Tensor]:
    """The averaged weights of the run's finished tokenizer. Raises TrainingError where there are none."""
    path = run / "tokenizer" / WEIGHTS
    if not path.is_file():
        raise TrainingError(
            f"there is no trained tokenizer {path}; run `python -m training tokenizer` to its end first"
        )
    return checkpointing.read(path)


def use_trained_decoder(tokenizer: Tokenizer, run: Path) -> bool:
    """Loads the decoder that the run has trained once more, if it has; returns whether it has.

    Raises:
        TrainingError: that was the decoder of another tokenizer.
    """
    path = run / DECODER / WEIGHTS
    if not path.is_file():
        return False
    weights, own = checkpointing.read(path), tokenizer.state_dict()
    if any(not torch.equal(value, weights[name]) for name, value in own.items() if not name.startswith("decoder.")):
        raise TrainingError(f"{path} belongs to another tokenizer than {run / 'tokenizer'}; move {path.parent} away")
    tokenizer.load_state_dict(weights)
    return True


class TokenizerObjective(nn.Module):
    """The autoencoder's losses: reconstruction, perceptual, quantiser and adversarial (paper section 2.1)."""

    def __init__(self, tokenizer: Tokenizer, settings: TokenizerRecipe, discriminator: nn.Module | None = None) -> None:
        super().__init__()
        self.tokenizer, self.settings = tokenizer, settings
        self._discriminator = (discriminator,)  # in a tuple: no part of what this objective trains and saves
        self._lpips = (lpips_of(settings),) if settings.lpips_weight else ()
        if settings.decoder_only:
            tokenizer.requires_grad_(False)
            tokenizer.decoder.requires_grad_(True)
        if settings.compile:
            tokenizer.encoder.compile()
            tokenizer.decoder.compile()

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts for the log; leaves the output in the batch."""
        settings, tokenizer = self.settings, self.tokenizer
        images = batch.images.to(tokenizer.quantizer.codebook.device, non_blocking=True)
        soft = step < settings.soft_assignment_steps and not settings.decoder_only
        with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.bfloat16):
            latent = tokenizer.encode(images)
        structure = cluster(latent)
        _, canvases = tokenizer.quantizer(latent, structure, soft)
        canvas = canvases[:, -1]
        # The quantiser's own loss alone moves codes and refiners, by the soft assignment too (nvg-method section 8).
        canvas = straight_through(latent, canvas)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.bfloat16):
            output = tokenizer.decoder(canvas.mT.unflatten(2, tokenizer.grid)).float()
        if settings.clamp_output:
            output = output.clamp(-1, 1)
        batch.output = output.detach()
        losses = self._losses(output, images, batch, step)
        separate, encoded = step >= settings.separation_start, [latent]
        if settings.cycle_weight and separate:
            again = self._encode_again(output)
            encoded.append(again)
            relative = F.mse_loss(again, canvas.detach()) / canvas.detach().var()
            losses["cycle"] = settings.cycle_weight, relative
        if not settings.decoder_only:
            losses["quantizer"] = settings.quantizer_weight, quantizer_loss(latent, canvases)
        if settings.separation_weight and separate:
            # of what is made of the output too: the halves are to be found again in it
            losses |= self._separation(latent, encoded, batch)
        total = torch.stack([weight * loss for weight, loss in losses.values()]).sum()
        return total, {name: loss.detach() for name, (_, loss) in losses.items()} | {
            "psnr": psnr(output.detach(), images).mean()
        }

    def _separation(self, latent: Tensor, encoded: list[Tensor], batch: Batch) -> dict[str, tuple[float, Tensor]]:
        """(weight, loss) by name of how clearly each of the `encoded` latents [B,L,C] falls into two parts."""
        weight, by_subject = self.settings.separation_weight, self.settings.separation_by == "subject"
        if by_subject:
            assert batch.opacity is not None
            sides = subject_sides(batch.opacity.to(latent.device), self.tokenizer.grid)
        else:
            sides = torch.where(principal_halves(latent), 1.0, -1.0)
        parts = [settled(one, sides) for one in encoded]
        within = torch.stack([within_parts(one, part) for one, part in zip(encoded, parts, strict=True)])
        astray = torch.stack([strays(one, part) for one, part in zip(encoded, parts, strict=True)])
        losses = {
            "separation": (weight, F.relu(within - self.settings.separation_within).mean()),
            "strays": (weight, astray.mean()),
        }
        if not by_subject:  # or the easiest halves to tell apart would be the same for every picture
            losses["common"] = weight, F.relu(shared_by_images(latent) - COMMON)
        return losses

    def _encode_again(self, output: Tensor) -> Tensor:
        """The latent [B,L,C] of the output, as a user gets it who tokenizes the picture."""
        with torch.autocast(output.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            return self.tokenizer.encode(output.clamp(-1, 1)).float()

    def _losses(self, output: Tensor, images: Tensor, batch: Batch, step: int) -> dict[str, tuple[float, Tensor]]:
        """(weight, loss) by name of how far the output is from the images, and from looking real."""
        settings, discriminator = self.settings, self._discriminator[0]
        losses = {"l1": (1.0, F.l1_loss(output, images))}
        if settings.gradient_weight:
            losses["gradient_loss"] = settings.gradient_weight, multiscale_gradient(output, images)
        if settings.ssim_weight:
            losses["ssim_loss"] = settings.ssim_weight, 1 - ssim(output, images).mean()
        for lpips in self._lpips:
            losses["lpips"] = settings.lpips_weight, lpips.to(output.device)(output, images).mean()
        if discriminator is not None and step >= settings.adversarial_start:
            with frozen(discriminator):
                seen = augment(output, batch.augmentation[:, 0])
                logits = discriminator(seen, batch.places[:, 0])
            adversarial = non_saturating_generator(logits, settings.adversarial_by_image)
            losses["adversarial"] = settings.adversarial_weight, adversarial
        return losses


def over_positions(latent: Tensor) -> Tensor:
    """Float32 latents [B,L,C] without their means over the positions."""
    latent = latent.float()
    return latent - latent.mean(1, keepdim=True)


@torch.no_grad()
def principal_halves(latent: Tensor) -> Tensor:
    """The balanced split of latents [B,L,C] along their largest spread, bool [B,L].

    Greedy clustering finds the same halves where they lie clearly apart. Where a single pair crosses the gap it finds
    quite others: its clusters have equal sizes, so the odd position that is left over in each half crosses as well, in
    every later stage again.
    """
    centred = over_positions(latent)
    axis = torch.linalg.eigh(centred.mT @ centred).eigenvectors[..., -1:]
    return (centred @ axis).squeeze(-1).argsort(1).argsort(1) >= latent.shape[1] // 2


def subject_sides(opacity: Tensor, grid: tuple[int, int]) -> Tensor:
    """Where the subject is, [B,L], by the opacity [B,H,W] of the pixels: 1 on it, -1 off it, 0 at its edge."""
    cover = F.adaptive_avg_pool2d(opacity[:, None], grid).flatten(1)
    return (cover > 1 - EDGE).float() - (cover < EDGE).float()


@torch.no_grad()
def settled(latent: Tensor, sides: Tensor) -> Tensor:
    """Sides [B,L] of latents [B,L,C] without zeros: those at the edge go to the side whose mean is nearer."""
    return torch.where(sides == 0, torch.where(_places(latent, sides) < 0, -1.0, 1.0), sides)


def _means(latent: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    """Mean latents [B,1,C] of the positions with side 1 and with side -1; 0 where there are none."""
    latent = latent.float()
    weights = [(sides == side).float()[..., None] for side in (1, -1)]
    ours, theirs = ((latent * one).sum(1, keepdim=True) / one.sum(1, keepdim=True).clamp(min=1) for one in weights)
    return ours, theirs


def _places(latent: Tensor, sides: Tensor) -> Tensor:
    """Where latents [B,L,C] are on the line through the means of both sides [B,L]: 1 and -1 at these, 0 midway."""
    ours, theirs = _means(latent, sides)
    half = (ours - theirs) / 2
    return ((latent.float() - theirs - half) * half).sum(-1) / (half.square().sum(-1) + 1e-6)


def within_parts(latent: Tensor, sides: Tensor) -> Tensor:
    """Share [B] of the variance over the positions of latents [B,L,C] that lies within the two parts, sides [B,L]."""
    ours, theirs = _means(latent, sides)
    share = (sides > 0).float().mean(1)
    between = share * (1 - share) * (ours - theirs).square().mean(dim=(1, 2))
    return 1 - between / (over_positions(latent).square().mean(dim=(1, 2)) + 1e-6)


def strays(latent: Tensor, sides: Tensor) -> Tensor:
    """How far positions of latents [B,L,C] are from their own side of the gap between the two parts [B,L]: [B].

    All should be above `OWN_SIDE`. Positions in between are the worst: they pair with each other, an odd one is left
    over in both parts, these two pair as well, and so it goes on through all stages up to halves that have nothing to
    do with the picture. Parts of unlike sizes do little harm: then only the larger one has such left-overs.
    """
    return F.relu(OWN_SIDE - sides * _places(latent, sides)).square().mean(1)


def shared_by_images(latent: Tensor) -> Tensor:
    """Share of the variance over the positions of latents [B,L,C] that the mean latent of the batch has already."""
    centred = over_positions(latent)
    return centred.mean(0).square().mean() / (centred.square().mean() + 1e-6)


class DiscriminatorObjective(nn.Module):
    """The discriminator's side: real images against the outputs of this step, with LeCam."""

    def __init__(self, discriminator: nn.Module, settings: TokenizerRecipe, world: World) -> None:
        super().__init__()
        self.discriminator, self.settings, self.lecam = discriminator, settings, LeCam(world=world)
        hinge = settings.discriminator_loss == "hinge"
        self.loss = hinge_discriminator if hinge else non_saturating_discriminator

    def forward(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts for the log."""
        assert batch.output is not None, "the autoencoder's turn comes first"
        images = batch.images.to(batch.output.device, non_blocking=True)
        pair = torch.cat([augment(images, batch.augmentation[:, 1]), augment(batch.output, batch.augmentation[:, 2])])
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            places = torch.cat([batch.places[:, 1], batch.places[:, 2]])
            real, fake = self.discriminator(pair, places).float().chunk(2)
        self.lecam.update(real, fake)
        loss, lecam = self.loss(real, fake), self.lecam(real, fake)
        values = {"discriminator": loss, "logits_real": real.mean(), "logits_fake": fake.mean()}
        return loss + self.settings.lecam_weight * lecam, {name: value.detach() for name, value in values.items()}


def _without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as in the tokenizer, from those in its objective."""
    return {name.removeprefix("tokenizer."): value for name, value in weights.items()}


def _report(tokenizer: Tokenizer, path: Path, held_out: ImageDataset) -> None:
    """Writes what the saved weights reach on the held-out pictures."""
    tokenizer.load_state_dict(checkpointing.read(path))
    report = evaluate_tokenizer(tokenizer, held_out)
    with replacing(path.parent / "report.json") as partial:
        partial.write_text(json.dumps(report, indent=1))
    print(f"tokenizer: {path}; held out: {json.dumps(report)}")


@torch.inference_mode()
def evaluate_tokenizer(tokenizer: Tokenizer, dataset: ImageDataset, batch: int = 64) -> dict[str, Any]:
    """Mean PSNR in decibels and, per stage, the share of codes used, on pictures over white."""
    tokenizer.eval()
    values, codes = [], CodeCounts.empty(len(tokenizer.quantizer.refiners), len(tokenizer.quantizer.codebook))
    for start in tqdm(range(0, len(dataset), batch), "held-out pictures", leave=False, delay=2):
        images = plain_images(dataset, torch.arange(start, min(start + batch, len(dataset))))
        images = images.to(tokenizer.quantizer.codebook.device)
        sequence = tokenizer.tokenize(images)
        values.append(psnr(tokenizer.decode(sequence.canvases[:, -1]), images).cpu())
        codes.add(sequence)
    return {
        "pictures": len(dataset),
        "psnr": round(float(torch.cat(values).mean()), 2),
        "codes_used": round(codes.used(), 4),
        "codes_used_per_stage": [round(share, 4) for share in codes.used_per_stage()],
    }
