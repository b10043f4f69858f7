"""The content generator's loss (paper section 2.2).

Shapes: B images, S stages, L positions, C latent channels, R rows (one per image and stage trained in a step).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nvg_model import hierarchy
from nvg_model.networks import ContentGenerator
from training.data.generator_batch import Batch, Stages, rows_of, stage_weights
from training.losses.repa import Repa
from training.recipes.base import GeneratorRecipe


def content_loss(
    content: ContentGenerator, batch: Batch, stages: Stages, settings: GeneratorRecipe, repa: Repa | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over rows of mse(x_hat, final canvas) + cross-entropy of the tokens (+ REPA), and its parts for the log."""
    device, (own_row, own_stage) = stages.canvases.device, rows_of(batch.content_stages)  # the latter on the CPU
    row, stage = own_row.to(device, non_blocking=True), own_stage.to(device, non_blocking=True)
    weight = stage_weights(stage, settings.content_stage_weights)
    before = torch.where(stage[:, None, None] > 0, stages.canvases[row, stage - 1], 0.0)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
        noise = None if batch.canvas_noise is None else batch.canvas_noise[row]
        final = content(before, stages.structure[row, stage], batch.classes[row], stage, noise)
        unlike = repa(batch.images, row) if repa is not None else None
    error = (final - stages.canvases[row, -1]).square().mean(dim=(1, 2))
    entropy, values = error.new_zeros(len(row)), {"content_mse": error.detach().mean()}
    for one, codes in enumerate(stages.codes):
        rows = (own_stage == one).nonzero().squeeze(1)
        if len(rows):
            image, rows = (index.to(device, non_blocking=True) for index in (own_row[rows], rows))
            change = hierarchy.cluster_means(final[rows] - before[rows], stages.structure[image, one], 2**one)
            value = F.cross_entropy(content.logits(change).mT, codes[image], reduction="none").mean(1)
            entropy = entropy.index_put((rows,), value)
            values[f"entropy_{one}"] = value.detach().mean()
    loss = error + entropy
    if unlike is not None:
        loss = loss + settings.repa_weight * unlike
        values["repa"] = unlike.detach().mean()
    return (weight * loss).mean(), values
