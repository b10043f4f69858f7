"""Adversarial losses of tokenizer training (paper section A.5, as Open-MAGVIT2 and VAR define them).

Logits are [B,n], n of every image; they are averaged in float32. The two sides are kept apart like this:

    with frozen(discriminator):                      # the autoencoder's step: gradient to the images only
        loss = non_saturating_generator(discriminator(output))
    logits = discriminator(torch.cat([images, output.detach()]))   # the discriminator's step
    loss = hinge_discriminator(*logits.chunk(2))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distributed import World
from training.recipes.base import TokenizerRecipe

Seen = Callable[[Any], tuple[Tensor, Tensor, Tensor | None]]
"""batch -> real images [B,3,H,W], made ones [B',3,H,W], and where the discriminator looks [B+B',3] or None."""


def non_saturating_generator(fake: Tensor, by_image: bool = False) -> Tensor:
    """mean(-log sigmoid(fake)) (Goodfellow et al. 2014): the generator's loss in the paper.

    Args:
        by_image: an image is judged by the mean of its logits, as in the release (nvg-method section 8); else every
            logit by itself.
    """
    fake = fake.float()
    return F.softplus(-(fake.flatten(1).mean(1) if by_image else fake)).mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Half the sum of mean(max(0, 1-real)) and mean(max(0, 1+fake)): the discriminator's loss in the paper."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Half the sum of mean(-log sigmoid(real)) and mean(-log sigmoid(-fake))."""
    return 0.5 * (F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean())


class LeCam(nn.Module):
    """LeCam regularisation (Tseng et al. 2021): holds the logits near moving averages of the other side's.

    The averages are buffers, so they are saved with the module. They start at 0.

    Args:
        decay: share of an average that stays in an update.
        world: the processes whose logits go into the averages together.
    """

    real_mean: Tensor
    fake_mean: Tensor

    def __init__(self, decay: float = 0.999, world: World | None = None) -> None:
        super().__init__()
        self.decay, self.world = decay, world or World()
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("fake_mean", torch.zeros(()))

    @torch.no_grad()
    def update(self, real: Tensor, fake: Tensor) -> None:
        """Takes the logits of a step into the averages; call it once a step, before the loss."""
        means = self.world.mean({"real": real.float().mean(), "fake": fake.float().mean()})
        self.real_mean.lerp_(means["real"], 1 - self.decay)
        self.fake_mean.lerp_(means["fake"], 1 - self.decay)

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """mean(max(0, real - average fake)^2) + mean(max(0, average real - fake)^2)."""
        above = F.relu(real.float() - self.fake_mean).square().mean()
        below = F.relu(self.real_mean - fake.float()).square().mean()
        return above + below


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within it, a forward of `module` makes no graph to its parameters and changes none of its buffers.

    Gradients still flow through to the input. What was computed inside may be differentiated outside. A module in
    DistributedDataParallel must be called unwrapped (`.module`): the wrapper expects a gradient for its parameters.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    modes = [(part, part.training) for part in module.modules()]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        module.eval()  # spectral normalisation moves its buffers in training mode
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for part, training in modes:
            part.training = training


class DiscriminatorObjective(nn.Module):
    """The discriminator's step: real images against those that were made in this step, with LeCam.

    Args:
        seen: what it is shown of a batch: real and made images, and where it looks in both, or None.
    """

    def __init__(self, discriminator: nn.Module, settings: TokenizerRecipe, seen: Seen, world: World) -> None:
        super().__init__()
        self.discriminator, self.settings, self.lecam = discriminator, settings, LeCam(world=world)
        self.seen = seen
        hinge = settings.discriminator_loss == "hinge"
        self.loss = hinge_discriminator if hinge else non_saturating_discriminator

    def forward(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts for the log."""
        real, made, places = self.seen(batch)
        with torch.autocast(real.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            logits = self.discriminator(torch.cat([real, made]), places).float()
        real_logits, made_logits = logits.split([len(real), len(made)])
        self.lecam.update(real_logits, made_logits)
        loss, lecam = self.loss(real_logits, made_logits), self.lecam(real_logits, made_logits)
        values = {"discriminator": loss, "logits_real": real_logits.mean(), "logits_fake": made_logits.mean()}
        return loss + self.settings.lecam_weight * lecam, {name: value.detach() for name, value in values.items()}
