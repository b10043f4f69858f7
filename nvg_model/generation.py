"""The stage loop: structure and content of every stage in turn (paper section 2.3).

A `Request` is what is asked for. A `Run` holds the networks and the checked request. Each step of its loop is a method
without side effects, so that editing changes one step and keeps the others.

Shapes: B batch, S = K+1 stages, S' stages given, L positions, N = 2^i clusters of stage i, V codes, C latent channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from nvg_model import hierarchy
from nvg_model.errors import NVGError
from nvg_model.networks import ContentGenerator, StructureGenerator, known_channels
from nvg_model.quantizer import Quantizer
from nvg_model.sampling import (
    Guidance,
    GuidedVelocity,
    Noise,
    SamplingSettings,
    Use,
    choose_tokens,
    guidance_schedule,
    time_grid,
    top_p_schedule,
)
from nvg_model.solvers import SOLVERS, evaluations
from nvg_model.tokenizer import VisualGranularitySequence

if TYPE_CHECKING:
    from nvg_model.regions import Region

NO_CLASS = "unconditional"
"""The word for the null class, where no class has that name."""
Classes = str | int | Sequence[str | int] | Tensor | None
"""One class or several, by name or index; None or the word NO_CLASS: the null class."""


@dataclass(frozen=True)
class Request:
    """The arguments of `NVG.generate`, `stages` and `next_structure`; unchecked, with nothing of a model in them."""

    classes: Classes
    """Names or indices, one per image; None for one unconditional image."""
    seed: int = 0
    """Item b of the batch draws its noise from (seed, first_item + b) alone."""
    settings: SamplingSettings | None = None
    """None: the defaults of the checkpoint."""
    structure: Tensor | None = None
    """long [B,S',L] (or [1,S',L] for all), labels of the first S' stages, followed exactly."""
    sequence: VisualGranularitySequence | None = None
    """What to keep stages of; one item serves the whole batch."""
    keep_structure: int = 0
    """Keep the structure of this many stages of `sequence`."""
    keep_content: int = 0
    """Keep the content of this many stages of `sequence`: cluster j of a stage keeps its token, whatever shape it
    now has (the paper's stage-wise variation)."""
    structure_noise: Tensor | None = None
    """float [B,L,K], instead of the noise from the seed."""
    first_item: int = 0
    """Number of the first item, to repeat one item of a larger batch alone."""
    on_evaluation: Callable[[], None] | None = None
    """Called before every network evaluation; what it raises ends the run."""
    regions: Sequence[Region] = ()
    """Parts of the canvas with classes of their own; `classes` is that of the rest."""
    variation_seed: int = 0
    """Another seed, for a variation of the picture of `seed`."""
    variation: float = 0.0
    """How far towards it, 0 to 1: small values change little, 1 is the picture of `variation_seed`."""
    shared_noise: bool = False
    """Whether all images draw the noise of the first: frames that differ in their structure or class only."""
    keep: Tensor | None = None
    """float [H,W] or [B,H,W]: 1 where `sequence`, which must be whole, stays as it is; redrawn where it is 0."""
    area: Tensor | None = None
    """float [H,W] or [B,H,W]: 0.5 and more is an area of any size that the structure has as regions of its own."""
    area_rule: str = "nested"
    """How the area gets them: one of `areas.RULES`."""
    seamless: bool = False
    """Draw pictures that tile without a seam; `decode` them with seamless=True as well."""
    partner: Any = None
    """Another NVG with the same tokenizer, which makes the stages from `partner_from` on, structure and content."""
    partner_from: int = 0
    """Its first stage, 1 to K; 0: the second half of the stages."""


class Layout(TypedDict, total=False):
    """The fields of a `Request` that are given by name only, of its noise and its layout."""

    first_item: int
    variation_seed: int
    variation: float
    shared_noise: bool
    area: Tensor | None
    area_rule: str
    seamless: bool
    partner: Any
    partner_from: int


class More(Layout, total=False):
    """The fields of a `Request` that are given by name only."""

    on_evaluation: Callable[[], None] | None
    regions: Sequence[Region]
    keep: Tensor | None


@dataclass(frozen=True)
class Run:
    """One generation: the networks, the settings, and all that is given. `NVG.run` makes it from a `Request`."""

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
    late: Run | None = None
    """The partner's run of the same request, which makes the stages from `late_from` on."""
    late_from: int = 0

    def __post_init__(self) -> None:
        self.settings.check_stages(self.splits - 1)

    @property
    def splits(self) -> int:
        """K."""
        return self.structure.splits

    def at(self, stage: int) -> Run:
        """The run that makes a stage."""
        return self.late if self.late is not None and stage >= self.late_from else self

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
                labels = self.at(stage).next_labels(canvas, labels, noise, stage - 1)
            if stage < len(self.given_tokens):
                codes = self.given_tokens[stage]
            else:
                codes = self.at(stage).next_codes(canvas, labels, stage)
            canvas = self.next_canvas(canvas, codes, labels, stage)
            structure.append(labels)
            tokens.append(hierarchy.place(codes, labels))
            canvases.append(canvas)
            if stage == self.splits:
                for run in filter(None, (self, self.late)):
                    run.check()
            yield VisualGranularitySequence(
                torch.stack(structure, 1), torch.stack(tokens, 1), torch.stack(canvases, 1), self.quantizer.grid
            )

    def guidance(self, scale: float | Tensor, null_class: int) -> Guidance:
        """What a network sees at once, and how its results are combined."""
        return Guidance.at(scale, self.classes, null_class)

    def content_guidance(self, scale: float | Tensor) -> tuple[Guidance, float]:
        """What the content generator sees, and the scale that it has inside: 1 where guidance takes a second pass."""
        if isinstance(scale, Tensor) or not self.content.has_inside(scale):
            return self.guidance(scale, self.content.num_classes), 1.0
        return self.guidance(1.0, self.content.num_classes), scale

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
        guidance, inside = self.content_guidance(scale)
        noise = self._canvas_noise(guidance, canvas, stage)
        self.on_evaluation()
        _, logits = self.content.predict(
            guidance.repeat(canvas), guidance.repeat(labels), guidance.classes, stage, noise, inside
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
        chosen = self.settings.at(stage)
        if grid is None:
            grid = time_grid(chosen.structure_steps, labels.shape[1], chosen.time_shift)
        known = known_channels(labels, stage, self.splits)[..., :stage]

        def project(z: Tensor) -> Tensor:
            return torch.cat([known, z[..., stage:]], dim=-1) if self.structure.partial else z

        scale = guidance_schedule(self.settings.structure_guidance, self.splits)[stage]
        passes = self.guidance(scale, self.structure.num_classes), self.guidance(1.0, self.structure.num_classes)
        velocity = GuidedVelocity(self.structure, passes, canvas, labels, stage, chosen, self.on_evaluation)
        velocity.prepare(grid)
        return SOLVERS[chosen.solver](velocity, project(noise.float()), grid, project)

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


def count_evaluations(
    settings: SamplingSettings, splits: int, structure_stages: int = 1, content_stages: int = 0
) -> int:
    """Network evaluations of a run with this many stages given; `on_evaluation` is called as often.

    Raises:
        NVGError: settings by stage, for another number of stages.
    """
    settings.check_stages(splits - 1)
    flows = [settings.at(stage) for stage in range(max(1, structure_stages) - 1, splits - 1)]
    return splits + 1 - content_stages + sum(evaluations(one.solver, one.structure_steps) for one in flows)


def given_structure(request: Request, positions: int, batch: int) -> Tensor:
    """The structure to follow, long [B,S',L], S' >= 1. Raises NVGError."""
    structure, keep = request.structure, request.keep_structure
    if structure is None and not keep:
        return torch.zeros(batch, 1, positions, dtype=torch.long)
    if structure is None:
        structure = _kept(request, keep, "keep_structure").structure[:, :keep]
    elif keep:
        raise NVGError("give either a structure or keep_structure, not both: one stage cannot follow two")
    hierarchy.check(structure, positions)
    return _for_batch(structure.long(), batch, "structure")


def given_tokens(request: Request, positions: int, num_codes: int, batch: int) -> tuple[Tensor, ...]:
    """Codes long [B,2^i] of the first stages, those that are kept. Raises NVGError."""
    keep = request.keep_content
    if not keep:
        return ()
    kept = _kept(request, keep, "keep_content")
    hierarchy.check(kept.structure[:, :keep], positions)
    if not 0 <= int(kept.tokens.min()) <= int(kept.tokens.max()) < num_codes:
        raise NVGError(
            f"the sequence has tokens from {int(kept.tokens.min())} to {int(kept.tokens.max())}; this model has "
            f"codes 0 to {num_codes - 1}: tokenize with this model"
        )
    codes = [kept.cluster_tokens(stage) for stage in range(keep)]
    return tuple(_for_batch(code, batch, "sequence") for code in codes)


def given_noise(request: Request, positions: int, batch: int) -> Tensor | None:
    """The structure noise float [B,L,K], or None. Raises NVGError."""
    noise = request.structure_noise
    if noise is None:
        return None
    wanted = [batch, positions, hierarchy.num_splits(positions)]
    if list(noise.shape) != wanted or not bool(torch.isfinite(noise).all()):
        raise NVGError(f"structure_noise has shape {list(noise.shape)}; it must be {wanted} and finite")
    return noise.float()


def _kept(request: Request, keep: int, name: str) -> VisualGranularitySequence:
    sequence = request.sequence
    if sequence is None:
        raise NVGError(f"{name} is {keep}, but there is no sequence to keep from; pass one")
    if not 0 <= keep <= sequence.num_stages:
        raise NVGError(f"{name} is {keep}; the sequence has {sequence.num_stages} stages")
    return sequence


def _for_batch(x: Tensor, batch: int, name: str) -> Tensor:
    """One item for all, or one each."""
    if len(x) not in (1, batch):
        raise NVGError(f"the {name} has {len(x)} items for {batch} classes; give one, or one per class")
    return x.expand(batch, *x.shape[1:])


def noise_of(request: Request) -> Noise:
    """The noise of a run. Raises NVGError."""
    share = request.variation
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise NVGError(f"variation is {share!r}; it must lie between 0 (this seed) and 1 (variation_seed)")
    seed, first_item = non_negative(request.seed, "seed"), non_negative(request.first_item, "first_item")
    other = non_negative(request.variation_seed, "variation_seed")
    return Noise(seed, first_item, request.shared_noise, other, share)


def non_negative(value: int, name: str) -> int:
    """A whole number from 0 on. Raises NVGError."""
    if not isinstance(value, Integral) or value < 0:
        raise NVGError(f"{name} is {value!r}; it must be a whole number and not negative")
    return int(value)
