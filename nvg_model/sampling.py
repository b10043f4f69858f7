"""Sampling: settings, schedules, guidance, the flow's velocity, token choice, noise (paper sections 2.2 and 2.3).

Shapes: B batch, R rows of a pass (B, or more where regions have classes of their own), L positions, N = 2^i clusters of
stage i, C latent channels, K splits, V codes.
Noise comes from streams of the CPU keyed by (seed, item, use, stage). So a seed means the same on every device, and an
item is the same alone or in a batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nvg_model import schedule
from nvg_model.errors import NVGError

if TYPE_CHECKING:
    from nvg_model.networks import FlowContext, StructureGenerator

_NEWER: dict[str, Any] = {"reuse": False, "guidance_every": 1, "time_shift": None}
"""Settings that checkpoints of nvg 0.1.0 lack, with what they had instead."""


@dataclass(frozen=True)
class StageFlow:
    """How the structure flow of one stage runs; the fields are those of `SamplingSettings`."""

    structure_steps: int
    solver: str
    reuse: bool
    guidance_every: int
    time_shift: float | None


@dataclass(frozen=True)
class SamplingSettings:
    """How to sample. The defaults are the paper's for its K = 8 models (section 3.1)."""

    content_guidance: tuple[float, float] = (1.0, 3.5)
    """Classifier-free guidance scale of the tokens at the first and the last stage, linear in between."""
    structure_guidance: tuple[float, float] = (1.0, 2.5)
    """Classifier-free guidance scale of the structure flow, over the same stages."""
    top_p: tuple[float, float] = (1.0, 0.5)
    """Nucleus of the token choice at the first and the last stage (see `top_p_schedule`)."""
    top_k: int = 0
    """Keep only the k best tokens; 0 keeps all, 1 is plain argmax."""
    temperature: float = 1.0
    """Divides the logits of the tokens."""
    structure_steps: int | tuple[int, ...] = 25
    """Time steps of the structure flow; one number for all stages, or one for each that the flow splits (K-1)."""
    solver: str | tuple[str, ...] = "euler"
    """Of the structure flow, by its name in `nvg_model.solvers`, or one for each stage; a few-step checkpoint takes
    euler."""
    gumbel: bool = False
    """Choose the halves by Gumbel-top-k instead of top-k, for diversity."""
    reuse: bool | tuple[bool, ...] = False
    """Keep the keys and values of canvas and class in the structure network after a stage's first step: about half the
    work of the later steps, and nearly the same splits. One for all stages, or one for each."""
    guidance_every: int | tuple[int, ...] = 1
    """Compute the guidance of the structure flow in every n-th evaluation of a stage; the others take what it last was,
    for half the work. One number for all stages, or one for each."""
    time_shift: float | tuple[float | None, ...] | None = None
    """Where the flow's time steps lie (see `time_grid`): 0 are even ones, more is denser near the noise. None are the
    paper's. One for all stages, or one for each."""

    def __post_init__(self) -> None:
        for name in ("content_guidance", "structure_guidance", "top_p"):
            given = getattr(self, name)
            pair = tuple(given) if isinstance(given, tuple | list) else ()
            if len(pair) != 2 or not all(isinstance(value, Real) and math.isfinite(value) for value in pair):
                raise NVGError(f"{name} is {given!r}; give two numbers, for the first and the last stage")
            object.__setattr__(self, name, pair)
        for name in ("content_guidance", "structure_guidance"):
            if min(getattr(self, name)) < 0:
                raise NVGError(f"{name} is {getattr(self, name)}; both values must be 0 or more (1 is unguided)")
        if not all(0 < value <= 1 for value in self.top_p):
            raise NVGError(f"top_p is {self.top_p}; both values must lie in (0, 1]")
        if not isinstance(self.top_k, int) or self.top_k < 0:
            raise NVGError(f"top_k is {self.top_k!r}; give 0 for no limit, or a positive whole number")
        if not isinstance(self.temperature, Real) or not 0 < self.temperature < math.inf:
            raise NVGError(f"temperature is {self.temperature!r}; it must be positive (top_k=1 is plain argmax)")
        for name in schedule.BY_STAGE:
            object.__setattr__(self, name, schedule.checked(name, getattr(self, name)))

    def at(self, stage: int) -> StageFlow:
        """What they say of one stage."""
        values = {name: getattr(self, name) for name in schedule.BY_STAGE}
        return StageFlow(**{name: one[stage] if isinstance(one, tuple) else one for name, one in values.items()})

    def check_stages(self, flows: int) -> None:
        """Raises NVGError where one does not have a value for each of the stages that a model's flow splits."""
        for name in schedule.BY_STAGE:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != flows:
                raise NVGError(
                    f"{name} has {len(value)} values, {schedule.shown(value)}; the structure flow of this model splits "
                    f"{flows} stages: give one value for all, or {flows}"
                )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, without what older versions do not know where it is as they had it."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in _NEWER or value != _NEWER[name]}


def guidance_schedule(ends: tuple[float, float], splits: int) -> list[float]:
    """Scale of every stage 0..K, linear between the two ends."""
    first, last = ends
    return [first + (last - first) * stage / max(1, splits) for stage in range(splits + 1)]


def top_p_schedule(ends: tuple[float, float], splits: int) -> list[float]:
    """Nucleus of every stage: last + (first - last) * (1 - (K^(i/K) - 1) / (K - 1)), falling slowly at first."""
    first, last = ends
    base = max(2, splits)
    return [
        last + (first - last) * (1 - (base ** (stage / max(1, splits)) - 1) / (base - 1)) for stage in range(splits + 1)
    ]


def time_grid(steps: int, positions: int, shift: float | None = None) -> list[float]:
    """Times from 1 to 0, n+1 numbers in the precision of float32: t' = e^mu / (e^mu + 1/t - 1).

    Args:
        shift: mu; None is the paper's, linear in L, from 0.5 at 256 positions to 1.15 at 4096.
    """
    mu = 0.5 + (1.15 - 0.5) * (positions - 256) / (4096 - 256) if shift is None else shift
    even = np.linspace(1, 0, steps + 1)[:-1]
    return [*(math.exp(mu) / (math.exp(mu) + 1 / even - 1)).astype(np.float32).tolist(), 0.0]


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Sets the logits [...,V] of tokens that may not be drawn to -inf.

    Args:
        top_k: keep the k largest; 0 keeps all.
        top_p: in descending order, keep a token if the probability before it is <= top_p.
    """
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    if top_p < 1:
        ordered, index = logits.sort(dim=-1, descending=True, stable=True)
        probability = ordered.softmax(-1)
        before = probability.cumsum(-1) - probability
        # The first is always kept: its sum before is 0 but for rounding.
        before[..., 0] = 0
        outside = torch.empty_like(index, dtype=torch.bool).scatter_(-1, index, before > top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    return logits


def choose_tokens(logits: Tensor, settings: SamplingSettings, top_p: float, gumbel: Tensor | None) -> Tensor:
    """One token per row of logits [B,N,V]: long [B,N].

    Drawing is the argmax of logits plus standard Gumbel noise [B,N,V], which needs no normalisation; with top_k = 1
    no noise is needed.
    """
    if settings.top_k == 1 or gumbel is None:
        return logits.argmax(-1)
    return (filter_logits(logits / settings.temperature, settings.top_k, top_p) + gumbel).argmax(-1)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: what a network sees at once, and how its results become one."""

    scale: float | Tensor
    classes: Tensor
    """long [B] at a scale of 1, which needs no second pass; otherwise [2B]: the classes, then the null class."""
    passes: int

    @classmethod
    def at(cls, scale: float | Tensor, classes: Tensor, null_class: int) -> Guidance:
        """Guidance of the classes long [B] at a scale."""
        if not isinstance(scale, Tensor) and scale == 1:
            return cls(scale, classes, 1)
        return cls(scale, torch.cat([classes, torch.full_like(classes, null_class)]), 2)

    def repeat(self, x: Tensor) -> Tensor:
        """The same input [B,...] for every pass: [B,...] or [2B,...]."""
        return x if self.passes == 1 else x.repeat(self.passes, *[1] * (x.dim() - 1))

    def combine(self, results: Tensor) -> Tensor:
        """The guided result [B,...]: null + scale * (class - null)."""
        if self.passes == 1:
            return results
        conditional, null = results.chunk(2)
        return null + self.scale * (conditional - null)


class GuidedVelocity:
    """The velocity of a stage as a function of state [B,L,K] and time.

    Every n-th evaluation (`guidance_every`) is guided. The ones between take only the rows of the classes, which come
    first among those of the guidance, and add the share that the guidance had in the last guided velocity.
    """

    def __init__(
        self,
        flow: StructureGenerator,
        passes: tuple[Guidance, Guidance],
        canvas: Tensor,
        labels: Tensor,
        stage: int,
        chosen: StageFlow,
        on_evaluation: Callable[[], None],
    ) -> None:
        """Args:
            passes: the guidance of the stage, and the same without a null class.
            canvas, labels: [B,L,C] and long [B,L] of the stage.
            on_evaluation: called before every evaluation.
        Raises:
            NVGError: a network of average velocities with settings that it does not know.
        """
        guidance, self.unguided = passes
        self.flow, self.scale, self.every, self.on_evaluation = (
            flow,
            guidance.scale,
            chosen.guidance_every,
            on_evaluation,
        )
        if flow.averages:
            _check_average(flow, chosen, float(self.scale))
        self.guidance = self.unguided if flow.averages else guidance
        stages = torch.full_like(self.guidance.classes, stage)
        rows = self.guidance.repeat(canvas), self.guidance.repeat(labels)
        self.context = flow.context(*rows, self.guidance.classes, stages)
        self.rows = len(self.unguided.classes)
        self.of_classes = _first_rows(self.context, self.rows)
        self.memory = flow.transformer.memory() if chosen.reuse else None
        self.known: dict[float, list[Tensor]] = {}
        self.count, self.share = 0, torch.zeros(())

    def prepare(self, grid: Sequence[float]) -> None:
        """Computes the modulations of the times that are certain to be asked for at once."""
        times = torch.tensor(grid).to(self.context.tokens.device)[:, None]
        spans = times - torch.cat([times[1:], times[-1:]])
        layers = self.flow.modulations(self.context, times, spans, self.scale)
        self.known = {t: [layer[index] for layer in layers] for index, t in enumerate(grid)}

    def __call__(self, z: Tensor, t: float) -> Tensor:
        """float32 [B,L,K] at state z [B,L,K] and time t."""
        self.on_evaluation()
        modulations = self.known.get(t)
        if modulations is None:
            modulations = self.flow.modulations(self.context, torch.full((1,), t, device=z.device))
        guided, self.count = self.count % self.every == 0, self.count + 1
        if not guided and self.guidance.passes > 1:
            return self._unguided(z, modulations) + self.share
        results = self.flow.step(self.guidance.repeat(z), self.context, modulations, self.memory)
        velocity = self.guidance.combine(results)
        if self.every > 1 and self.guidance.passes > 1:
            self.share = velocity - self.unguided.combine(results[: self.rows])
        return velocity

    def _unguided(self, z: Tensor, modulations: list[Tensor]) -> Tensor:
        """The velocity of the classes alone."""
        modulations = [layer[: self.rows] for layer in modulations]
        memory = self.memory and [[values[: self.rows] for values in block] for block in self.memory]
        return self.unguided.combine(self.flow.step(self.unguided.repeat(z), self.of_classes, modulations, memory))


def _first_rows(context: FlowContext, rows: int) -> FlowContext:
    """The context of the first rows alone."""
    return dataclasses.replace(
        context, tokens=context.tokens[:rows], rope=context.rope[:, :rows], condition=context.condition[:rows]
    )


def _check_average(flow: StructureGenerator, chosen: StageFlow, scale: float) -> None:
    """Euler is exact for average velocities; the other solvers would take them for velocities of one time."""
    if chosen.solver != "euler":
        raise NVGError(
            f"solver is {chosen.solver}; this few-step checkpoint gives average velocities, which need no other "
            "solver than euler: choose euler, with 1 to 8 steps"
        )
    if chosen.guidance_every != 1:
        raise NVGError(
            f"guidance_every is {chosen.guidance_every}; this few-step checkpoint has the guidance inside every "
            "evaluation: leave it at 1"
        )
    flow.check_guidance(scale)


class Use(IntEnum):
    """What a noise stream is for."""

    STRUCTURE = 0
    SPLIT = 1
    TOKEN = 2
    CANVAS = 3

    @property
    def is_normal(self) -> bool:
        """Whether the noise is normal; choices take Gumbel noise."""
        return self in (Use.STRUCTURE, Use.CANVAS)


def stream(*keys: int, high_word_first: bool = False) -> torch.Generator:
    """A CPU generator of its own for every tuple of keys.

    Args:
        high_word_first: the other order of the two words that make the seed. The training has its streams so.
    """
    low, high = np.random.SeedSequence([int(key) for key in keys]).generate_state(2, np.uint32).tolist()
    if high_word_first:
        low, high = high, low
    return torch.Generator().manual_seed(high << 32 | low)


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise."""
    return -torch.empty(shape).exponential_(generator=generator).log()


@dataclass(frozen=True)
class Noise:
    """All noise of a run."""

    seed: int = 0
    first_item: int = 0
    """Number of the first item: item b of the batch draws from (seed, first_item + b) alone."""
    shared: bool = False
    """Whether every item draws the noise of the first one: frames of one picture."""
    variation_seed: int = 0
    variation: float = 0.0
    """How far towards the noise of `variation_seed`, on the sphere: 0 is `seed`, 1 is `variation_seed`."""

    def draw(self, shape: tuple[int, ...], use: Use, stage: int, batch: int) -> Tensor:
        """Noise [B,*shape] for a use and stage, on the CPU."""
        if self.shared:
            return self._item(shape, use, stage, self.first_item).expand(batch, *shape)
        return torch.stack([self._item(shape, use, stage, self.first_item + item) for item in range(batch)])

    def _item(self, shape: tuple[int, ...], use: Use, stage: int, item: int) -> Tensor:
        draw = torch.randn if use.is_normal else gumbel_noise
        first, second = ((seed, item, use, stage) for seed in (self.seed, self.variation_seed))
        if self.variation in (0, 1):
            return draw(shape, generator=stream(*(second if self.variation else first)))
        start, end = draw(shape, generator=stream(*first)), draw(shape, generator=stream(*second))
        if use.is_normal:
            return between(start, end, self.variation)
        return normal_to_gumbel(between(gumbel_to_normal(start), gumbel_to_normal(end), self.variation))


def between(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Standard normal noise on the arc between two independent samples, at a share of its length."""
    angle = share * math.pi / 2
    return math.cos(angle) * first + math.sin(angle) * second


def gumbel_to_normal(noise: Tensor) -> Tensor:
    """Standard normal values with the same ranks as standard Gumbel values, float64."""
    upper_tail = -torch.expm1(-torch.exp(-noise.double()))
    return -torch.special.ndtri(upper_tail)


def normal_to_gumbel(noise: Tensor) -> Tensor:
    """The inverse of `gumbel_to_normal`, float32."""
    return -torch.log(-torch.special.log_ndtr(noise.double())).float()
