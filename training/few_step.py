"""Structure in few steps: `python -m training few-step RECIPE` turns a trained flow into one of average velocities.

The trained flow, the teacher, stays as it is. Its copy, the student, learns u(z, r, t, g): the average over the times
from r to t of the teacher's velocity along its own path, under the guidance scale g. One evaluation then makes a step
of any length, z_r = z_t - (t - r) u, and needs no second pass for the guidance. Three objectives lead there:

- trajectory: the teacher runs from noise to data, and u is regressed on (z_t - z_r) / (t - r) for spans of its path
  (distillation as in Luhman and Luhman 2021, for every span as in flow maps, Boffi et al. 2024);
- meanflow: u = v - (t - r) du/dt, with the derivative along the path by forward-mode differentiation (MeanFlow, Geng et
  al. 2025), and as tangent a velocity without the noise of a single pair (improved MeanFlow, Geng et al. 2025): here
  the teacher's, guidance and all;
- shortcut: u over a span is the mean of u over its halves (shortcut models, Frans et al. 2024), which needs neither.

Shapes: B images, m splits of an image, R rows (one per image and split), P spans of a row, L positions, K splits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import nvg_model
from nvg_model.model import NVG
from nvg_model.sampling import time_grid
from nvg_model.solvers import multistep
from nvg_model.structure_flow import StructureGenerator, known_channels
from training import distributed
from training.data.augmentation import stream
from training.data.cache import fingerprint
from training.distributed import Shard, World
from training.errors import TrainingError
from training.generator import Batch, Source, assemble, generator_folder, optimizers, schedule, trained_generator
from training.logging import describe_run
from training.loop import LoopSettings, Phase, Task, train
from training.precision import with_precision
from training.provenance import provenance, with_few_step
from training.recipes.base import FewStepRecipe, GeneratorRecipe, Recipe
from training.run_folder import Identity, alone_in, open_run, weights_digest
from training.split_agreement import Images, agreement, picture_measure, splits, table, with_steps, write_table

STEEPEST = 16.0
"""Largest time factor with which a network is smooth enough in t to be differentiated by it."""
ERROR_FLOOR = 0.01
"""Of the adaptive weight: errors far below it count as they are."""


def train_few_step(recipe: Recipe, data: Path | str, run: Path) -> Path:
    """Converts, or goes on converting, the structure flow of `run`/generator (or a checkpoint) into `run`/few-step.

    Prints and writes a table of steps and methods at the end.

    Returns:
        The whole model as a checkpoint, `run`/few-step/few-step.safetensors.
    Raises:
        TrainingError: there is no trained generator, or one that gives average velocities already.
    """
    world = distributed.start(recipe.few_step.timeout)
    with alone_in(run / "few-step", world):
        return _train(recipe, data, run, world)


def _train(recipe: Recipe, data: Path | str, run: Path, world: World) -> Path:
    settings, folder = with_precision(recipe.few_step, world), run / "few-step"
    recipe = dataclasses.replace(recipe, few_step=settings)
    path = folder / "few-step.safetensors"
    torch.manual_seed(recipe.seed)  # the initial weights
    teacher = load_teacher(recipe, run).to(world.device)
    student = converted(teacher, settings.largest_guidance).to(world.device)
    student.settings = with_steps(teacher.settings, settings.sampling_steps)
    objective = FewStepObjective(teacher, student, settings)
    like = dataclasses.replace(recipe, config=teacher.config, generator=as_generator(recipe))
    dataset = like.dataset(data, "train", teacher.classes)
    learned = {"teacher": weights_digest(teacher.structure.state_dict()), "tokenizer": fingerprint(teacher.tokenizer)}
    identity = Identity.of(dataset, data, settings.teacher, learned)
    opened = open_run(recipe, "few_step", folder, identity, path, world)
    if opened.finished:
        return path
    describe_run(folder, recipe, world, classes=teacher.classes, data=str(data))
    tokens = folder if settings.teacher else generator_folder(run)  # the cache of another tokenizer is another cache
    source = Source.make(like, teacher, dataset, tokens, world, identity)
    images = Images.generate(teacher, settings.table_images, with_steps(teacher.settings, 25))
    meta = opened.meta(recipe, identity)
    average = train(
        Task(
            [Phase(objective, optimizers(objective, like.generator), schedule(like.generator))],
            lambda step, shard: draw(source.draw(step, shard), step, shard, settings, recipe.seed),
            names=lambda batch: batch.images.names,
            validate=split_error(teacher, student, images),
            best=("smallest", "split_error"),
            meta=meta,
        ),
        LoopSettings.of(settings, recipe.seed),
        folder,
        world,
    )
    if world.first:
        with average.applied():
            nvg_model.save(student, path, with_few_step(teacher.provenance, {"step": settings.steps, "meta": meta}))
            count, margin = settings.frechet_pictures, recipe.views.margin
            measure = picture_measure(teacher, data, count, margin=margin) if count else None
            write_table(table(teacher, student, images, measure), folder)
        print(f"few-step: {path}")
    world.wait()
    return path


def load_teacher(recipe: Recipe, run: Path) -> NVG:
    """The trained model to convert, frozen: the recipe's checkpoint, or the run's generator."""
    if recipe.few_step.teacher:
        return nvg_model.load(recipe.few_step.teacher, dtype=torch.float32)
    teacher, states = trained_generator(recipe, run)
    teacher.settings = recipe.sampling or teacher.settings
    teacher.provenance = provenance(recipe, run, states)
    return teacher.eval().requires_grad_(False)


def converted(teacher: NVG, largest_guidance: float) -> NVG:
    """A copy whose structure generator gives average velocities.

    Until it is trained it gives the teacher's velocity at t, without guidance, whatever the span.

    Raises:
        TrainingError: the teacher has no generator, has been converted before, or is sampled with a larger guidance.
    """
    generator = teacher.config.generator
    if generator is None or generator.flow == "average":
        had = "no generator" if generator is None else "a structure generator of few steps already"
        raise TrainingError(f"the model has {had}; convert a trained generator of many steps")
    usual = teacher.settings.structure_guidance
    if min(usual) < 1 or max(usual) > largest_guidance:
        raise TrainingError(
            f"the model is sampled with structure guidance {usual}, and the converted one knows the scales from 1 to "
            f"{largest_guidance:g}; choose another --largest-guidance"
        )
    generator = dataclasses.replace(generator, flow="average", largest_guidance=largest_guidance)
    student = NVG(dataclasses.replace(teacher.config, generator=generator), teacher.classes, teacher.settings)
    student.load_state_dict(teacher.state_dict(), strict=False)
    for parameter in student.structure.average_mlp[-1].parameters():
        nn.init.zeros_(parameter)
    student.requires_grad_(False).eval()
    student.structure.requires_grad_(True)
    return student


def as_generator(recipe: Recipe) -> GeneratorRecipe:
    """The conversion's settings in the terms of the generator's training, whose data and optimisers it takes."""
    settings = recipe.few_step
    names = ("steps", "batch", "warmup", "structure_stages", "learning_rate", "matrix_learning_rate", "label_dropout")
    return dataclasses.replace(
        recipe.generator,
        **{name: getattr(settings, name) for name in names},
        content_stages=1,
        class_steps=0,
        repa_weight=0.0,
        parallel="ddp",
    )


# ------------------------------------------------------------------------------------------------------- the batch


@dataclass(frozen=True)
class FewStepBatch:
    """A share of a step's images, with all the random choices of the step."""

    images: Batch
    guidance: Tensor
    """float [B,m]: scales from 1 to the largest."""
    spans: Tensor
    """float [B,m,2]: t and r <= t of each row, for meanflow and shortcut."""
    jitter: Tensor
    """float [B,m,n-1] in [0,1): where the inner times of the teacher's run lie between their neighbours."""
    parts: Tensor
    """long [B,m,P,2]: first and last index, in the times of the teacher's run, of the spans that are learned."""


def draw(images: Batch, step: int, shard: Shard, settings: FewStepRecipe, seed: int) -> FewStepBatch:
    """Adds the random choices of a step, drawn for the whole step so that shares fit together."""
    generator = stream(seed, 6, step)
    rows = (settings.batch, images.structure_stages.shape[1])
    guidance = 1 + (settings.largest_guidance - 1) * torch.rand(rows, generator=generator)
    drawn = (
        guidance,
        draw_spans(rows, generator),
        torch.rand(*rows, settings.teacher_steps - 1, generator=generator),
        draw_parts((*rows, settings.spans), settings.teacher_steps, generator),
    )
    return FewStepBatch(images, *(shard.of(one) for one in drawn))


def draw_spans(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """t and r [...,2], two uniform times in order; a quarter each has t = 1, r = 0, and r = t, the flow itself."""
    r, t = torch.rand(2, *shape, generator=generator).sort(dim=0).values
    start, end, same = torch.rand(3, *shape, generator=generator) < 0.25
    t, r = torch.where(start, 1.0, t), torch.where(end, 0.0, r)
    return torch.stack([t, torch.where(same, t, r)], dim=-1)


def draw_parts(shape: tuple[int, ...], steps: int, generator: torch.Generator) -> Tensor:
    """First and last index of spans over n times: long [...,2]. Spans of n, n/2, n/4 ... 1 are equally likely."""
    lengths = torch.tensor([steps >> halvings for halvings in range(steps.bit_length())])
    length = lengths[torch.randint(len(lengths), shape, generator=generator)]
    first = (torch.rand(shape, generator=generator) * (steps - length + 1)).long()
    return torch.stack([first, first + length], dim=-1)


@dataclass(frozen=True)
class Rows:
    """What the network is given beside state and time; each with R in front."""

    canvas: Tensor
    labels: Tensor
    classes: Tensor
    stage: Tensor
    guidance: Tensor
    clean: Tensor
    """float [R,L,K]: the data's embedding, all channels of it."""
    known: Tensor
    """bool [R,1,K]: the channels before the stage; none for a flow that starts from noise in all of them."""

    def at(self, index: Tensor) -> Rows:
        """Some of the rows, perhaps repeated."""
        return Rows(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    def project(self, z: Tensor) -> Tensor:
        """The state [R,L,K] with its known channels clean."""
        return torch.where(self.known, self.clean, z)


# --------------------------------------------------------------------------------------------------- the objective


@dataclass(frozen=True)
class Example:
    """What the student is to give, and where; each with R in front."""

    rows: Rows
    z: Tensor
    t: Tensor
    span: Tensor
    target: Tensor


class FewStepObjective(nn.Module):
    """Regression of the average velocity on what the chosen objective takes it to be."""

    def __init__(self, teacher: NVG, student: NVG, settings: FewStepRecipe) -> None:
        super().__init__()
        self.structure, self.settings = student.structure, settings
        self._frozen = (teacher,)  # in a tuple: no part of what is trained and saved
        if settings.objective == "meanflow" and self.structure.time_factor > STEEPEST:
            raise TrainingError(
                f"meanflow differentiates by the time, which a time_factor of {self.structure.time_factor:g} makes too "
                f"steep (at most {STEEPEST:g}); use --objective trajectory"
            )
        if settings.teacher_steps < 1 or settings.spans < 1:
            raise TrainingError("teacher_steps and spans must be at least 1")
        if settings.compile:
            teacher.structure.transformer.compile()
            if settings.objective != "meanflow":  # forward-mode differentiation does not go through
                self.structure.transformer.compile()

    def forward(self, batch: FewStepBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and values for the log."""
        device = self.structure.class_embedding.weight.device
        with torch.no_grad():
            example = self.example(batch, device)
        with self._precision(device):
            u = student_velocity(self.structure, example.rows, example.z, example.t, example.span)
        rows, squared = example.rows, (u - example.target).square()
        decides = squared.gather(2, rows.stage[:, None, None].expand(-1, squared.shape[1], 1)).mean(dim=(1, 2))
        unknown = (~rows.known).expand_as(squared)
        others = (squared * unknown).sum(dim=(1, 2)) / unknown.sum(dim=(1, 2))
        error = torch.lerp(others, decides, self.settings.split_weight)
        weight = (error.detach() + ERROR_FLOOR) ** -self.settings.adaptive_power
        long = example.span > 0.75
        values = {"error": error.mean(), "split_error": decides.mean()}
        if bool(long.any()):
            values["split_error_of_long_spans"] = decides[long].mean()
        return (weight * error).mean(), values

    def example(self, batch: FewStepBatch, device: torch.device) -> Example:
        """Where the student is asked in this batch, and what it should answer."""
        images = batch.images.to(device)
        teacher = self._frozen[0]
        rows = make_rows(images, teacher, batch.guidance.flatten().to(device))
        noise = rows.project(images.noise.repeat_interleave(images.structure_stages.shape[1], 0))
        if self.settings.objective == "trajectory":
            return self._trajectory(rows, noise, batch.jitter.flatten(0, 1), batch.parts.flatten(0, 1))
        t, r = batch.spans.flatten(0, 1).to(device).unbind(-1)
        z = torch.lerp(rows.clean, noise, t[:, None, None])
        make = self._meanflow if self.settings.objective == "meanflow" else self._shortcut
        return make(rows, z, t, t - r)

    def _trajectory(self, rows: Rows, noise: Tensor, jitter: Tensor, parts: Tensor) -> Example:
        """Spans of the teacher's own path from the noise."""
        grid = torch.tensor(time_grid(self.settings.teacher_steps, noise.shape[1]))
        middles = (grid[1:] + grid[:-1]) / 2
        inner = torch.lerp(middles[1:], middles[:-1], jitter)
        ends = torch.ones(len(inner), 1)
        times = torch.cat([ends, inner, 0 * ends], dim=1).to(noise.device)  # [R,n+1]
        states = torch.stack(teacher_run(self._frozen[0].structure, rows, noise, times, self._precision), dim=1)
        index = torch.arange(len(times), device=noise.device).repeat_interleave(parts.shape[1])
        first, last = parts.flatten(0, 1).to(noise.device).unbind(-1)
        t, span = times[index, first], times[index, first] - times[index, last]
        z = states[index, first]
        return Example(rows.at(index), z, t, span, (z - states[index, last]) / span[:, None, None])

    def _meanflow(self, rows: Rows, z: Tensor, t: Tensor, span: Tensor) -> Example:
        """v - (t - r) du/dt at fixed r: forward-mode derivative along (v, 1, 1) in (z, t, t - r)."""
        with self._precision(z.device):
            v = guided_velocity(self._frozen[0].structure, rows, z, t)

        def u(z: Tensor, t: Tensor, span: Tensor) -> Tensor:
            return student_velocity(self.structure, rows, z, t, span)

        one = torch.ones_like(t)
        with sdpa_kernel(SDPBackend.MATH):  # the others have no forward-mode derivative
            slope: Tensor = torch.func.jvp(u, (z, t, span), (v, one, one))[1]
        return Example(rows, z, t, span, v - span[:, None, None] * slope)

    def _shortcut(self, rows: Rows, z: Tensor, t: Tensor, span: Tensor) -> Example:
        """The mean of the student's own two halves; the teacher's velocity where the span is nothing."""
        half = span / 2
        with self._precision(z.device):
            first = student_velocity(self.structure, rows, z, t, half)
            middle = rows.project(z - half[:, None, None] * first)
            target = (first + student_velocity(self.structure, rows, middle, t - half, half)) / 2
            flow = (span == 0).nonzero().squeeze(1)
            if len(flow):
                v = guided_velocity(self._frozen[0].structure, rows.at(flow), z[flow], t[flow])
                target = target.index_copy(0, flow, v)
        return Example(rows, z, t, span, target)

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.settings.bfloat16)


def make_rows(images: Batch, teacher: NVG, guidance: Tensor) -> Rows:
    """A row for every image and split of a batch."""
    stages, count = assemble(images, teacher.tokenizer), images.structure_stages.shape[1]
    row = torch.arange(len(images.classes), device=guidance.device).repeat_interleave(count)
    stage, splits = images.structure_stages.flatten(), teacher.config.splits
    return Rows(
        canvas=stages.canvases[row, stage],
        labels=stages.structure[row, stage],
        classes=images.classes[row],
        stage=stage,
        guidance=guidance,
        clean=known_channels(stages.structure[:, -1], splits, splits)[row],
        known=(torch.arange(splits, device=stage.device) < stage[:, None, None]) & teacher.structure.partial,
    )


def student_velocity(structure: StructureGenerator, rows: Rows, z: Tensor, t: Tensor, span: Tensor) -> Tensor:
    """u of every row [R,L,K]; zero in the known channels, which do not move."""
    u = structure(z, t, rows.canvas, rows.labels, rows.classes, rows.stage, span, rows.guidance)
    return torch.where(rows.known, 0.0, u)


def guided_velocity(teacher: StructureGenerator, rows: Rows, z: Tensor, t: Tensor) -> Tensor:
    """The trained flow's velocity of every row under its guidance [R,L,K]; zero in the known channels."""
    null = torch.full_like(rows.classes, teacher.num_classes)
    double = [torch.cat([one, one]) for one in (z, t, rows.canvas, rows.labels)]
    both = teacher(*double, torch.cat([rows.classes, null]), torch.cat([rows.stage, rows.stage]))
    conditional, unconditional = both.chunk(2)
    v = torch.lerp(unconditional, conditional, rows.guidance[:, None, None])
    return torch.where(rows.known, 0.0, v)


def teacher_run(
    teacher: StructureGenerator,
    rows: Rows,
    noise: Tensor,
    times: Tensor,
    precision: Callable[[torch.device], torch.autocast],
) -> list[Tensor]:
    """States [R,L,K] of the trained flow at `times` [R,n+1], from the noise on; second order in the step."""
    states = [noise]

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        with precision(z.device):
            return guided_velocity(teacher, rows, z, t.flatten())

    def keep(z: Tensor) -> Tensor:
        states.append(z)
        return z

    multistep(velocity, noise, list(times.mT[:, :, None, None]), keep)
    return states


# ------------------------------------------------------------------------------------------------------ validation


def split_error(teacher: NVG, student: NVG, images: Images) -> Callable[[], dict[str, float]]:
    """Measures the share of positions that 1, 2 and 4 steps put into another child than 25 of the teacher do."""
    wanted: list[Tensor] = []

    def measure() -> dict[str, float]:
        if not wanted:
            wanted.append(splits(teacher, images, with_steps(teacher.settings, 25)))
        errors = {}
        for steps in (1, 2, 4):
            found = agreement(splits(student, images, with_steps(teacher.settings, steps)), wanted[0])
            errors[f"{steps}_step_split_error"] = 1 - sum(found) / len(found)
        return {"split_error": math.fsum(errors.values()) / len(errors), **errors}

    return measure
