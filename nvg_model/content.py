"""Content generator: predicts the final canvas, and from it the tokens of a stage (paper section 2.2).

Shapes: B batch, L positions, S = K+1 stages, N = 2^i clusters of stage i, C latent channels, V codes, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nvg_model import hierarchy
from nvg_model.config import NVGConfig
from nvg_model.errors import NVGError
from nvg_model.transformer import CONTENT, Transformer, class_token_ids, embedding, initialize, position_ids, rope_table


class ContentGenerator(nn.Module):
    """One pass gives all tokens of a stage at once."""

    canvas_scales: Tensor

    def __init__(self, config: NVGConfig) -> None:
        super().__init__()
        assert config.generator is not None
        width, channels = config.generator.content_width, config.autoencoder.latent_channels
        self.grid, self.splits, self.num_classes = config.grid, config.splits, config.generator.num_classes
        self.input, self.structured = config.generator.content_input, config.generator.structure_rope
        self.canvas_in = nn.Linear(channels, width)
        self.start_canvas = nn.Parameter(torch.empty(1, config.positions, channels))
        self.class_embedding = embedding(self.num_classes + 1, width)
        self.stage_embedding = embedding(config.num_stages, width)
        self.transformer = Transformer(
            config.generator.content_depth, width, channels, drop_path=config.generator.drop_path
        )
        self.code_head = nn.Linear(channels, config.autoencoder.codebook_size)
        # 1/std of the canvas before each stage, and of the final one; measured on the data before training.
        self.register_buffer("canvas_scales", torch.ones(config.num_stages + 1))

    def initialize(self) -> None:
        """Random weights for training from scratch."""
        initialize(self)
        nn.init.normal_(self.start_canvas, std=0.02)

    def forward(
        self, canvas: Tensor, labels: Tensor, classes: Tensor, stage: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """The predicted final canvas, float32 [B,L,C].

        Args:
            canvas: [B,L,C] before the stage; ignored by items at stage 0, which start from a learned one.
            labels: long [B,L] of the stage.
            classes: long [B]; `num_classes` is the null class.
            stage: long [B].
            noise: normal [B,L,C], for a network whose `content_input` is not the canvas itself.
        """
        dtype = self.canvas_in.weight.dtype
        scaled = canvas * self.canvas_scales[stage][:, None, None]
        if noise is not None:
            scaled = self._noised(scaled, noise, 1 - stage[:, None, None] / self.splits)
        scaled = scaled.to(dtype)
        x = self.canvas_in(torch.where(stage[:, None, None] > 0, scaled, self.start_canvas))
        class_token = self.class_embedding(classes)
        modulations = self.transformer.modulate(class_token + self.stage_embedding(stage))
        ids = position_ids(labels, stage, self.splits, self.grid, CONTENT, self.structured)
        rope = rope_table(torch.cat([class_token_ids(ids), ids], dim=1))
        tokens = torch.cat([class_token[:, None], x], dim=1)
        return self.transformer(tokens, modulations, rope, last=labels.shape[1]).float() / self.canvas_scales[-1]

    def _noised(self, scaled: Tensor, noise: Tensor, share: Tensor) -> Tensor:
        """The canvas with its share [B,1,1] of noise, as `content_input` wants it."""
        if self.input == "canvas":
            return scaled
        return scaled + share * noise if self.input == "noised" else torch.lerp(scaled, noise.to(scaled), share)

    def logits(self, difference: Tensor) -> Tensor:
        """Scores float32 [...,V] of every code for the wanted change of a cluster's canvas [...,C]."""
        return self.code_head(difference.to(self.code_head.weight)).float()

    def predict(
        self,
        canvas: Tensor | None,
        structure: Tensor,
        classes: Tensor | None,
        stage: int,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The predicted final canvas and the token scores of a stage; no guidance.

        Args:
            canvas: [B,L,C] after stage `stage - 1`; None or zeros at stage 0.
            structure: long [B,L], labels of the stage, or [B,S',L] with those of all stages up to it.
            classes: long [B], or None for the null class.
            stage: i.
            noise: normal [B,L,C], which a network that sees a noised canvas needs.
        Returns:
            ([B,L,C], [B,2^i,V]), float32.
        Raises:
            NVGError: there is no such stage, or the noise is missing.
        """
        if noise is None and self.input != "canvas":
            raise NVGError(f"this content generator sees a {self.input} canvas; give it noise")
        if not 0 <= stage <= self.splits:
            raise NVGError(f"there is no stage {stage}; this model has stages 0 to {self.splits}")
        labels = structure if structure.dim() == 2 else structure[:, stage]
        if canvas is None:
            canvas = torch.zeros(*labels.shape, self.start_canvas.shape[-1], device=labels.device)
        if classes is None:
            classes = torch.full_like(labels[:, 0], self.num_classes)
        stages = torch.full_like(labels[:, 0], stage)
        final = self(canvas, labels, classes, stages, noise)
        return final, self.logits(hierarchy.cluster_means(final - canvas.float(), labels, 2**stage))
