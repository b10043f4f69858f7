"""The two networks: the content generator fills the regions of a stage, the structure generator splits them
(paper section 2.2).

Shapes: B batch, L positions, S = K+1 stages, N = 2^i clusters of stage i, C latent channels, V codes, D width.
The structure flow runs from noise at t = 1 to the structure embedding, shifted to [-1,1], at t = 0; its velocity is
noise - data. A network converted to few steps (`training/few_step.py`) gives the average velocity u over a span from t
down to r instead: z_r = z_t - (t - r) u, whatever the span (MeanFlow, Geng et al. 2025). The guidance scale is one of
its inputs. A content generator can have it as an input too (`training/guidance.py`): one pass then gives what two give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nvg_model import hierarchy
from nvg_model.config import NVGConfig
from nvg_model.errors import NVGError
from nvg_model.transformer import (
    CANVAS,
    CONTENT,
    Memory,
    Transformer,
    class_token_ids,
    embedding,
    initialize,
    position_ids,
    rope_table,
)

TIME_CHANNELS = 64
SPAN_FACTOR = 4.0
"""What a span in [0, 1] is multiplied by before its sinusoidal embedding: small, so that u is smooth in it."""


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
        # Zeros, not memory as it was found: whoever draws without weights, as tests do, would now and then meet NaN.
        self.start_canvas = nn.Parameter(torch.zeros(1, config.positions, channels))
        self.class_embedding = embedding(self.num_classes + 1, width)
        self.stage_embedding = embedding(config.num_stages, width)
        self.transformer = Transformer(
            config.generator.content_depth, width, channels, drop_path=config.generator.drop_path
        )
        self.code_head = nn.Linear(channels, config.autoencoder.codebook_size)
        self.largest_guidance = config.generator.largest_content_guidance
        if self.largest_guidance > 1:
            self.guidance_mlp = nn.Sequential(nn.Linear(TIME_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))
        # 1/std of the canvas before each stage, and of the final one; measured on the data before training.
        self.register_buffer("canvas_scales", torch.ones(config.num_stages + 1))

    def initialize(self) -> None:
        """Random weights for training from scratch."""
        initialize(self)
        nn.init.normal_(self.start_canvas, std=0.02)

    def has_inside(self, scale: float | Tensor) -> bool:
        """Whether one pass gives the result under a guidance scale: a number that the network was trained for."""
        return not isinstance(scale, Tensor) and 1 <= scale <= self.largest_guidance

    def forward(
        self,
        canvas: Tensor,
        labels: Tensor,
        classes: Tensor,
        stage: Tensor,
        noise: Tensor | None = None,
        guidance: Tensor | float = 1.0,
    ) -> Tensor:
        """The predicted final canvas, float32 [B,L,C].

        Args:
            canvas: [B,L,C] before the stage; ignored by items at stage 0, which start from a learned one.
            labels: long [B,L] of the stage.
            classes: long [B]; `num_classes` is the null class.
            stage: long [B].
            noise: normal [B,L,C], for a network whose `content_input` is not the canvas itself.
            guidance: scale of the guidance inside, [B] or one for all; only a network that has it looks at it.
        """
        dtype = self.canvas_in.weight.dtype
        scaled = canvas * self.canvas_scales[stage][:, None, None]
        if noise is not None:
            scaled = self._noised(scaled, noise, 1 - stage[:, None, None] / self.splits)
        scaled = scaled.to(dtype)
        x = self.canvas_in(torch.where(stage[:, None, None] > 0, scaled, self.start_canvas))
        class_token = self.class_embedding(classes)
        condition = class_token + self.stage_embedding(stage)
        if self.largest_guidance > 1:
            scales = guidance if isinstance(guidance, Tensor) else torch.full_like(canvas[:, 0, 0], guidance)
            condition = condition + self.guidance_mlp(time_sinusoid(scales).to(dtype))
        modulations = self.transformer.modulate(condition)
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
        guidance: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """The predicted final canvas and the token scores of a stage; no guidance, unless the network has it inside.

        Args:
            canvas: [B,L,C] after stage `stage - 1`; None or zeros at stage 0.
            structure: long [B,L], labels of the stage, or [B,S',L] with those of all stages up to it.
            classes: long [B], or None for the null class.
            stage: i.
            noise: normal [B,L,C], which a network that sees a noised canvas needs.
            guidance: scale of the guidance inside.
        Returns:
            ([B,L,C], [B,2^i,V]), float32.
        Raises:
            NVGError: there is no such stage, the noise is missing, or the network does not have that guidance inside.
        """
        self._check(stage, noise, guidance)
        labels = structure if structure.dim() == 2 else structure[:, stage]
        if canvas is None:
            canvas = torch.zeros(*labels.shape, self.start_canvas.shape[-1], device=labels.device)
        if classes is None:
            classes = torch.full_like(labels[:, 0], self.num_classes)
        stages = torch.full_like(labels[:, 0], stage)
        final = self(canvas, labels, classes, stages, noise, guidance)
        return final, self.logits(hierarchy.cluster_means(final - canvas.float(), labels, 2**stage))

    def _check(self, stage: int, noise: Tensor | None, guidance: float) -> None:
        """Raises NVGError: see `predict`."""
        if not self.has_inside(guidance):
            has = f"from 1 to {self.largest_guidance:g}" if self.largest_guidance > 1 else "not at all"
            raise NVGError(
                f"guidance is {guidance:g}; this content network has it inside {has}: choose another scale, or guide "
                "by a second pass"
            )
        if noise is None and self.input != "canvas":
            raise NVGError(f"this content generator sees a {self.input} canvas; give it noise")
        if not 0 <= stage <= self.splits:
            raise NVGError(f"there is no stage {stage}; this model has stages 0 to {self.splits}")


@dataclass(frozen=True)
class FlowContext:
    """What stays the same over all time steps of a stage."""

    tokens: Tensor
    """[B,1+L,D]: class token and canvas tokens."""
    rope: Tensor
    """Rotations of all 1+2L tokens."""
    condition: Tensor
    """[B,D]: class and stage embedding, the part of the condition vector that does not depend on time."""


class StructureGenerator(nn.Module):
    """Velocity of the flow whose channel i, at stage i < K-1, decides how the clusters split."""

    def __init__(self, config: NVGConfig) -> None:
        super().__init__()
        assert config.generator is not None
        width = config.generator.structure_width
        self.grid, self.splits, self.num_classes = config.grid, config.splits, config.generator.num_classes
        self.time_factor = config.generator.time_factor
        self.structured, self.partial = config.generator.structure_rope, config.generator.structure_input == "partial"
        self.structure_in = nn.Linear(config.splits, width)
        self.canvas_in = nn.Linear(config.autoencoder.latent_channels, width)
        self.class_embedding = embedding(self.num_classes + 1, width)
        self.stage_embedding = embedding(max(1, config.splits - 1), width)
        self.time_mlp = nn.Sequential(nn.Linear(TIME_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))
        self.averages = config.generator.flow == "average"
        self.largest_guidance = config.generator.largest_guidance
        if self.averages:  # of span and guidance
            self.average_mlp = nn.Sequential(nn.Linear(2 * TIME_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))
        self.transformer = Transformer(
            config.generator.structure_depth, width, config.splits, drop_path=config.generator.drop_path
        )

    def initialize(self) -> None:
        """Random weights for training from scratch."""
        initialize(self)

    def context(self, canvas: Tensor, labels: Tensor, classes: Tensor, stage: Tensor) -> FlowContext:
        """Embeds what the time steps of a stage share.

        Args:
            canvas: [B,L,C] after the stage, unscaled; labels: long [B,L] of the stage; classes, stage: long [B].
        """
        class_token = self.class_embedding(classes)
        canvas_tokens = self.canvas_in(canvas.to(class_token.dtype))
        ids = position_ids(labels, stage, self.splits, self.grid, CONTENT, self.structured)
        canvas_ids = ids.clone()
        canvas_ids[..., 0] = CANVAS
        return FlowContext(
            torch.cat([class_token[:, None], canvas_tokens], dim=1),
            rope_table(torch.cat([class_token_ids(ids), canvas_ids, ids], dim=1)),
            class_token + self.stage_embedding(stage),
        )

    def modulations(
        self, context: FlowContext, times: Tensor, spans: Tensor | float = 0.0, guidance: Tensor | float = 1.0
    ) -> list[Tensor]:
        """Of every layer, [...,B,D'], for times [...,B] (or anything that broadcasts against [B]).

        Args:
            spans, guidance: t - r and the guidance scale, of the times' shape or one for all; only a network of
                average velocities looks at them.
        """
        condition = context.condition + self.time_mlp(self._sinusoid(times * self.time_factor))
        if self.averages:
            span, scale = (
                value.expand_as(times) if isinstance(value, Tensor) else torch.full_like(times, value)
                for value in (spans, guidance)
            )
            both = torch.cat([self._sinusoid(span * SPAN_FACTOR), self._sinusoid(scale)], dim=-1)
            condition = condition + self.average_mlp(both)
        return self.transformer.modulate(condition)

    def _sinusoid(self, values: Tensor) -> Tensor:
        """`time_sinusoid` in the precision of the weights."""
        return time_sinusoid(values).to(self.class_embedding.weight.dtype)

    def step(self, z: Tensor, context: FlowContext, modulations: list[Tensor], memory: Memory | None = None) -> Tensor:
        """Velocity float32 [B,L,K] at state z [B,L,K].

        Args:
            memory: of `transformer.memory`, the same one in all steps of a stage: the tokens of canvas and class are
                computed in the first of them only. They depend on the time as well, but little.
        """
        tokens = self.structure_in(z.to(context.tokens.dtype))
        rope, last, known = context.rope, z.shape[1], context.tokens.shape[1]
        if memory and memory[0]:
            rope = rope[:, :, known:]
        else:
            tokens = torch.cat([context.tokens, tokens], dim=1)
        velocity = self.transformer(tokens, modulations, rope, last, memory).float()
        for kept in memory or ():
            kept[:] = [values[:, :, :known].contiguous() for values in kept]  # not all that they were cut from
        return velocity

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        canvas: Tensor,
        labels: Tensor,
        classes: Tensor,
        stage: Tensor,
        span: Tensor | float = 0.0,
        guidance: Tensor | float = 1.0,
    ) -> Tensor:
        """Velocity float32 [B,L,K]; t, classes, stage, span and guidance are [B], the rest as in `velocity`."""
        context = self.context(canvas, labels, classes, stage)
        return self.step(z, context, self.modulations(context, t, span, guidance))

    def velocity(
        self,
        z: Tensor,
        t: Tensor | float,
        canvas: Tensor,
        structure: Tensor,
        classes: Tensor | None,
        stage: int,
        span: float = 0.0,
        guidance: float = 1.0,
    ) -> Tensor:
        """Velocity noise - data of the flow; no guidance, unless the network has it inside.

        Args:
            z: [B,L,K], state at time t with the known channels (< stage) already clean.
            t: in [0,1]; a number, [1] or [B].
            canvas: [B,L,C] after the stage.
            structure: long [B,L], labels of the stage, or [B,S',L] with those of all stages up to it.
            classes: long [B], or None for the null class.
            stage: i in 0..K-2: the split of stage i into stage i+1.
            span: average the velocity over the times from t - span to t (a network of average velocities only).
            guidance: scale of the guidance inside (the same).
        Returns:
            float32 [B,L,K].
        Raises:
            NVGError: the stage has no split that the network makes, or it gives no such average.
        """
        if not 0 <= stage < self.splits - 1:
            raise NVGError(f"stage {stage} has no structure flow; the network splits stages 0 to {self.splits - 2}")
        if self.averages:
            self.check_guidance(guidance)
        elif span != 0 or guidance != 1:
            raise NVGError("this structure network gives velocities of one time, without guidance; leave out both")
        labels = structure if structure.dim() == 2 else structure[:, stage]
        if classes is None:
            classes = torch.full_like(labels[:, 0], self.num_classes)
        times = torch.as_tensor(t, dtype=torch.float32, device=z.device).expand(len(z))
        return self(z, times, canvas, labels, classes, torch.full_like(classes, stage), span, guidance)

    def check_guidance(self, scale: float) -> None:
        """Raises NVGError where a network of average velocities was not trained for the guidance scale."""
        if not 1 <= scale <= self.largest_guidance:
            raise NVGError(
                f"structure guidance is {scale:g}; this few-step checkpoint has it inside, from 1 to "
                f"{self.largest_guidance:g}: choose a scale in between"
            )


def time_sinusoid(t: Tensor) -> Tensor:
    """Cosines, then sines, of t * 10000^(-m/32), m = 0..31: [...,64], float32."""
    half = TIME_CHANNELS // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[..., None] * frequencies
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def known_channels(labels: Tensor, stage: int, splits: int) -> Tensor:
    """The flow's clean channels, the structure embedding minus 1: float32 [B,L,K]; those from `stage` on are 0."""
    return hierarchy.embed(labels, stage, splits).float() - 1
