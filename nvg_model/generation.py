"""The stage loop: structure and content of every stage in turn (paper section 2.3).

Shapes: B batch, S = K+1 stages, L positions, N = 2^i clusters of stage i, V codes, C latent channels.
Everything here is a pure function of its arguments; noise comes from CPU streams keyed by (seed, item, use), so a seed
means the same on every device, and an item is the same alone or in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nvg_model import hierarchy
from nvg_model.errors import NVGError
from nvg_model.sampling import SamplingSettings, choose_tokens, guidance_schedule, guide, time_grid, top_p_schedule
from nvg_model.sequence import VisualGranularitySequence
from nvg_model.solvers import SOLVERS, evaluations
from nvg_model.structure_flow import known_channels

if TYPE_CHECKING:
    from nvg_model.model import NVG
    from nvg_model.structure_flow import StructureGenerator


class _Use(IntEnum):
    """What a noise stream is for."""

    STRUCTURE = 0
    SPLIT = 1
    TOKEN = 2
    CANVAS = 3


def _stream(seed: int, item: int, use: _Use, stage: int) -> torch.Generator:
    """A CPU generator of its own for every (seed, item, use, stage)."""
    low, high = np.random.SeedSequence((seed, item, int(use), stage)).generate_state(2, np.uint32).tolist()
    return torch.Generator().manual_seed(high << 32 | low)


def _gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return -torch.empty(shape).exponential_(generator=generator).log()


@dataclass(frozen=True)
class Request:
    """A checked request to `run_stages`; `NVG.stages` makes it."""

    classes: Tensor
    """long [B]."""
    seed: int
    first_item: int
    settings: SamplingSettings
    structure: Tensor
    """long [B,S',L]: the structure of the first S' >= 1 stages, followed exactly."""
    tokens: tuple[Tensor, ...]
    """Kept content: the codes [B,2^i] of the first stages, in the order of the labels."""
    structure_noise: Tensor | None
    """float [B,L,K], or None to draw it from the seed."""
    on_evaluation: Callable[[], None] = field(default=lambda: None)

    def noise(self, shape: tuple[int, ...], use: _Use, stage: int, device: torch.device) -> Tensor:
        """Noise [B,*shape] for a use and stage: normal for structure and canvas, Gumbel otherwise."""
        items = []
        for item in range(self.first_item, self.first_item + len(self.classes)):
            generator = _stream(self.seed, item, use, stage)
            normal = use in (_Use.STRUCTURE, _Use.CANVAS)
            items.append(torch.randn(shape, generator=generator) if normal else _gumbel(shape, generator))
        return torch.stack(items).to(device)

    def flow_noise(self, model: NVG) -> Tensor:
        """Where the structure flow of all stages starts: [B,L,K]."""
        if self.structure_noise is not None:
            return self.structure_noise
        return self.noise((model.config.positions, model.config.splits), _Use.STRUCTURE, 0, model.device)


@torch.no_grad()
def run_stages(model: NVG, request: Request) -> Iterator[VisualGranularitySequence]:
    """The stage loop: yields the sequence so far after every stage (paper section 2.3, algorithm of generation).

    Each state is immutable and complete in itself: keep its stages in a new request to go on from it.
    """
    splits = model.config.splits
    positions, channels = model.config.positions, model.config.autoencoder.latent_channels
    device = model.device
    noise = request.flow_noise(model)
    canvas = torch.zeros(len(request.classes), positions, channels, device=device)
    labels = torch.zeros(len(request.classes), positions, dtype=torch.long, device=device)
    structure, tokens, canvases = [], [], []
    for stage in range(splits + 1):
        if stage < request.structure.shape[1]:
            labels = request.structure[:, stage]
        elif stage > 0:
            labels = next_structure(model, request, canvas, labels, noise, stage - 1)
        if stage < len(request.tokens):
            codes = request.tokens[stage]
        else:
            codes = next_codes(model, request, canvas, labels, stage)
        canvas = model.tokenizer.quantizer.add_stage(canvas, codes, labels, stage)
        structure.append(labels)
        tokens.append(hierarchy.place(codes, labels))
        canvases.append(canvas)
        yield VisualGranularitySequence(
            torch.stack(structure, 1), torch.stack(tokens, 1), torch.stack(canvases, 1), model.config.grid
        )


def next_codes(model: NVG, request: Request, canvas: Tensor, labels: Tensor, stage: int) -> Tensor:
    """Draws the code of every cluster of a stage: long [B,2^i]."""
    settings, splits, clusters = request.settings, model.config.splits, 2**stage
    scale = guidance_schedule(settings.content_guidance, splits)[stage]
    request.on_evaluation()
    noise = None
    if model.content.input != "canvas":
        noise = request.noise(tuple(canvas.shape[1:]), _Use.CANVAS, stage, canvas.device)
    if scale == 1:
        _, logits = model.content.predict(canvas, labels, request.classes, stage, noise)
    else:
        null = torch.full_like(request.classes, model.content.num_classes)
        both = torch.cat([request.classes, null])
        twice = None if noise is None else noise.repeat(2, 1, 1)
        _, logits = model.content.predict(canvas.repeat(2, 1, 1), labels.repeat(2, 1), both, stage, twice)
        logits = guide(logits, scale)
    gumbel = None
    if settings.top_k != 1:
        gumbel = request.noise((clusters, logits.shape[-1]), _Use.TOKEN, stage, logits.device)
    return choose_tokens(logits, settings, top_p_schedule(settings.top_p, splits)[stage], gumbel)


def next_structure(model: NVG, request: Request, canvas: Tensor, labels: Tensor, noise: Tensor, stage: int) -> Tensor:
    """Labels [B,L] of stage `stage + 1`, from the canvas after `stage` and the stage's labels.

    The last split orders two positions within each pair: the noise itself serves as the score.
    """
    scores = noise[..., stage]
    if stage < model.config.splits - 1:
        scores = integrate(model, request, canvas, labels, noise, stage)[..., stage]
    gumbel = None
    if request.settings.gumbel:
        gumbel = request.noise((labels.shape[1],), _Use.SPLIT, stage, labels.device)
    return hierarchy.split(labels, scores, gumbel)


def integrate(
    model: NVG,
    request: Request,
    canvas: Tensor,
    labels: Tensor,
    noise: Tensor,
    stage: int,
    grid: Tensor | None = None,
) -> Tensor:
    """End point float32 [B,L,K] of the structure flow of a stage, from `noise` [B,L,K] at t = 1 to t = 0.

    Args:
        grid: times from 1 to 0, float32 [n+1]; those of `time_grid` by default.
    Raises:
        NVGError: a network of average velocities with another solver than euler, or a guidance it does not know.
    """
    settings, flow = request.settings, model.structure
    scale = guidance_schedule(settings.structure_guidance, model.config.splits)[stage]
    if flow.averages:
        _check_average(flow, settings, scale)
    classes = request.classes
    guided = scale != 1 and not flow.averages
    if guided:  # the class and the null class side by side in one batch
        classes = torch.cat([classes, torch.full_like(classes, flow.num_classes)])
    copies = len(classes) // len(labels)
    context = flow.context(
        canvas.repeat(copies, 1, 1), labels.repeat(copies, 1), classes, torch.full_like(classes, stage)
    )
    grid = time_grid(settings.structure_steps, labels.shape[1]) if grid is None else grid
    times = grid.to(canvas.device)[:, None]
    spans = times - torch.cat([times[1:], times[-1:]])
    steps = {t: index for index, t in enumerate(grid.tolist())}
    modulations = flow.modulations(context, times, spans, scale)  # of all time steps at once

    def velocity(z: Tensor, t: float) -> Tensor:
        request.on_evaluation()
        if t in steps:
            own = [layer[steps[t]] for layer in modulations]
        else:
            own = flow.modulations(context, times.new_tensor([t]))
        result = flow.step(z.repeat(copies, 1, 1), context, own)
        return guide(result, scale) if guided else result

    known = known_channels(labels, stage, model.config.splits)[..., :stage]

    def project(z: Tensor) -> Tensor:
        return torch.cat([known, z[..., stage:]], dim=-1) if flow.partial else z

    return SOLVERS[settings.solver](velocity, project(noise.float()), grid.tolist(), project)


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
