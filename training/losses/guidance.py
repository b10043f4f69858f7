"""The loss of the conversion to guidance inside: the teacher's guided result in one pass (see `training.guidance`).

Shapes: B images, n content stages of an image, R rows (one per image and stage), L positions, C latent channels, V
codes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nvg_model import hierarchy
from nvg_model.model import NVG
from training.data.conversion_batch import GuidanceBatch
from training.data.generator_batch import Batch, ContentRows, assemble
from training.losses.own_tokens import with_mistakes
from training.recipes.base import GuidanceRecipe


def make_rows(images: Batch, teacher: NVG) -> ContentRows:
    """A row for every image and content stage of a batch."""
    stages = assemble(images, teacher.tokenizer)
    if images.wrong is not None:
        stages = with_mistakes(stages, teacher.tokenizer, images.wrong)
    return ContentRows.of(images, stages)


def guided(teacher: NVG, rows: ContentRows, scale: Tensor) -> Tensor:
    """The final canvas [R,L,C] that the teacher's two passes predict under scales [R]."""
    null = torch.full_like(rows.classes, teacher.content.num_classes)
    canvas, labels, stage = (torch.cat([one, one]) for one in (rows.canvas, rows.labels, rows.stage))
    noise = None if rows.noise is None else torch.cat([rows.noise, rows.noise])
    both = teacher.content(canvas, labels, torch.cat([rows.classes, null]), stage, noise)
    conditional, unconditional = both.chunk(2)
    return torch.lerp(unconditional, conditional, scale[:, None, None])


class GuidanceObjective(nn.Module):
    """Error of the predicted canvas, plus the divergence of the tokens' distributions: the shape of the content loss
    that the teacher was trained with, with the teacher's distribution instead of the data's token."""

    def __init__(self, teacher: NVG, student: NVG, settings: GuidanceRecipe) -> None:
        super().__init__()
        self.content, self.settings = student.content, settings
        self._frozen = (teacher,)  # in a tuple: no part of what is trained and saved
        if settings.compile:
            teacher.content.transformer.compile()
            self.content.transformer.compile()

    def forward(self, batch: GuidanceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and values for the log."""
        device, teacher = self.content.canvas_scales.device, self._frozen[0]
        precision = torch.autocast(device.type, torch.bfloat16, enabled=self.settings.bfloat16)
        scale = batch.guidance.flatten().to(device, non_blocking=True)
        with torch.no_grad():
            rows = make_rows(batch.images.to(device), teacher)
            with precision:
                wanted = guided(teacher, rows, scale)
        with precision:
            final = self.content(rows.canvas, rows.labels, rows.classes, rows.stage, rows.noise, scale)
        error = (final - wanted).square().mean()
        divergence, same = self._tokens(rows, final, wanted)
        values = {"canvas_mse": error.detach(), "divergence": divergence.detach(), "same_token": same}
        return error + divergence, values

    def _tokens(self, rows: ContentRows, final: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Divergence of the student's distributions from the teacher's, in nats a token, and the share of the clusters
        whose likeliest token is the same; means over rows."""
        divergences, shares = [], []
        for stage in range(int(self.content.splits) + 1):
            own = (rows.own_stage == stage).nonzero().squeeze(1)
            if not len(own):
                continue
            own = own.to(final.device, non_blocking=True)
            ours, theirs = (
                self.content.logits(
                    hierarchy.cluster_means(one[own] - rows.canvas[own], rows.labels[own], 2**stage)
                ).log_softmax(-1)
                for one in (final, wanted)
            )
            divergence = F.kl_div(ours, theirs.detach(), reduction="none", log_target=True).sum(-1)
            divergences.append(divergence.mean(1))
            shares.append((ours.argmax(-1) == theirs.argmax(-1)).float().mean(1))
        return torch.cat(divergences).mean(), torch.cat(shares).mean()
