"""The losses of the decoder's training (see `training.decoder`).

Shapes: B images, b canvases of generated pictures, C channels of the decoder's pictures, H W their pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvg_model.tokenizer import Tokenizer
from training.data.augmentation import on_colour
from training.data.decoder_batch import Batch
from training.losses.adversarial import frozen, non_saturating_generator
from training.losses.diffaug import augment
from training.losses.perceptual import load_perceptual
from training.losses.reconstruction import picture_losses, psnr
from training.recipes.base import DecoderRecipe


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
        losses = picture_losses(self.settings, seen, real)
        for perceptual in self._perceptual:
            losses["perceptual"] = self.settings.perceptual_weight, perceptual.to(seen.device)(seen, real).mean()
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


def seen_by_discriminator(batch: Batch) -> tuple[Tensor, Tensor, None]:
    """The real views [B,3,H,W] and what the decoder made in this step [B+b,3,H,W], both augmented."""
    assert batch.real is not None and batch.made is not None, "the decoder's turn comes first"
    numbers, extra = batch.augmentation, len(batch.made) - len(batch.real)
    made = augment(batch.made, torch.cat([numbers[:, 3], numbers[:extra, 4]]))
    return augment(batch.real, numbers[:, 0]), made, None


def laid_on(output: Tensor, background: Tensor) -> Tensor:
    """The decoder's output [B,4,H,W], colours on white and opacity, on backgrounds [B,3] in [0,1]: [B,3,H,W]."""
    through = (1 - output[:, 3:]) / 2  # what is seen of the background
    return output[:, :3] + through * 2 * (background[:, :, None, None] - 1)
