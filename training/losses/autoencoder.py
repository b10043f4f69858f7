"""The tokenizer's losses: of the autoencoder, and of the discriminator that it plays against (paper section 2.1).

Shapes: images [B,3,H,W] in [-1,1]; latent [B,L,C].
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvg_model.hierarchy import cluster
from nvg_model.quantizer import quantizer_loss, straight_through
from nvg_model.tokenizer import Tokenizer
from training.data.tokenizer_batch import Batch
from training.efficientnet_lite import load_lite
from training.losses.adversarial import (
    frozen,
    non_saturating_generator,
)
from training.losses.diffaug import augment
from training.losses.discriminators import LiteDiscriminator, PatchDiscriminator, dino_discriminator
from training.losses.lpips import LPIPS, load_lpips
from training.losses.reconstruction import picture_losses, psnr
from training.losses.separation import (
    COMMON,
    principal_halves,
    settled,
    shared_by_images,
    strays,
    subject_sides,
    within_parts,
)
from training.recipes.base import TokenizerRecipe


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
        images = batch.images.to(tokenizer.quantizer.device, non_blocking=True)
        soft = step < settings.soft_assignment_steps and not settings.decoder_only
        check = images.device.type == "cpu"  # a GPU would be waited for; the loss tells of NaN as well
        with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.bfloat16):
            latent = tokenizer.encode(images, check)
        structure = cluster(latent, check)
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
            return self.tokenizer.encode(output.clamp(-1, 1), check=output.device.type == "cpu").float()

    def _losses(self, output: Tensor, images: Tensor, batch: Batch, step: int) -> dict[str, tuple[float, Tensor]]:
        """(weight, loss) by name of how far the output is from the images, and from looking real."""
        settings, discriminator = self.settings, self._discriminator[0]
        losses = {"l1": (1.0, F.l1_loss(output, images))} | picture_losses(settings, output, images)
        for lpips in self._lpips:
            losses["lpips"] = settings.lpips_weight, lpips.to(output.device)(output, images).mean()
        if discriminator is not None and step >= settings.adversarial_start:
            with frozen(discriminator):
                seen = augment(output, batch.augmentation[:, 0])
                logits = discriminator(seen, batch.places[:, 0])
            adversarial = non_saturating_generator(logits, settings.adversarial_by_image)
            losses["adversarial"] = settings.adversarial_weight, adversarial
        return losses


def seen_by_discriminator(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The images and this step's outputs, both augmented, and where the discriminator looks in them [2B,3]."""
    assert batch.output is not None, "the autoencoder's turn comes first"
    images = batch.images.to(batch.output.device, non_blocking=True)
    real, made = augment(images, batch.augmentation[:, 1]), augment(batch.output, batch.augmentation[:, 2])
    return real, made, torch.cat([batch.places[:, 1], batch.places[:, 2]])


def make_discriminator(settings: TokenizerRecipe) -> nn.Module | None:
    """The recipe's, or None. Raises TrainingError where its weights cannot be had."""
    if settings.discriminator == "patch":
        return PatchDiscriminator(settings.discriminator_width, layers=settings.discriminator_layers)
    if settings.discriminator == "lite":
        return LiteDiscriminator(load_lite("lite0"))
    return dino_discriminator(settings.discriminator_encoder) if settings.discriminator == "dino" else None


def lpips_of(settings: TokenizerRecipe) -> LPIPS:
    """With the recipe's files. Raises TrainingError where they cannot be had."""
    files = [Path(one).expanduser() if one else None for one in (settings.lpips_backbone, settings.lpips_calibration)]
    return load_lpips(*files)
