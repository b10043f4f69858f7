"""The loss of both generators (paper sections 2.2 and 2.3).

Shapes: B images, S stages, L positions, K splits, C latent channels; R rows, one per image and stage (or split) that is
trained in a step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvg_model import hierarchy
from nvg_model.model import NVG
from nvg_model.networks import ContentGenerator, StructureGenerator, known_channels
from training.data.generator_batch import Batch, ContentRows, Stages, assemble, rows_of, stage_weights
from training.errors import TrainingError
from training.losses.own_tokens import OwnTokens, with_mistakes
from training.losses.repa import Repa, make_repa
from training.recipes.base import GeneratorRecipe
from training.warm_start import adapt, xavier


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
        splits = nvg.config.splits
        for weights, stages in (
            (settings.content_stage_weights, splits + 1),
            (settings.structure_stage_weights, splits - 1),
        ):
            if 0 < len(weights) < stages:
                raise TrainingError(f"{len(weights)} stage weights {weights}; give one number for every stage")
        self.structure.requires_grad_(settings.networks != "content")
        self.content.requires_grad_(settings.networks != "structure")
        if settings.lora_rank:
            adapt(self, settings.lora_rank)
        self.repa = None
        if settings.repa_weight:
            self.repa = make_repa(self.content, settings.repa_layer, settings.repa_encoder)
            if settings.initialisation == "xavier":
                xavier(self.repa.projector)
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
    rows = ContentRows.of(batch, stages)
    device, weight = rows.canvas.device, stage_weights(rows.stage, settings.content_stage_weights)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
        final = content(rows.canvas, rows.labels, rows.classes, rows.stage, rows.noise)
        unlike = repa(batch.images, rows.image) if repa is not None else None
    error = (final - stages.canvases[rows.image, -1]).square().mean(dim=(1, 2))
    entropy, values = error.new_zeros(len(error)), {"content_mse": error.detach().mean()}
    for one, codes in enumerate(stages.codes):
        own = (rows.own_stage == one).nonzero().squeeze(1)
        if len(own):
            own = own.to(device, non_blocking=True)
            change = hierarchy.cluster_means(final[own] - rows.canvas[own], rows.labels[own], 2**one)
            value = F.cross_entropy(content.logits(change).mT, codes[rows.image[own]], reduction="none").mean(1)
            entropy = entropy.index_put((own,), value)
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
