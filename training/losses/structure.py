"""The structure generator's rectified-flow loss (paper section 2.3).

Shapes: B images, S stages, L positions, K splits, R rows (one per image and split trained in a step).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nvg_model.networks import StructureGenerator, known_channels
from training.data.generator_batch import Batch, Stages, rows_of, stage_weights
from training.recipes.base import GeneratorRecipe


def structure_loss(
    structure: StructureGenerator, batch: Batch, stages: Stages, settings: GeneratorRecipe
) -> tuple[Tensor, dict[str, Tensor]]:
    """Rectified-flow loss: mse between noise - v and the embedding s, the channels before the stage known."""
    splits = batch.noise.shape[-1]
    row, stage = rows_of(batch.structure_stages)
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
    return (stage_weights(stage, settings.structure_stage_weights) * loss).mean(), values
