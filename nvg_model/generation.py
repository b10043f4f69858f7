"""The stage loop: structure and content of every stage in turn (paper section 2.3).

A `Run` holds the networks and what was asked of them. Each step of the loop is a method without side effects, so that
editing changes one step and keeps the others.

Shapes: B batch, S = K+1 stages, L positions, N = 2^i clusters of stage i, V codes, C latent channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nvg_model import hierarchy
from nvg_model.content import ContentGenerator
from nvg_model.errors import NVGError
from nvg_model.noise import Noise, Use
from nvg_model.quantizer import Quantizer
from nvg_model.sampling import (
    Guidance,
    SamplingSettings,
    choose_tokens,
    guidance_schedule,
    time_grid,
    top_p_schedule,
)
from nvg_model.sequence import VisualGranularitySequence
from nvg_model.solvers import SOLVERS, Velocity, evaluations
from nvg_model.structure_flow import StructureGenerator, known_channels


@dataclass(frozen=True)
class Run:
    """One generation: networks, settings, and what is given instead of drawn. `NVG.run` makes it of a `Request`."""

    content: ContentGenerator
    structure: StructureGenerator
    quantizer: Quantizer
    classes: Tensor
    """long [B]."""
    settings: SamplingSettings
    given_structure: Tensor
    """long [B,S',L]: the structure of the first S' >= 1 stages, followed exactly."""
    given_tokens: tuple[Tensor, ...] = ()
    """Content that is kept: the codes [B,2^i] of the first stages, in the order of the labels."""
    structure_noise: Tensor | None = None
    """float [B,L,K], or None to draw it from the seed."""
    noises: Noise = field(default_factory=Noise)
    on_evaluation: Callable[[], None] = field(default=lambda: None)
    findings: list[tuple[str, Tensor]] = field(default_factory=list, repr=False)
    """What would be wrong, and whether all is well: bool [] on the device, read once at the end."""

    @property
    def splits(self) -> int:
        """K."""
        return self.structure.splits

    @torch.no_grad()
    def stages(self) -> Iterator[VisualGranularitySequence]:
        """Yields the sequence so far after every stage.

        Each state is immutable and complete in itself: keep its stages in a new run to go on from it.
        """
        (batch, _, positions), device = self.given_structure.shape, self.given_structure.device
        noise = self.flow_noise()
        canvas = torch.zeros(batch, positions, self.quantizer.channels, device=device)
        labels = torch.zeros(batch, positions, dtype=torch.long, device=device)
        structure, tokens, canvases = [], [], []
        for stage in range(self.splits + 1):
            if stage < self.given_structure.shape[1]:
                labels = self.given_structure[:, stage]
            elif stage > 0:
                labels = self.next_labels(canvas, labels, noise, stage - 1)
            if stage < len(self.given_tokens):
                codes = self.given_tokens[stage]
            else:
                codes = self.next_codes(canvas, labels, stage)
            canvas = self.next_canvas(canvas, codes, labels, stage)
            structure.append(labels)
            tokens.append(hierarchy.place(codes, labels))
            canvases.append(canvas)
            if stage == self.splits:
                self.check()
            yield VisualGranularitySequence(
                torch.stack(structure, 1), torch.stack(tokens, 1), torch.stack(canvases, 1), self.quantizer.grid
            )

    def guidance(self, scale: float | Tensor, null_class: int) -> Guidance:
        """What a network sees at once, and how its results become one."""
        return Guidance.at(scale, self.classes, null_class)

    def next_canvas(self, canvas: Tensor, codes: Tensor, labels: Tensor, stage: int) -> Tensor:
        """The canvas [B,L,C] after `stage`, from the one before and the codes [B,2^i] of the stage."""
        return self.quantizer.add_stage(canvas, codes, labels, stage)

    def next_codes(self, canvas: Tensor, labels: Tensor, stage: int) -> Tensor:
        """Draws the code of every cluster of a stage, long [B,2^i], from the canvas before it."""
        logits = self.token_logits(canvas, labels, stage)
        self.expect_finite(f"the content generator returned NaN or infinity at stage {stage}", logits)
        gumbel = None
        if self.settings.top_k != 1:
            gumbel = self.noise(tuple(logits.shape[1:]), Use.TOKEN, stage)
        return choose_tokens(logits, self.settings, top_p_schedule(self.settings.top_p, self.splits)[stage], gumbel)

    def token_logits(self, canvas: Tensor, labels: Tensor, stage: int) -> Tensor:
        """Guided scores float32 [B,2^i,V] of every code for every cluster of a stage."""
        scale = guidance_schedule(self.settings.content_guidance, self.splits)[stage]
        guidance = self.guidance(scale, self.content.num_classes)
        noise = self._canvas_noise(guidance, canvas, stage)
        self.on_evaluation()
        _, logits = self.content.predict(
            guidance.repeat(canvas), guidance.repeat(labels), guidance.classes, stage, noise
        )
        return guidance.combine(logits)

    def _canvas_noise(self, guidance: Guidance, canvas: Tensor, stage: int) -> Tensor | None:
        """What a network that sees a noised canvas [B,L,C] needs."""
        if self.content.input == "canvas":
            return None
        return guidance.repeat(self.noise(tuple(canvas.shape[1:]), Use.CANVAS, stage))

    def next_labels(self, canvas: Tensor, labels: Tensor, noise: Tensor, stage: int) -> Tensor:
        """Labels [B,L] of stage `stage + 1`, from the canvas after `stage` and the labels of the stage."""
        return self.split(labels, self.split_scores(canvas, labels, noise, stage), stage)

    def split(self, labels: Tensor, scores: Tensor, stage: int, sides: Tensor | None = None) -> Tensor:
        """Labels [B,L] of stage `stage + 1`, from those of the stage and the scores [B,L]; see `hierarchy.split`."""
        self.expect_finite(f"the structure generator returned NaN or infinity at stage {stage}", scores)
        return hierarchy.split(labels, scores, self.split_gumbel(stage), sides, 2**stage)

    def split_gumbel(self, stage: int) -> Tensor | None:
        """Gumbel noise [B,L] of a split, where the settings ask for it."""
        if not self.settings.gumbel:
            return None
        return self.noise((self.given_structure.shape[-1],), Use.SPLIT, stage)

    def split_scores(self, canvas: Tensor, labels: Tensor, noise: Tensor, stage: int) -> Tensor:
        """What the positions of every cluster are ranked by, [B,L].

        The last split orders two positions within each pair: the noise itself serves as the score.
        """
        if stage == self.splits - 1:
            return noise[..., stage]
        return self.integrate(canvas, labels, noise, stage)[..., stage]

    def integrate(
        self, canvas: Tensor, labels: Tensor, noise: Tensor, stage: int, grid: Sequence[float] | None = None
    ) -> Tensor:
        """End point float32 [B,L,K] of the structure flow of a stage, from `noise` [B,L,K] at t = 1 to t = 0.

        Args:
            grid: n+1 times from 1 to 0; those of `time_grid` by default.
        Raises:
            NVGError: a network of average velocities with another solver than euler, or a guidance it does not know.
        """
        if grid is None:
            grid = time_grid(self.settings.structure_steps, labels.shape[1])
        known = known_channels(labels, stage, self.splits)[..., :stage]

        def project(z: Tensor) -> Tensor:
            return torch.cat([known, z[..., stage:]], dim=-1) if self.structure.partial else z

        velocity = self._velocity(canvas, labels, stage, grid)
        return SOLVERS[self.settings.solver](velocity, project(noise.float()), grid, project)

    def _velocity(self, canvas: Tensor, labels: Tensor, stage: int, grid: Sequence[float]) -> Velocity:
        """The guided velocity of a stage as a function of state [B,L,K] and time."""
        flow = self.structure
        scale = guidance_schedule(self.settings.structure_guidance, self.splits)[stage]
        if flow.averages:
            _check_average(flow, self.settings, scale)
        guidance = self.guidance(1.0 if flow.averages else scale, flow.num_classes)
        stages = torch.full_like(guidance.classes, stage)
        context = flow.context(guidance.repeat(canvas), guidance.repeat(labels), guidance.classes, stages)
        times = torch.tensor(grid).to(canvas.device)[:, None]
        spans = times - torch.cat([times[1:], times[-1:]])
        of_grid = flow.modulations(context, times, spans, scale)  # of all time steps at once
        index_of = {t: index for index, t in enumerate(grid)}

        def velocity(z: Tensor, t: float) -> Tensor:
            self.on_evaluation()
            if t in index_of:
                modulations = [layer[index_of[t]] for layer in of_grid]
            else:
                modulations = flow.modulations(context, times.new_full((1,), t))
            return guidance.combine(flow.step(guidance.repeat(z), context, modulations))

        return velocity

    def expect_finite(self, otherwise: str, values: Tensor) -> None:
        """Notes on the device whether all is well; `check` reads it, so that the loop never waits for a GPU."""
        self.findings.append((otherwise, values.isfinite().all()))

    def check(self) -> None:
        """Reads what `expect_finite` noted, all at once. Raises NVGError with the first thing that is wrong."""
        if not self.findings:
            return
        for (otherwise, _), is_well in zip(
            self.findings, torch.stack([one for _, one in self.findings]).tolist(), strict=True
        ):
            if not is_well:
                raise NVGError(f"{otherwise}; check the weights and the precision")

    def flow_noise(self) -> Tensor:
        """Where the structure flow of all stages starts: [B,L,K]."""
        if self.structure_noise is not None:
            return self.structure_noise
        return self.noise((self.given_structure.shape[-1], self.splits), Use.STRUCTURE, 0)

    def noise(self, shape: tuple[int, ...], use: Use, stage: int) -> Tensor:
        """Noise [B,*shape] for a use and stage: normal for structure and canvas, Gumbel otherwise."""
        noise, device = self.noises.draw(shape, use, stage, len(self.classes)), self.given_structure.device
        if device.type == "cuda":  # the CPU draws while the GPU is still at work, and neither waits for the copy
            return noise.pin_memory().to(device, non_blocking=True)
        return noise.to(device)


def _check_average(flow: StructureGenerator, settings: SamplingSettings, scale: float) -> None:
    """Euler is exact for average velocities; the other solvers would take them for velocities of one time."""
    if settings.solver != "euler":
        raise NVGError(
            f"solver is {settings.solver}; this few-step checkpoint gives average velocities, which need no other "
            "solver than euler: choose euler, with 1 to 8 steps"
        )
    flow.check_guidance(scale)


def count_evaluations(
    settings: SamplingSettings, splits: int, structure_stages: int = 1, content_stages: int = 0
) -> int:
    """Network evaluations (each one `on_evaluation`) of a run in which so many stages are given."""
    a_stage = evaluations(settings.solver, settings.structure_steps)
    flows = max(0, splits - max(1, structure_stages))
    return splits + 1 - content_stages + flows * a_stage
