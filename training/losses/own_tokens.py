"""Mistakes on the canvases that the generators see in training: exchanged tokens, and tokens that they draw themselves.

Shapes: B images, S = K+1 stages, L positions, C latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nvg_model import hierarchy
from nvg_model.networks import ContentGenerator
from nvg_model.sampling import filter_logits, top_p_schedule
from nvg_model.tokenizer import Tokenizer
from training.data.generator_batch import Batch, Stages


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
        """The images of the batch, long [b], whose tokens of a stage it draws."""
        assert self.batch.start is not None  # on the CPU, so that no GPU is waited for
        chosen = (self.batch.start <= stage).nonzero().squeeze(1)
        return chosen.to(self.batch.classes.device, non_blocking=True)

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
